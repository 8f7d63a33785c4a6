"""The command line: ``airflow smtp-interface test CONN_ID``, and ``python -m airflow_smtp_interface test CONN_ID``.

Each ``airflow`` command imports this module, so it imports nothing heavy until it is used.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from airflow.cli.cli_config import CLICommand

    from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
    from airflow_smtp_interface.mail.settings import SmtpSettings

_HELP = "Go the whole way to the mail server and say what was found."
_DESCRIPTION = (
    "Connect, start TLS, log in, and offer the server a mail from the interface's From to its To, which is then not "
    "sent. Ends with 0 if the server would have taken it, else with 1."
)
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "conn_id": {"metavar": "CONN_ID", "help": "id of a connection of type smtp_interface"},
    "--send-to": {"metavar": "ADDRESS", "help": "send a real test mail to this address, too"},
}


def get_cli_commands() -> list[CLICommand]:
    """Return the commands that Airflow 3.2 and newer adds to ``airflow``."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    arguments = [Arg(flags=(flag,), **options) for flag, options in _ARGUMENTS.items()]  # type: ignore[no-untyped-call]
    test = ActionCommand(name="test", help=_HELP, description=_DESCRIPTION, func=_run_in_airflow, args=arguments)
    return [GroupCommand(name="smtp-interface", help="Test SMTP interfaces", subcommands=[test])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m airflow_smtp_interface``.

    :param arguments: by default those of the process.
    :return: the exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_smtp_interface", description="Test SMTP interfaces.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("test", help=_HELP, description=_DESCRIPTION)
    for flag, options in _ARGUMENTS.items():
        command.add_argument(flag, **options)
    return _run(parser.parse_args(arguments))


def _run_in_airflow(arguments: argparse.Namespace) -> None:
    sys.exit(_run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from airflow_smtp_interface.mail.errors import MailError

    try:
        return _test(arguments.conn_id, send_to=arguments.send_to)
    except MailError as error:
        print(error, file=sys.stderr)
        return 1


def _test(conn_id: str, *, send_to: str | None) -> int:
    from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
    from airflow_smtp_interface.mail.addresses import parse_addresses
    from airflow_smtp_interface.mail.check import check

    parse_addresses(send_to, field="--send-to")  # raises before anything is tried
    hook = SmtpInterfaceHook(conn_id)
    hook.settings = _settings(conn_id)
    finding = check(hook.settings)
    print(finding.text, file=sys.stdout if finding.works else sys.stderr, flush=True)
    if send_to is not None:
        if not finding.sender_accepted:
            print("No test mail was sent: no sender has been accepted.", file=sys.stderr)
            return 1
        _send(hook, send_to)
    return 0 if finding.works else 1


def _settings(conn_id: str) -> SmtpSettings:
    """Read a connection from wherever Airflow keeps it. Outside a task, a hook does not see Airflow's database."""
    from airflow.models.connection import Connection

    from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
    from airflow_smtp_interface.mail.errors import InvalidSettings, MailError
    from airflow_smtp_interface.mail.settings import SmtpSettings

    try:
        connection = Connection.get_connection_from_secrets(conn_id)
        if (kind := (connection.conn_type or "").replace("-", "_")) != SmtpInterfaceHook.conn_type:
            raise InvalidSettings(f"connection {conn_id!r} is of type {kind!r}, not {SmtpInterfaceHook.conn_type!r}")
        return SmtpSettings.from_connection(connection)
    except MailError:
        raise
    except Exception as error:
        raise InvalidSettings(f"connection {conn_id!r} cannot be read: {str(error) or type(error).__name__}") from error


def _send(hook: SmtpInterfaceHook, address: str) -> None:
    name = hook.smtp_interface_conn_id
    with hook:
        delivery = hook.send_email(
            subject=f"Test of SMTP interface {name!r}",
            body=f"This mail was sent to test the SMTP interface {name!r}: it works.\n",
            recipients=address,
        )
    print(f"Test mail {delivery.message_id} accepted for {', '.join(delivery.accepted)}: {delivery.reply}")

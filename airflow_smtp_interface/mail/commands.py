"""What an envelope says to a server: MAIL, RCPT and DATA (RFC 5321 section 3.3), gathered into writes (RFC 2920)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from airflow_smtp_interface.mail.delivery import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_smtp_interface.mail.message import Envelope

GROUP_RECIPIENTS = 100  # RCPT commands in one write at most: RFC 2920 section 3.1 warns of filling both windows
GROUP_OCTETS = 32_000
RSET = b"RSET\r\n"

Offers = Callable[[str], bool]
"""Whether a server's last EHLO offers an extension, named in lower case."""


class Command(NamedTuple):
    """One line to the server.

    :param stage: what its reply is about.
    :param line: with its CRLF.
    :param recipient: whom RCPT names.
    """

    stage: Stage
    line: bytes
    recipient: str = ""


def mail_from(sender: str, *, utf8: bool, offers: Offers, size: int | None = None) -> str:
    """Return the MAIL command with the parameters that a server offers, without its CRLF.

    :param utf8: whether an address of the envelope is not ASCII (RFC 6531 section 3.4).
    :param size: of the mail, in octets, if it is known (RFC 1870 section 5).
    """
    parameters = f" SIZE={size}" if size is not None and offers("size") else ""
    if utf8 and offers("smtputf8"):
        parameters += " SMTPUTF8" + (" BODY=8BITMIME" if offers("8bitmime") else "")
    return f"MAIL FROM:<{sender}>{parameters}"


def commands(envelope: Envelope, *, size: int, offers: Offers, reset: bool) -> Iterator[Command]:
    """Return everything up to DATA.

    :param reset: whether the server may still be within the envelope of an earlier mail.
    """
    if reset:
        yield Command(Stage.SENDER, RSET)
    mail = mail_from(envelope.sender, utf8=envelope.utf8, offers=offers, size=size)
    yield Command(Stage.SENDER, f"{mail}\r\n".encode())
    for recipient in envelope.recipients:
        yield Command(Stage.RECIPIENT, f"RCPT TO:<{recipient}>\r\n".encode(), recipient)
    yield Command(Stage.DATA, b"DATA\r\n")


def groups(commands: Iterable[Command], *, together: bool) -> list[list[Command]]:
    """Gather the commands that share a write; each alone where they must not."""
    gathered: list[list[Command]] = []
    octets = recipients = 0
    for command in commands:
        octets += len(command.line)
        recipients += bool(command.recipient)
        full = octets > GROUP_OCTETS or recipients > GROUP_RECIPIENTS
        if not gathered or not together or (full and command.recipient):
            gathered.append([])
            octets, recipients = len(command.line), bool(command.recipient)
        gathered[-1].append(command)
    return gathered

"""The command line: the same test as the button's, and one real mail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import airflow
import pytest

from airflow_smtp_interface.cli import main
from airflow_smtp_interface.inbox import Inbox
from tests.peers.fault_server import Fault, FaultServer

Faulty = Callable[..., FaultServer]
ConnectTo = Callable[..., None]
DEFAULT = "smtp_interface_default"
TAKES_COMMANDS = tuple(map(int, airflow.__version__.split(".")[:2])) >= (3, 2)


@pytest.fixture(scope="module")
def stored() -> Iterator[Inbox]:
    """A mail server whose connection is in Airflow's database only."""
    with Inbox() as inbox:
        extra = json.dumps({"security": "none", "from": "me@x.org", "to": "team@x.org"})
        fields = [f"--conn-host={inbox.host}", f"--conn-port={inbox.port}", f"--conn-extra={extra}"]
        added = run("airflow", "connections", "add", "stored", "--conn-type=smtp_interface", *fields)
        assert added.returncode == 0, added.stderr
        yield inbox


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


def found(inbox: Inbox) -> str:
    return (
        f"127.0.0.1:{inbox.port} answers. Not encrypted: anybody on the way can read the mail. No login, because no "
        "User is set. Announces no limit of size. Sender me@x.org accepted. Recipients: team@x.org accepted.\n"
    )


@pytest.mark.skipif(not TAKES_COMMANDS, reason="Airflow 3.1 takes no commands of providers")
def test_airflow_tests_a_connection_of_its_database(stored: Inbox) -> None:
    tested = run("airflow", "smtp-interface", "test", "stored")
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.endswith(found(stored))
    assert not stored.mails


def test_a_real_mail_is_sent_on_request(stored: Inbox) -> None:
    tested = run("airflow_smtp_interface", "test", "stored", "--send-to", "you@x.org")
    mail = stored.mails.pop()
    assert tested.returncode == 0, tested.stderr
    assert found(stored) in tested.stdout
    assert f"Test mail {mail.message['Message-ID']} accepted for you@x.org: 250 2.0.0 OK: mail 1\n" in tested.stdout
    assert (mail.sender, mail.recipients) == ("me@x.org", ("you@x.org",))
    assert mail.message["Subject"] == "Test of SMTP interface 'stored'"


@pytest.mark.skipif(not TAKES_COMMANDS, reason="Airflow 3.1 takes no commands of providers")
def test_airflow_ends_with_1_and_no_traceback(stored: Inbox) -> None:
    tested = run("airflow", "smtp-interface", "test", "stored", "--send-to", "nobody")
    assert (tested.returncode, tested.stderr.strip().splitlines()[-1]) == (
        1,
        "--send-to: 'nobody' is not an address; write alice@example.org or Alice <alice@example.org>",
    )
    assert "Traceback" not in tested.stderr


def test_importing_it_imports_nothing_heavy() -> None:
    program = "import sys, airflow_smtp_interface.cli\nprint({'airflow', 'smtplib', 'ssl', 'email'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_a_connection_that_is_not_there_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "no_such_connection"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "connection 'no_such_connection' cannot be read: The conn_id `no_such_connection` isn't defined"
    )


def test_a_connection_of_another_type_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://host/")
    assert main(["test", "web"]) == 1
    assert capsys.readouterr().err.endswith("connection 'web' is of type 'http', not 'smtp_interface'\n")


def test_what_is_wrong_with_the_fields_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", "smtp-interface://host/?timeout=x")
    assert main(["test", "mail"]) == 1
    assert "connection 'mail' cannot be used:\n- timeout: 'x' is not" in capsys.readouterr().err


def test_what_is_wrong_on_the_way_is_told_on_stderr(faulty: Faulty, capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault(stage="auth", action="535 5.7.8 no")
    login = {"login": "user", "password": "hunter2"}
    server = faulty(fault, auth=("LOGIN",), auth_before_tls=True, extra=login)
    assert main(["test", DEFAULT, "--send-to", "you@x.org"]) == 1
    out, err = capsys.readouterr()
    assert (
        f"connection '{DEFAULT}' (127.0.0.1:{server.port}), logging in: the login was refused (User 'user': 535" in err
    )
    assert err.endswith("No test mail was sent: no sender has been accepted.\n")
    assert "hunter2" not in out + err
    assert server.connections == 1


def test_a_refused_default_to_does_not_prevent_the_test_mail(
    faulty: Faulty, capsys: pytest.CaptureFixture[str]
) -> None:
    server = faulty(Fault(stage="rcpt", address="default@x.org", action="550 5.1.1 no such user"))
    assert main(["test", DEFAULT, "--send-to", "you@x.org"]) == 1
    out, err = capsys.readouterr()
    assert "default@x.org refused (550 5.1.1 no such user)" in err
    assert "accepted for you@x.org: 250 2.0.0 queued as 42" in out
    assert [mail.recipients for mail in server.committed] == [("you@x.org",)]


def test_a_test_mail_that_is_refused_is_an_error(faulty: Faulty, capsys: pytest.CaptureFixture[str]) -> None:
    faulty(Fault(stage="rcpt", address="you@x.org", action="550 5.1.1 no such user"))
    assert main(["test", DEFAULT, "--send-to", "you@x.org"]) == 1
    assert "RCPT TO: the server refused recipients (550 5.1.1 no such user)" in capsys.readouterr().err


def test_the_test_mail_goes_only_where_mail_may_go(faulty: Faulty, capsys: pytest.CaptureFixture[str]) -> None:
    server = faulty(extra={"allowed_recipients": "@x.org"})
    assert main(["test", DEFAULT, "--send-to", "you@y.org"]) == 1
    assert "recipients: you@y.org not among the Allowed recipients" in capsys.readouterr().err
    assert not server.committed


def test_the_test_mail_is_redirected_like_any_other(
    inbox: Inbox, connect_to: ConnectTo, capsys: pytest.CaptureFixture[str]
) -> None:
    connect_to(inbox, redirect_to="stage@x.org")
    assert main(["test", DEFAULT, "--send-to", "you@y.org"]) == 0
    assert "accepted for stage@x.org" in capsys.readouterr().out
    assert [mail.recipients for mail in inbox.mails] == [("stage@x.org",)]


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["test", "--help"])
    assert ended.value.code == 0
    assert "usage: python -m airflow_smtp_interface test [-h] [--send-to ADDRESS] CONN_ID" in capsys.readouterr().out

"""The hook: one connection for many mails, what the interface fills in, and a test that says what it found."""

from __future__ import annotations

import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from aiosmtpd.smtp import AuthResult
from airflow.sdk import ObjectStoragePath

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
from airflow_smtp_interface.inbox import Inbox
from airflow_smtp_interface.mail.errors import (
    InterfaceInactive,
    InvalidEmail,
    OutcomeUnknown,
    PermanentDeliveryError,
    RecipientNotAllowed,
    TransientDeliveryError,
)
from airflow_smtp_interface.mail.message import Email
from tests.peers.fault_server import Fault, FaultServer

Faulty = Callable[..., FaultServer]
ConnectTo = Callable[..., None]


def test_a_mail_goes_to_the_interfaces_to_from_its_from(inbox: Inbox) -> None:
    with SmtpInterfaceHook() as hook:
        delivery = hook.send_email(subject="Hello", body="Hi")
    (mail,) = inbox.mails
    assert (mail.sender, mail.recipients) == ("me@x.org", ("default@x.org",))
    assert (str(mail.message["From"]), mail.message["Subject"]) == ("Sender <me@x.org>", "Hello")
    assert (delivery.accepted, delivery.message_id) == (mail.recipients, mail.message["Message-ID"])
    assert delivery.size == len(mail.content)


def test_every_argument_reaches_the_mail(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_bytes(b"a,b\r\n")
    with SmtpInterfaceHook() as hook:
        hook.send_email(
            subject="Grüße",
            body="<b>Hi</b>",
            is_html=True,
            text="Hi",
            recipients="to@x.org",
            cc=["cc@x.org"],
            bcc="bcc@x.org",
            sender="Other <other@x.org>",
            reply_to="reply@x.org",
            attachments={
                "path.csv": str(tmp_path / "report.csv"),
                "url.csv": f"file://{tmp_path}/report.csv",
                "storage.csv": ObjectStoragePath(f"file://{tmp_path}/report.csv"),
                "bytes.csv": b"a,b\r\n",
            },
            headers={"X-Report": "daily"},
            message_id="<1@x.org>",
        )
    (mail,) = inbox.mails
    message = mail.message
    assert (mail.sender, mail.recipients) == ("other@x.org", ("to@x.org", "cc@x.org", "bcc@x.org"))
    assert message["Bcc"] is None
    assert b"bcc@x.org" not in mail.content
    assert (message["Subject"], message["Reply-To"], message["X-Report"]) == ("Grüße", "reply@x.org", "daily")
    assert message["Message-ID"] == "<1@x.org>"
    attached = {part.get_filename(): part.get_payload(decode=True) for part in message.iter_attachments()}
    assert attached == dict.fromkeys(["path.csv", "url.csv", "storage.csv", "bytes.csv"], b"a,b\r\n")


def test_one_connection_carries_many_mails_and_ends_with_quit(faulty: Faulty) -> None:
    server = faulty()
    with SmtpInterfaceHook() as hook:
        for _ in range(3):
            hook.send_email(subject="s", body="b")
        assert isinstance(hook.get_conn(), smtplib.SMTP)
    server.settle()
    assert (server.connections, len(server.committed), server.commands[-1]) == (1, 3, "QUIT")


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew(faulty: Faulty) -> None:
    server = faulty()
    with SmtpInterfaceHook() as hook:
        hook.send_email(subject="one", body="b")
        server.close_connections()
        time.sleep(0.1)
        hook.send_email(subject="two", body="b")
    assert (server.connections, len(server.committed)) == (2, 2)


def test_a_hook_that_sent_nothing_connects_nowhere(faulty: Faulty) -> None:
    server = faulty()
    with SmtpInterfaceHook():
        pass
    assert server.connections == 0


def test_what_cannot_be_sent_is_found_before_any_connection(faulty: Faulty) -> None:
    server = faulty()
    with SmtpInterfaceHook() as hook, pytest.raises(InvalidEmail, match=r"headers: 'To' cannot be set by hand"):
        hook.send_email(subject="s", body="b", headers={"To": "a@x.org"})
    assert server.connections == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(stage="rcpt", action="550 5.1.1 no"), PermanentDeliveryError),
        (Fault(stage="rcpt", action="450 4.7.1 later"), TransientDeliveryError),
        (Fault(stage="body", action="drop"), OutcomeUnknown),
    ],
)
def test_send_returns_only_if_everybody_was_accepted(faulty: Faulty, fault: Fault, kind: type[Exception]) -> None:
    faulty(fault)
    with SmtpInterfaceHook() as hook, pytest.raises(kind, match=r"connection 'smtp_interface_default' \(127"):
        hook.send_email(subject="s", body="b")


def test_an_interface_that_is_switched_off_sends_nothing(faulty: Faulty) -> None:
    server = faulty(extra={"active": False})
    with SmtpInterfaceHook() as hook:
        for use in (hook.get_conn, lambda: hook.send_email(subject="s", body="b")):
            with pytest.raises(InterfaceInactive, match="'smtp_interface_default' is switched off"):
                use()
        assert hook.test_connection()[0] is False
    assert server.connections == 0


def test_only_allowed_recipients_are_written_to(faulty: Faulty) -> None:
    server = faulty(extra={"allowed_recipients": "@x.org"})
    with SmtpInterfaceHook() as hook:
        with pytest.raises(RecipientNotAllowed, match=r"recipients: eve@evil.org, bcc@evil.org not among"):
            hook.send_email(subject="s", body="b", recipients="a@x.org", cc="eve@evil.org", bcc="bcc@evil.org")
        assert server.connections == 0
        hook.send_email(subject="s", body="b", recipients="a@x.org")
    assert len(server.committed) == 1


def test_redirected_mail_goes_to_the_staging_mailbox_alone(inbox: Inbox, connect_to: ConnectTo) -> None:
    connect_to(inbox, redirect_to="stage@x.org", allowed_recipients="stage@x.org")
    with SmtpInterfaceHook() as hook:
        hook.send_email(subject="s", body="b", recipients="a@y.org", cc="b@y.org", bcc="secret@y.org")
    (mail,) = inbox.mails
    assert (mail.recipients, mail.message["To"], mail.message["Cc"]) == (("stage@x.org",), "stage@x.org", None)
    assert mail.message["X-Original-To"] == "a@y.org, b@y.org"
    assert b"secret" not in mail.content


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def authenticate(server: object, session: object, envelope: object, mechanism: str, data: object) -> AuthResult:
    good = (data.login, data.password) == ("jörg".encode(), "pässwörd".encode())  # type: ignore[attr-defined]
    return AuthResult(success=good, handled=False, auth_data="jörg" if good else None)


@pytest.mark.parametrize("implicit", [False, True])
def test_tls_and_login_on_a_real_server(authority: trustme.CA, connect_to: ConnectTo, implicit: bool) -> None:
    if implicit:
        way: dict[str, object] = {"ssl_context": tls(authority)}
    else:
        way = {"tls_context": tls(authority), "require_starttls": True, "auth_required": True, "auth_require_tls": True}
    with Inbox(authenticator=authenticate, **way) as inbox:  # type: ignore[arg-type]
        extra = {"security": "tls" if implicit else "auto", "ca_certificate": authority.cert_pem.bytes().decode()}
        connect_to(inbox, login="jörg", password="pässwörd", **extra)
        with SmtpInterfaceHook() as hook:
            hook.send_email(subject="s", body="b")
            assert hook.test_connection()[0] is True
        connect_to(inbox, login="jörg", password="wrong", **extra)
        with SmtpInterfaceHook() as hook, pytest.raises(PermanentDeliveryError, match=r"logging in: .*535") as caught:
            hook.send_email(subject="s", body="b")
    (mail,) = inbox.mails
    assert (mail.user, mail.tls) == ("jörg", True)
    assert "wrong" not in str(caught.value)


def test_a_switched_off_verification_warns_in_every_task_log(
    authority: trustme.CA, connect_to: ConnectTo, capsys: pytest.CaptureFixture[str]
) -> None:
    with Inbox(tls_context=tls(trustme.CA())) as inbox:
        connect_to(inbox, security="auto", verify_certificate=False)
        with SmtpInterfaceHook() as hook:
            hook.send_email(subject="s", body="b")
    assert "does not verify the server's certificate" in capsys.readouterr().out


def test_an_inbox_whose_port_is_taken_leaves_nothing_behind(inbox: Inbox) -> None:
    threads = threading.active_count()
    with pytest.raises(OSError, match="in use"), Inbox(port=inbox.port):
        pass
    assert threading.active_count() == threads


def test_the_connection_test_says_what_it_found(faulty: Faulty) -> None:
    server = faulty(auth=("LOGIN",), auth_before_tls=True, extra={"login": "user", "password": "secret"})
    works, text = SmtpInterfaceHook().test_connection()
    assert works
    assert text.startswith(f"127.0.0.1:{server.port} answers. Not encrypted: ")
    assert "Logged in as 'user' by LOGIN." in text
    assert not server.committed


def test_the_connection_test_says_what_is_wrong(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(auth=("PLAIN",), auth_before_tls=True, extra={"login": "user", "password": "hunter2"})
    works, text = SmtpInterfaceHook().test_connection()
    assert not works
    assert "535 5.7.8" in text
    assert "hunter2" not in text
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_INTERFACE_DEFAULT", "smtp-interface://host/?timeout=x")
    assert "timeout: 'x' is not a positive number of seconds" in SmtpInterfaceHook().test_connection()[1]


def test_the_log_sums_up_what_a_hook_has_sent_and_names_nobody(
    faulty: Faulty, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty(Fault(stage="rcpt", address="gone@x.org", action="550 5.1.1 no"))
    with SmtpInterfaceHook() as hook:
        hook.send_email(subject="secret", body="b", recipients="alice@x.org")
        with pytest.raises(PermanentDeliveryError):
            hook.send_email(subject="secret", body="b", recipients="alice@x.org, gone@x.org")
        assert "Mails through" not in capsys.readouterr().out
        list(hook.send_all(emails(3)))
    said = capsys.readouterr().out
    assert said.count("Mails through") == 1
    assert "5; recipients: 5 accepted, 1 refused, 0 deferred, 0 unknown" in said
    assert "alice" not in said
    assert "secret" not in said


def emails(count: int) -> list[Email]:
    return [Email.compose(subject=str(n), body="b", recipients=f"r{n}@x.org") for n in range(count)]


def test_many_mails_go_out_and_their_results_come_in_order(faulty: Faulty) -> None:
    server = faulty(Fault(stage="rcpt", address="r3@x.org", action="550 5.1.1 no"))
    with SmtpInterfaceHook() as hook:
        deliveries = list(hook.send_all(iter(emails(20)), connections=2))
    assert [number for number, delivery in enumerate(deliveries) if not delivery.complete] == [3]
    assert deliveries[0].sender == "me@x.org"
    assert len(server.committed) == 19
    assert server.connections <= 2


def test_many_mails_obey_the_interface(faulty: Faulty) -> None:
    server = faulty(extra={"allowed_recipients": "r0@x.org, r1@x.org"})
    with SmtpInterfaceHook() as hook:
        results = hook.send_all(emails(3), connections=1)
        assert next(results).complete
        assert next(results).complete
        with pytest.raises(RecipientNotAllowed, match=r"r2@x\.org"):
            next(results)
    assert len(server.committed) == 2


def test_many_mails_through_an_interface_that_is_switched_off_are_an_error_at_once(faulty: Faulty) -> None:
    server = faulty(extra={"active": False})
    with SmtpInterfaceHook() as hook, pytest.raises(InterfaceInactive):
        hook.send_all(emails(1))
    assert server.connections == 0

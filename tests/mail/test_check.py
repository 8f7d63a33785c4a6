"""Test Connection: what is found on the way to a server, what each failure is called, and what is never shown."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airflow_smtp_interface.mail import check as check_module
from airflow_smtp_interface.mail.addresses import parse_address, parse_addresses
from airflow_smtp_interface.mail.check import Finding, check
from airflow_smtp_interface.mail.settings import Security, SmtpSettings
from tests.mail.conftest import Certificates, Serve
from tests.peers.fault_server import Fault, FaultServer

SettingsFor = Callable[..., SmtpSettings]
ME = parse_address("Me <me@x.org>", field="from")
CODED = base64.b64encode(b"hunter2").decode()


def to(*addresses: str) -> dict[str, object]:
    return {"sender": ME, "recipients": parse_addresses(addresses, field="to")}


def failed(settings: SmtpSettings) -> str:
    finding = check(settings)
    assert not finding.works, finding
    assert "\n" not in finding.text
    return finding.text


def worked(settings: SmtpSettings) -> str:
    finding = check(settings)
    assert finding.works, finding
    return finding.text


# --- what is found ---------------------------------------------------------------------------------------------------


def test_the_whole_way_is_gone_and_nothing_is_sent(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates
) -> None:
    server = serve(tls=server_context(certificates, days=63.5), auth=("PLAIN", "LOGIN"))
    way = {"security": Security.AUTO, "ca_certificate": certificates.pem, "user": "user", "password": "secret"}
    finding = check(settings_for(server, **way, **to("a@x.org", "b@x.org")))
    assert finding == Finding(
        True,
        f"127.0.0.1:{server.port} answers. Encrypted with TLSv1.3; the certificate ends in 63 days. "
        "Logged in as 'user' by PLAIN. Takes mails of up to 10485760 octets. Sender me@x.org accepted. "
        "Recipients: a@x.org accepted; b@x.org accepted.",
        True,
    )
    server.settle()
    sent = server.commands[-5:]
    assert sent == ["MAIL FROM:<me@x.org>", "RCPT TO:<a@x.org>", "RCPT TO:<b@x.org>", "RSET", "QUIT"]
    assert (server.connections, server.committed) == (1, [])


def test_what_is_not_there_is_said(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(extensions=("SIZE 0",))
    assert worked(settings_for(server)) == (
        f"127.0.0.1:{server.port} answers. Not encrypted: anybody on the way can read the mail. "
        "No login, because no User is set. Announces no limit of size. "
        "No From is set: each mail has to bring its own sender, so no address was tried."
    )
    assert "MAIL" not in " ".join(server.commands)


def test_no_default_to_is_not_an_error(serve: Serve, settings_for: SettingsFor) -> None:
    finding = check(settings_for(serve(), sender=ME))
    assert finding.works
    assert finding.text.endswith(
        "Sender me@x.org accepted. No default To is set: each mail has to bring its own recipients."
    )


def test_a_certificate_that_is_not_verified_is_called_so(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates
) -> None:
    settings = settings_for(serve(tls=certificates.server()), security=Security.AUTO, verify_certificate=False)
    assert "Encrypted with TLSv1.3; the certificate is not verified." in worked(settings)


@pytest.mark.parametrize(("days", "words"), [(0.5, "0 days"), (1.5, "1 day.")])
def test_a_certificate_that_ends_soon_is_counted(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates, days: float, words: str
) -> None:
    server = serve(tls=server_context(certificates, days=days), implicit_tls=True)
    text = worked(settings_for(server, security=Security.TLS, ca_certificate=certificates.pem))
    assert f"the certificate ends in {words}" in text


@pytest.mark.parametrize("limit", ["", "\u00b2", "9" * 5000])
def test_a_limit_that_is_no_number_is_none(serve: Serve, settings_for: SettingsFor, limit: str) -> None:
    assert "Announces no limit of size." in worked(settings_for(serve(extensions=(f"SIZE {limit}",))))


def test_redirected_mail_is_tried_where_it_goes(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    stage = parse_addresses("stage@x.org", field="redirect_to")
    allowed = {"allowed_recipients": ("stage@x.org",)}
    text = worked(settings_for(server, redirect_to=stage, **to("a@y.org"), **allowed))
    assert text.endswith("All mail is redirected to stage@x.org. Recipients: stage@x.org accepted.")
    assert [each for each in server.commands if each.startswith("RCPT")] == ["RCPT TO:<stage@x.org>"]


def test_many_recipients_are_tried_and_some_are_listed(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="rcpt", address="r39@x.org", action="550 5.1.1 no"))
    text = failed(settings_for(server, **to(*(f"r{number}@x.org" for number in range(40)))))
    assert "Recipients: r39@x.org refused (550 5.1.1 no); r0@x.org accepted; r1@x.org" in text
    assert "r18@x.org accepted; 20 more accepted. Check their addresses" in text
    assert "r19" not in text


def test_recipients_that_there_is_no_time_for_are_counted(
    serve: Serve, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "_SECONDS", 2.0)
    server = serve(Fault(stage="rcpt", action="slow"))
    text = worked(settings_for(server, **to(*(f"r{number}@x.org" for number in range(40)))))
    assert re.search(r"r1@x\.org accepted.*; [123]\d without an answer\. This test waits for 10 s in all\.", text)


def test_addresses_beyond_ascii_are_tried_as_they_are_sent(serve: Serve, settings_for: SettingsFor) -> None:
    for extensions, parameters in ((("SMTPUTF8", "8BITMIME"), " SMTPUTF8 BODY=8BITMIME"), (("SMTPUTF8",), " SMTPUTF8")):
        server = serve(extensions=extensions)
        assert "Recipients: jörg@x.org accepted." in worked(settings_for(server, **to("jörg@x.org")))
        assert f"MAIL FROM:<me@x.org>{parameters}" in server.commands


# --- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("530 5.7.0 log in first", "Check From and, if the server wants a login, User and Password."),
        ("451 4.7.1 greylisted", "Trying again later can help."),
    ],
)
def test_a_refused_sender_is_told_in_the_servers_words(
    serve: Serve, settings_for: SettingsFor, reply: str, words: str
) -> None:
    finding = check(settings_for(serve(Fault(stage="mail", action=reply)), **to("a@x.org")))
    assert finding.text.startswith("connection 'test' (127.0.0.1:")
    assert (
        f"MAIL FROM: the server refused the sender (me@x.org: {reply}). {words} Before that: 127.0.0.1:" in finding.text
    )
    assert (finding.works, finding.sender_accepted) == (False, False)


def test_recipients_that_are_not_accepted_are_told_first(serve: Serve, settings_for: SettingsFor) -> None:
    faults = [
        Fault(stage="rcpt", address="b@x.org", action="450 4.2.1 later"),
        Fault(stage="rcpt", address="c@x.org", action="550 5.1.1 no such user"),
    ]
    finding = check(settings_for(serve(*faults), **to("a@x.org", "b@x.org", "c@x.org")))
    assert finding.text.endswith(
        "Recipients: b@x.org deferred (450 4.2.1 later); c@x.org refused (550 5.1.1 no such user); a@x.org accepted. "
        "Check their addresses and, if the server wants a login, User and Password."
    )
    assert (finding.works, finding.sender_accepted) == (False, True)


def test_a_deferred_recipient_is_worth_another_try(serve: Serve, settings_for: SettingsFor) -> None:
    text = failed(settings_for(serve(Fault(stage="rcpt", action="450 4.7.1 greylisted")), **to("a@x.org")))
    assert text.endswith("Recipients: a@x.org deferred (450 4.7.1 greylisted). Trying again later can help.")


def test_recipients_that_are_not_allowed_are_not_tried(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    finding = check(settings_for(server, allowed_recipients=("@y.org",), **to("a@x.org")))
    assert finding.text.startswith("recipients: a@x.org not among the Allowed recipients of connection 'test' (@y.org)")
    assert "Before that: 127.0.0.1:" in finding.text
    assert (finding.works, finding.sender_accepted) == (False, True)
    assert "RCPT" not in " ".join(server.commands)


@pytest.mark.parametrize(
    ("stage", "action", "words"),
    [
        ("mail", "421 4.3.2 bye", "MAIL FROM: the connection was lost (421 4.3.2 bye). Trying again later can help."),
        ("mail", "334 what?", "MAIL FROM: the server gave a reply that does not fit (334 what?). Check that Port is"),
        ("rcpt", "421 4.3.2 bye", "RCPT TO: the connection was lost (421 4.3.2 bye). Trying again later can help."),
        ("rcpt", "drop", "RCPT TO: the connection was lost (the server closed the connection). Trying again later"),
        ("rcpt", "hang", "RCPT TO: the server did not answer in time (no whole reply within 0.7 s). Trying again"),
    ],
)
def test_a_connection_that_is_lost_on_the_way_is_named(
    serve: Serve, settings_for: SettingsFor, stage: str, action: str, words: str
) -> None:
    text = failed(settings_for(serve(Fault(stage=stage, action=action)), timeout=0.7, **to("a@x.org")))
    assert words in text
    assert "Before that: 127.0.0.1:" in text


def test_a_connection_lost_at_the_very_end_does_not_matter(serve: Serve, settings_for: SettingsFor) -> None:
    assert "a@x.org accepted" in worked(settings_for(serve(Fault(stage="rset", action="drop")), **to("a@x.org")))


@pytest.mark.parametrize(("sender", "recipient", "accepted"), [("jörg", "a", False), ("me", "jörg", True)])
def test_a_server_for_ascii_addresses_only_is_named(
    serve: Serve, settings_for: SettingsFor, sender: str, recipient: str, accepted: bool
) -> None:
    me = parse_address(f"{sender}@x.org", field="from")
    finding = check(settings_for(serve(stripped=("SMTPUTF8",)), **{**to(f"{recipient}@x.org"), "sender": me}))
    assert "does not offer SMTPUTF8 (RFC 6531) (jörg@x.org). Use an address whose part" in finding.text
    assert (finding.works, finding.sender_accepted) == (False, accepted)


def test_an_interface_that_is_switched_off_connects_nowhere(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    assert "connection 'test' is switched off (Active)" in failed(settings_for(server, active=False))
    assert server.connections == 0


def test_starttls_that_is_not_offered_is_named(serve: Serve, settings_for: SettingsFor) -> None:
    assert "does not offer STARTTLS" in failed(settings_for(serve(), security=Security.AUTO))


def test_plain_text_spoken_to_a_tls_port_is_named(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates
) -> None:
    server = serve(tls=certificates.server(), implicit_tls=True)
    text = failed(settings_for(server, security=Security.STARTTLS, timeout=1.0))
    assert "Port 465 speaks TLS from the first byte: set Security to tls" in text


def test_tls_spoken_to_a_plain_port_is_named(serve: Serve, settings_for: SettingsFor) -> None:
    text = failed(settings_for(serve(), security=Security.TLS))
    assert "the port does not speak TLS from the first byte" in text
    assert "Set Security to starttls" in text


def test_a_refused_login_names_the_user(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="auth", action="535 5.7.8 bad credentials"), auth=("PLAIN",), auth_before_tls=True)
    text = failed(settings_for(server, user="user", password="hunter2"))
    assert "logging in: the login was refused (User 'user': 535 5.7.8 bad credentials). Check User and" in text


def test_a_login_that_is_not_offered_is_named(serve: Serve, settings_for: SettingsFor) -> None:
    assert "offers no login, but User is set" in failed(settings_for(serve(), user="user", password="hunter2"))
    strange = settings_for(serve(auth=("GSSAPI", "\x1b[31mX"), auth_before_tls=True), user="user", password="hunter2")
    assert r"CRAM-MD5 (it offers GSSAPI \x1b[31MX)" in failed(strange)


def test_a_host_that_is_not_there_is_named(serve: Serve, settings_for: SettingsFor) -> None:
    assert "the host name was not found" in failed(settings_for(serve(), host="no-such-host.invalid"))
    assert "the host name was not found" in failed(settings_for(serve(), host="x" * 70 + ".org"))


def test_a_port_where_nothing_listens_is_named(serve: Serve, settings_for: SettingsFor) -> None:
    assert "nothing listens on that port" in failed(settings_for(serve(listens=False)))


# --- certificates ----------------------------------------------------------------------------------------------------


def server_context(certificates: Certificates, *names: str, days: float = 365) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends = datetime.now(UTC) + timedelta(days=days)
    starts = min(datetime(2000, 1, 1, tzinfo=UTC), ends)
    certificate = certificates.authority.issue_cert(*(names or ("127.0.0.1",)), not_before=starts, not_after=ends)
    certificate.configure_cert(context)
    return context


def test_an_expired_certificate_is_named(serve: Serve, settings_for: SettingsFor, certificates: Certificates) -> None:
    server = serve(tls=server_context(certificates, days=-1))
    text = failed(settings_for(server, security=Security.AUTO, ca_certificate=certificates.pem))
    assert "is not trusted (certificate has expired). Set Host to" in text
    assert "have the certificate renewed" in text


def test_an_untrusted_certificate_is_named(serve: Serve, settings_for: SettingsFor, certificates: Certificates) -> None:
    text = failed(settings_for(serve(tls=certificates.server()), security=Security.AUTO))
    assert "is not trusted (unable to get local issuer certificate). Set Host to" in text


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
@pytest.mark.parametrize(
    ("host", "names", "words"),
    [
        ("127.0.0.1", ["mail.x.org", "*.x.org"], "the certificate is for mail.x.org, *.x.org)"),
        ("localhost", ["192.0.2.1"], "the certificate is for 192.0.2.1)"),
        ("localhost", [f"m{n}.x.org" for n in range(9)], "m3.x.org, m4.x.org and 4 more)"),
        ("localhost", ["me@x.org"], "the certificate names no host)"),
        ("localhost", ["a" * 60 + ".b" * 90 + ".org"], "the certificate is for " + "a" * 60 + ".b" * 70 + ")"),
    ],
)
def test_a_certificate_of_another_host_is_named_with_its_names(
    serve: Serve,
    settings_for: SettingsFor,
    certificates: Certificates,
    security: Security,
    host: str,
    names: list[str],
    words: str,
) -> None:
    server = serve(tls=certificates.server(*names), implicit_tls=security is Security.TLS, auth=("PLAIN",))
    login = {"user": "user", "password": "secret"}
    text = failed(settings_for(server, host=host, security=security, ca_certificate=certificates.pem, **login))
    assert f"mismatch, certificate is not valid for '{host}'; " in text
    assert words in text
    assert "Set Host to a name that the certificate holds" in text
    server.settle()
    assert (server.connections, server.auths) == (2, [])


def test_a_name_in_a_certificate_is_shown_not_obeyed() -> None:
    certificate = {"subjectAltName": (("DNS", "a\x1b[31m\u202eb"),)}
    assert check_module._names(certificate) == "the certificate is for a?[31m?b"


def test_the_names_of_a_server_that_cannot_be_reached_again_are_left_out(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates
) -> None:
    server = serve(Fault(stage="connect", action="421 busy", skip=1), tls=certificates.server("other.example"))
    text = failed(settings_for(server, security=Security.AUTO, ca_certificate=certificates.pem))
    assert "certificate is not valid for '127.0.0.1'). Set Host" in text


def test_names_that_there_is_no_time_to_read_are_said_to_be_missing(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened(monkeypatch, 1.5)
    server = serve(Fault(stage="connect", action="hang", skip=1), tls=certificates.server("other.example"))
    text = failed(settings_for(server, security=Security.AUTO, ca_certificate=certificates.pem, timeout=9.0))
    assert "not valid for '127.0.0.1'; there was no time to read the names in it). Set Host" in text


# --- what is never shown ---------------------------------------------------------------------------------------------


@contextmanager
def speaking(greeting: bytes, answer: bytes = b"", *, tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """A service that is no mail server: says a greeting, and an answer to whatever it is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def serve() -> None:
            while True:
                try:
                    sock = stack.enter_context(listener.accept()[0])
                    if tls:
                        sock.getpeername()
                        sock = stack.enter_context(tls.wrap_socket(sock, server_side=True))
                    sock.sendall(greeting)
                    while answer and sock.recv(4096):
                        sock.sendall(answer)
                    sock.shutdown(socket.SHUT_RDWR) if not answer else None
                except OSError:
                    if listener.fileno() < 0 or ended.is_set():
                        return

        ended = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield FaultServer(port=listener.getsockname()[1])
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


TURNED_AWAY = "It may not take mail from this host; ask its postmaster."
NOT_SHOWN = "What it may have said is not shown, because it has not answered EHLO as a mail server does"


@pytest.mark.parametrize(
    ("greeting", "answer", "words"),
    [
        (
            b"220 geheim FTP\r\n",
            b"500 geheim unknown\r\n",
            f"away (500). {TURNED_AWAY} {NOT_SHOWN}",
        ),
        (b"220 geheim FTP\r\n", b"geheim\r\n", "the server gave a reply that does not fit. Check that Port is one for"),
        (b"220 geheim FTP\r\n", b"421 geheim\r\n", "the server turned the client away (421). Trying again later"),
        (b"554 geheim\r\n", b"", f"away (554). {TURNED_AWAY} {NOT_SHOWN}"),
        (b"SSH-2.0-geheim\r\n", b"", f"a reply that does not fit. Check that Port is one for SMTP. {NOT_SHOWN}"),
        (b"HTTP/1.1 400 geheim\r\n", b"geheim", "the server gave a reply that does not fit"),
        (b"200-geheim\r\n", b"", "the connection was lost. Trying again later can help."),
        (b"gehei", b"", "the connection was lost. Trying again later can help."),
        (b"220", b"", "the connection was lost. Trying again later can help."),
        (b"", b"-ERR geheim\r\n", "the server did not answer in time (no whole reply within 0.75 s). Check Host"),
        (b"geheim " * 3000, b"", "the server gave a reply that does not fit"),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
def test_no_word_of_another_service_is_shown(
    settings_for: SettingsFor, certificates: Certificates, greeting: bytes, answer: bytes, words: str, encrypted: bool
) -> None:
    with speaking(greeting, answer, tls=certificates.server() if encrypted else None) as server:
        way = {"security": Security.TLS if encrypted else Security.NONE, "ca_certificate": certificates.pem}
        text = failed(settings_for(server, timeout=1.0, **way))
    assert words.replace("0.75 s", "1 s" if encrypted else "0.75 s") in text
    assert "gehei" not in text


def test_no_word_of_another_service_is_shown_where_tls_is_spoken_to_it(settings_for: SettingsFor) -> None:
    with speaking(b"220 geheim FTP\r\n", b"500 geheim\r\n") as server:
        text = failed(settings_for(server, security=Security.TLS))
    assert "the port does not speak TLS from the first byte" in text
    assert "geheim" not in text


def test_the_names_in_the_certificate_of_another_service_are_not_shown(
    settings_for: SettingsFor, certificates: Certificates
) -> None:
    with speaking(b"", b"HTTP/1.1 400\r\n", tls=certificates.server("geheim.x.org")) as server:
        text = failed(settings_for(server, security=Security.TLS, ca_certificate=certificates.pem, timeout=0.5))
    assert "certificate is not valid for '127.0.0.1'" in text
    assert "geheim" not in text


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(
    ("stage", "action"),
    [
        ("auth", "535 5.7.8 {echo}"),
        ("auth", "334 {echo}"),
        ("prompt", "535 5.7.8 {echo}"),
        ("mail", "550 5.7.1 {echo}"),
        ("rcpt", "550 5.7.1 {echo}"),
        ("mail", "421 {echo}"),
    ],
)
def test_a_server_that_repeats_the_password_does_not_get_it_into_the_text(
    serve: Serve, settings_for: SettingsFor, mechanism: str, stage: str, action: str
) -> None:
    whole = base64.b64encode(b"\0user\0hunter2").decode()
    fault = Fault(stage=stage, action=action.format(echo=f"hunter2 HUNTER2 {CODED} {CODED.lower()} {whole}"))
    server = serve(fault, auth=(mechanism,), auth_before_tls=True, users={"user": "hunter2"})
    finding = check(settings_for(server, user="user", password="hunter2", **to("a@x.org")))
    if not (mechanism == "PLAIN" and stage == "prompt"):
        assert "***" in finding.text
    assert not re.search(f"hunter2|{re.escape(CODED[:8])}|{re.escape(whole[:12])}", finding.text, re.IGNORECASE)


def test_a_server_that_repeats_the_password_without_a_code_does_not_get_it_into_the_text(
    settings_for: SettingsFor,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock = listener.accept()[0]
            with sock:
                for reply in (b"220 hi", b"250-hi\r\n250 AUTH PLAIN"):
                    sock.sendall(reply + b"\r\n")
                    line = sock.recv(4096)
                sock.sendall(b"?" * 190 + line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        text = failed(settings_for(FaultServer(port=listener.getsockname()[1]), user="user", password="hunter2"))
        thread.join()
    assert "logging in: the server gave a reply that does not fit" in text
    assert "AHVz" not in text


@pytest.mark.parametrize("cut", [slice(0, 16), slice(0, 20), slice(8, 40)])
def test_a_password_that_the_server_repeats_in_part_is_hidden(
    serve: Serve, settings_for: SettingsFor, cut: slice
) -> None:
    offers = {"auth": ("PLAIN",), "auth_before_tls": True}
    sent = base64.b64encode(b"\0user\0hunter22long").decode()
    server = serve(Fault(stage="auth", action=f"535-5.7.8 no: {sent[cut]}\r\n535 {sent[cut.stop :]}"), **offers)
    text = failed(settings_for(server, user="user", password="hunter22long"))
    beginning = len(base64.b64encode(b"\0user\0")) // 4 * 4
    assert sent[beginning : beginning + 8] not in text
    assert sent[-8:] not in text


def test_a_user_that_is_the_password_too_is_hidden(serve: Serve, settings_for: SettingsFor) -> None:
    token = {"user": "one-token", "password": "one-token"}
    offers = {"auth": ("PLAIN",), "auth_before_tls": True, "users": {"one-token": "one-token"}}
    text = worked(settings_for(serve(**offers), **token))
    assert "Logged in as *** by PLAIN." in text
    text = failed(settings_for(serve(Fault(stage="auth", action="535 5.7.8 no"), **offers), **token))
    assert "User ***" in text
    assert "one-token" not in text


# --- 10 s in all -----------------------------------------------------------------------------------------------------


def shortened(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(check_module, "_SECONDS", seconds)


@pytest.mark.parametrize("stage", ["connect", "ehlo", "starttls", "handshake", "auth", "mail", "rcpt", "rset", "quit"])
@pytest.mark.parametrize("action", ["hang", "drip"])
def test_it_ends_in_time_wherever_the_server_is_silent_or_slow(
    serve: Serve,
    settings_for: SettingsFor,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    action: str,
) -> None:
    shortened(monkeypatch, 1.5)
    server = serve(Fault(stage=stage, action=action), tls=certificates.server(), auth=("PLAIN",))
    way = {"security": Security.AUTO, "ca_certificate": certificates.pem, "user": "user", "password": "secret"}
    started = time.monotonic()
    finding = check(settings_for(server, timeout=600.0, **way, **to("a@x.org")))
    assert time.monotonic() - started < 2.5
    assert finding.works is (stage in ("rset", "quit"))
    if not finding.works and (stage, action) != ("handshake", "drip"):
        assert re.search(r"did not answer in time|no time is left|1 without an answer", finding.text)


@pytest.mark.parametrize("slow", ["getaddrinfo", "create_connection"])
def test_what_cannot_be_bounded_is_given_up_and_goes_nowhere(
    serve: Serve, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    shortened(monkeypatch, 1.0)
    server, patience = serve(), threading.Event()
    original = getattr(socket, slow)

    def stuck(*args: object, **options: object) -> object:
        patience.wait(10)
        return original(*args, **options)

    monkeypatch.setattr(socket, slow, stuck)
    started = time.monotonic()
    text = failed(settings_for(server))
    assert 0.9 < time.monotonic() - started < 2
    if slow == "getaddrinfo":
        assert "could not be looked up: no answer from the name server (within 1 s)" in text
    else:
        assert "the server did not answer in time (within 1 s). Check Host and Port" in text
    patience.set()
    for thread in threading.enumerate():
        if thread.name == "smtp-interface-check":
            thread.join(5)
    time.sleep(0.1)
    server.settle()
    assert server.commands == []
    assert server.connections == 0 or slow == "create_connection"


def test_tls_from_the_first_byte_is_not_begun_when_the_time_is_over(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened(monkeypatch, 3.0)
    monkeypatch.setattr(check_module, "_SPARE", 2.0)
    original = socket.create_connection

    def slow(*args: object, **options: object) -> object:
        time.sleep(1.1)
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", slow)
    server = serve(tls=certificates.server(), implicit_tls=True)
    assert "starting TLS: the server did not answer in time (no time is left)" in failed(
        settings_for(server, security=Security.TLS)
    )
    server.settle()
    assert not server.clear


def test_an_error_of_ours_reaches_the_caller(
    serve: Serve, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise ZeroDivisionError

    settings = replace(settings_for(serve()))
    monkeypatch.setattr(socket, "getaddrinfo", broken)
    with pytest.raises(ZeroDivisionError):
        check(settings)

"""Connecting, TLS and login: what works, and what each failure is called."""

from __future__ import annotations

import pickle
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from airflow_smtp_interface.mail import login
from airflow_smtp_interface.mail import session as session_module
from airflow_smtp_interface.mail.errors import (
    DeliveryError,
    PermanentDeliveryError,
    Stage,
    TransientDeliveryError,
)
from airflow_smtp_interface.mail.session import SmtpSession, connect
from airflow_smtp_interface.mail.settings import Security, SmtpSettings
from tests.mail.conftest import Certificates, Serve
from tests.peers.fault_server import Fault, FaultServer

SettingsFor = Callable[..., SmtpSettings]
ALL = ("PLAIN", "LOGIN", "CRAM-MD5")


def failure(settings: SmtpSettings) -> DeliveryError:
    started = time.monotonic()
    with pytest.raises(DeliveryError) as caught:
        connect(settings)
    assert time.monotonic() - started < settings.timeout * settings.connect_attempts + 2
    assert str(caught.value).startswith(f"connection 'test' ({settings.host}:{settings.port}), ")
    return caught.value


def test_a_session_is_an_smtplib_smtp_that_can_be_used_as_one(serve: Serve, settings_for: SettingsFor) -> None:
    with connect(settings_for(serve())) as session:
        assert isinstance(session, smtplib.SMTP)
        assert session.noop() == (250, b"2.0.0 ok")
        assert session.sendmail("me@x.org", ["a@x.org"], "Subject: s\r\n\r\nb") == {}


def test_the_ehlo_name_is_the_literal_of_the_sockets_own_address(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    with connect(settings_for(server)), connect(settings_for(server, local_hostname="client.x.org")):
        assert server.commands == ["ehlo [127.0.0.1]", "ehlo client.x.org"]


def test_the_ehlo_name_of_an_ipv6_client_is_its_literal(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(host="::1")
    with connect(settings_for(server)):
        assert server.commands == ["ehlo [IPv6:::1]"]


def test_an_old_server_is_greeted_with_helo(serve: Serve, settings_for: SettingsFor) -> None:
    with connect(settings_for(serve(Fault(stage="ehlo", action="502 what?")))) as session:
        assert not session.does_esmtp


@pytest.mark.parametrize("security", [Security.AUTO, Security.STARTTLS, Security.TLS])
def test_the_way_is_encrypted_before_the_password_is_sent(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates, security: Security
) -> None:
    server = serve(tls=certificates.server(), implicit_tls=security is Security.TLS, auth=ALL)
    settings = settings_for(server, security=security, ca_certificate=certificates.pem, user="user", password="secret")
    with connect(settings) as session:
        assert (session.mechanism, session.is_encrypted) == ("PLAIN", True)
        assert isinstance(session.sock, ssl.SSLSocket)
        assert session.sock.version() in ("TLSv1.2", "TLSv1.3")
    assert [(auth.user, auth.password, auth.tls) for auth in server.auths] == [("user", "secret", True)]
    assert b"AUTH" not in server.clear


@pytest.mark.parametrize(
    ("offered", "used"),
    [(ALL, "CRAM-MD5"), (("PLAIN", "LOGIN"), "LOGIN"), (("PLAIN",), "PLAIN"), (("LOGIN",), "LOGIN")],
)
def test_over_loopback_in_clear_the_mechanism_that_shows_least_is_used(
    serve: Serve, settings_for: SettingsFor, offered: tuple[str, ...], used: str
) -> None:
    server = serve(auth=offered, auth_before_tls=True, users={"jörg": "pässwörd ☃"})
    with connect(settings_for(server, user="jörg", password="pässwörd ☃")) as session:
        assert session.mechanism == used
        assert not isinstance(session.sock, ssl.SSLSocket)


def test_prompts_that_are_no_base64_do_not_disturb_login(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="prompt", action="334 x"), auth=("LOGIN",), auth_before_tls=True)
    with connect(settings_for(server, user="user", password="secret")):
        assert len(server.auths) == 1


@pytest.mark.parametrize(("stage", "reply"), [("prompt", "535 5.7.8 not you"), ("auth", "334 more?")])
def test_an_exchange_that_ends_otherwise_is_a_refused_login(
    serve: Serve, settings_for: SettingsFor, stage: str, reply: str
) -> None:
    server = serve(Fault(stage=stage, action=reply), auth=("LOGIN",), auth_before_tls=True)
    error = failure(settings_for(server, user="user", password="secret"))
    assert (error.stage, str(error.reply)) == (Stage.AUTH, reply)


@pytest.mark.parametrize("reply", ["535 5.7.8 no", "534 5.7.9 app password wanted", "530 5.7.0 no"])
def test_a_refused_login_is_final_and_tried_once(serve: Serve, settings_for: SettingsFor, reply: str) -> None:
    server = serve(Fault(stage="auth", action=reply), auth=ALL, auth_before_tls=True)
    error = failure(settings_for(server, user="user", password="secret", connect_attempts=3))
    assert isinstance(error, PermanentDeliveryError)
    assert (error.stage, str(error.reply)) == (Stage.AUTH, reply)
    assert reply in str(error)
    assert "Check User and Password" in str(error)
    assert len(server.auths) == 1


def test_a_server_that_repeats_the_password_does_not_get_it_into_the_error(
    serve: Serve, settings_for: SettingsFor
) -> None:
    error = failure(settings_for(serve(auth=("LOGIN",), auth_before_tls=True), user="user", password="hunter2"))
    assert "no such login ***" in str(error)
    assert "hunter2" not in str(error)


def test_a_login_that_is_busy_is_tried_again(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="auth", action="454 4.7.0 later", times=1), auth=ALL, auth_before_tls=True)
    with connect(settings_for(server, user="user", password="secret", connect_attempts=2)):
        assert len(server.auths) == server.connections == 2


def test_a_login_that_is_not_offered_is_an_error(serve: Serve, settings_for: SettingsFor) -> None:
    error = failure(settings_for(serve(), user="user", password="secret"))
    assert isinstance(error, PermanentDeliveryError)
    assert "offers no login, but User is set" in str(error)


def test_unknown_mechanisms_are_named(serve: Serve, settings_for: SettingsFor) -> None:
    error = failure(settings_for(serve(auth=("GSSAPI",), auth_before_tls=True), user="user", password="secret"))
    assert isinstance(error, PermanentDeliveryError)
    assert "it offers GSSAPI" in str(error)


def test_the_password_does_not_cross_a_network_in_clear(
    serve: Serve, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(auth=ALL, auth_before_tls=True)
    monkeypatch.setattr(login, "_is_loopback", lambda sock: False)  # this machine has no other network
    error = failure(settings_for(server, user="user", password="secret"))
    assert isinstance(error, PermanentDeliveryError)
    assert "the password was not sent" in str(error)
    assert not server.auths
    with connect(settings_for(server, user="user", password="secret", cleartext_login=True)):
        assert len(server.auths) == 1


@pytest.mark.parametrize(
    ("plan", "kind", "words"),
    [
        (Fault(stage="connect", action="554 5.3.2 no mail here"), PermanentDeliveryError, "554 5.3.2 no mail here"),
        (Fault(stage="connect", action="421 4.3.2 busy"), TransientDeliveryError, "421 4.3.2 busy"),
        (Fault(stage="connect", action="drop"), TransientDeliveryError, "closed the connection"),
        (Fault(stage="connect", action="reset"), TransientDeliveryError, "reset by peer"),
        (Fault(stage="connect", action="garbage"), TransientDeliveryError, "garbage"),
        (Fault(stage="ehlo", action="421 4.3.2 bye"), TransientDeliveryError, "421 4.3.2 bye"),
        (Fault(stage="ehlo", action="250 ok", times=0), None, ""),
    ],
)
def test_a_server_that_turns_us_away_is_quoted(
    serve: Serve, settings_for: SettingsFor, plan: Fault, kind: type[DeliveryError] | None, words: str
) -> None:
    settings = settings_for(serve(plan))
    if kind is None:
        connect(settings).leave()
        return
    error = failure(settings)
    assert isinstance(error, kind)
    assert error.stage is Stage.CONNECT
    assert words in str(error)


def test_a_silent_server_times_out(serve: Serve, settings_for: SettingsFor) -> None:
    error = failure(settings_for(serve(Fault(stage="connect", action="hang")), timeout=0.4))
    assert isinstance(error, TransientDeliveryError)
    assert "did not answer in time" in str(error)
    assert "set Security to tls" in str(error)


def test_plain_text_spoken_to_a_tls_port_is_diagnosed(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates
) -> None:
    server = serve(tls=certificates.server(), implicit_tls=True)
    error = failure(settings_for(server, security=Security.STARTTLS, timeout=1))
    assert isinstance(error, PermanentDeliveryError)
    assert "the port speaks TLS from the first byte" in str(error)
    assert "set Security to tls" in str(error)


def test_tls_spoken_to_a_plain_port_is_diagnosed(serve: Serve, settings_for: SettingsFor) -> None:
    error = failure(settings_for(serve(), security=Security.TLS))
    assert isinstance(error, PermanentDeliveryError)
    assert (error.stage, "does not speak TLS from the first byte" in str(error)) == (Stage.TLS, True)
    assert "Set Security to starttls" in str(error)


def test_starttls_that_is_not_offered_is_an_error(serve: Serve, settings_for: SettingsFor) -> None:
    error = failure(settings_for(serve(), security=Security.AUTO))
    assert isinstance(error, PermanentDeliveryError)
    assert (error.stage, "does not offer STARTTLS" in str(error)) == (Stage.TLS, True)


@pytest.mark.parametrize(
    ("plan", "kind", "words"),
    [
        (Fault(stage="starttls", action="454 4.7.0 no TLS now"), TransientDeliveryError, "454 4.7.0 no TLS now"),
        (Fault(stage="starttls", action="501 5.5.4 no"), PermanentDeliveryError, "501 5.5.4 no"),
        (Fault(stage="starttls", action="inject"), PermanentDeliveryError, "may be tampering"),
        (Fault(stage="handshake", action="drop"), TransientDeliveryError, "handshake was broken off"),
        (Fault(stage="handshake", action="reset"), TransientDeliveryError, "handshake was broken off"),
        (Fault(stage="handshake", action="454 no"), PermanentDeliveryError, "may be tampering"),
        (Fault(stage="handshake", action="hang"), TransientDeliveryError, "did not answer in time"),
        (Fault(stage="handshake", action="drip"), TransientDeliveryError, ""),
    ],
)
def test_a_broken_starttls_is_named(
    serve: Serve,
    settings_for: SettingsFor,
    certificates: Certificates,
    plan: Fault,
    kind: type[DeliveryError],
    words: str,
) -> None:
    server = serve(plan, tls=certificates.server())
    error = failure(settings_for(server, security=Security.AUTO, ca_certificate=certificates.pem, timeout=0.6))
    assert (type(error), error.stage) == (kind, Stage.TLS)
    assert words in str(error)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_certificate_that_is_not_trusted_or_not_the_hosts_is_named(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates, trusted: bool
) -> None:
    server = serve(tls=certificates.server("other.example" if trusted else "127.0.0.1"))
    error = failure(settings_for(server, security=Security.AUTO, ca_certificate=certificates.pem if trusted else None))
    assert isinstance(error, PermanentDeliveryError)
    assert error.stage is Stage.TLS
    assert ("IP address mismatch" if trusted else "unable to get local issuer certificate") in str(error)
    assert "Set Host to a name that the certificate holds" in str(error)


def test_verification_can_be_switched_off(serve: Serve, settings_for: SettingsFor, certificates: Certificates) -> None:
    server = serve(tls=certificates.server("other.example"))
    with connect(settings_for(server, security=Security.AUTO, verify_certificate=False)) as session:
        assert session.is_encrypted


def test_a_server_of_tls_1_1_only_is_named(serve: Serve, settings_for: SettingsFor, certificates: Certificates) -> None:
    context = certificates.server()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    error = failure(settings_for(serve(tls=context), security=Security.AUTO, ca_certificate=certificates.pem))
    assert isinstance(error, PermanentDeliveryError)
    assert "no TLS version or cipher in common" in str(error)


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ("no-such-host.invalid", PermanentDeliveryError, "host name was not found"),
        ("x" * 70 + ".org", PermanentDeliveryError, "host name was not found"),
    ],
)
def test_a_host_that_is_not_found_is_permanent(
    serve: Serve, settings_for: SettingsFor, host: str, kind: type[DeliveryError], words: str
) -> None:
    error = failure(settings_for(serve(), host=host))
    assert isinstance(error, kind)
    assert words in str(error)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "try again"), TransientDeliveryError, "no answer from the name server"),
        (OSError(113, "No route to host"), TransientDeliveryError, "cannot be reached (.*No route to host"),
        (TimeoutError("timed out"), TransientDeliveryError, "did not answer in time"),
    ],
)
def test_what_this_machines_network_cannot_show_is_named_too(
    serve: Serve,
    settings_for: SettingsFor,
    monkeypatch: pytest.MonkeyPatch,
    raised: OSError,
    kind: type[DeliveryError],
    words: str,
) -> None:
    def create_connection(*_: object) -> socket.socket:
        raise raised

    monkeypatch.setattr(socket, "create_connection", create_connection)
    error = failure(settings_for(serve()))
    assert isinstance(error, kind)
    assert words.split("(")[0] in str(error)


def test_a_refused_connection_is_tried_again_and_the_first_failure_is_told(
    serve: Serve, settings_for: SettingsFor
) -> None:
    server = serve(Fault(stage="connect", action="421 4.3.2 first", times=1), Fault(stage="connect", action="drop"))
    error = failure(settings_for(server, connect_attempts=3))
    assert "421 4.3.2 first" in str(error)
    assert error.__notes__ == ["tried 3 times; this is the first failure"]
    assert server.connections == 3


def test_nothing_listening_is_a_refused_connection(serve: Serve, settings_for: SettingsFor) -> None:
    error = failure(settings_for(serve(listens=False)))
    assert isinstance(error, TransientDeliveryError)
    assert "nothing listens on that port" in str(error)


def test_a_permanent_failure_ends_the_attempts(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="connect", action="drop", times=1), Fault(stage="connect", action="554 no"))
    assert isinstance(failure(settings_for(server, connect_attempts=5)), PermanentDeliveryError)
    assert server.connections == 2


def test_a_session_is_usable_until_the_server_hangs_up(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    session = connect(settings_for(server))
    assert session.is_usable()
    server.close_connections()
    time.sleep(0.1)
    assert not session.is_usable()
    session.leave()
    assert not session.is_usable()
    session.leave()


@pytest.mark.parametrize(("answer", "usable"), [("250 ok", True), ("421 bye", False), ("drop", False)])
def test_after_a_long_pause_the_server_is_asked(
    serve: Serve, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, answer: str, usable: bool
) -> None:
    monkeypatch.setattr(session_module, "_IDLE_BEFORE_PROBE", 0.0)
    session = connect(settings_for(serve(Fault(stage="noop", action=answer))))
    assert session.is_usable() is usable
    session.leave()


@pytest.mark.parametrize("action", ["421 bye", "550 no", "drop", "reset", "hang", "garbage"])
def test_quit_never_fails(serve: Serve, settings_for: SettingsFor, action: str) -> None:
    started = time.monotonic()
    with connect(settings_for(serve(Fault(stage="quit", action=action)))):
        pass
    assert time.monotonic() - started < 1


def test_a_closed_session_says_so(serve: Serve, settings_for: SettingsFor) -> None:
    session = connect(settings_for(serve()))
    session.leave()
    for use in (session.noop, session.getreply, session.read_reply):
        with pytest.raises(smtplib.SMTPServerDisconnected, match="the connection is closed"):
            use()


def send_for_a_while(session: SmtpSession) -> None:
    for _ in range(20):
        session.send(b"NOOP\r\n")
        time.sleep(0.01)


def test_what_the_server_said_before_it_hung_up_is_kept(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    session = connect(settings_for(server, timeout=0.5))
    for sock in server._open:
        sock.sendall(b"421 4.4.2 idle too long\r\n")
    server.close_connections()
    with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
        send_for_a_while(session)
    assert str(caught.value.reply) == "421 4.4.2 idle too long"  # type: ignore[attr-defined]


def test_a_server_that_hangs_up_without_a_word_is_lost(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    session = connect(settings_for(server))
    server.close_connections()
    with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
        send_for_a_while(session)
    assert caught.value.reply is None  # type: ignore[attr-defined]


def test_a_server_that_stops_reading_is_a_time_out(serve: Serve, settings_for: SettingsFor) -> None:
    session = connect(settings_for(serve(Fault(stage="noop", action="hang")), timeout=0.5))
    with pytest.raises(smtplib.SMTPServerDisconnected, match="stopped reading"):
        session.send(b"NOOP\r\n" + b"x" * 50_000_000)


def test_a_server_that_reads_slowly_but_steadily_is_no_time_out(serve: Serve, settings_for: SettingsFor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        server = FaultServer()
        server.port = listener.getsockname()[1]
        read = 0

        def converse() -> None:
            nonlocal read
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"220 hi\r\n")
                peer.recv(1000)
                peer.sendall(b"250 hi\r\n")
                while octets := peer.recv(65_536):
                    read += len(octets)
                    time.sleep(0.005)

        thread = threading.Thread(target=converse)
        thread.start()
        session = connect(settings_for(server, timeout=0.5))
        session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        started = time.monotonic()
        session.send(bytes(12_000_000))
        assert time.monotonic() - started > 0.5, "the whole takes longer than any piece may"
        session.close()
        thread.join()
        assert read == 12_000_000


def test_leaving_a_server_that_has_stopped_reading_takes_no_time(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="noop", action="hang"))
    session = connect(settings_for(server, timeout=5))
    session.putcmd("NOOP")
    session.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        session.sock.sendall(bytes(20_000_000))
    started = time.monotonic()
    session.leave()
    assert time.monotonic() - started < 3
    assert session.sock is None


def test_smtplibs_own_way_of_starting_tls_and_of_connecting_works(
    serve: Serve, settings_for: SettingsFor, certificates: Certificates
) -> None:
    server = serve(tls=certificates.server())
    session = connect(settings_for(server, ca_certificate=certificates.pem))
    session.starttls()
    session.ehlo()
    assert session.is_encrypted
    session.quit()
    assert session.connect(server.host, server.port)[0] == 220
    assert session.ehlo()[0] == 250
    session.leave()


def test_an_error_survives_pickling() -> None:
    error = TransientDeliveryError("text", stage=Stage.AUTH)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), copied.stage) == (TransientDeliveryError, "text", Stage.AUTH)

"""One mail over one session: what every answer of the server means for every recipient."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Reply, Stage
from airflow_smtp_interface.mail.errors import (
    AddressNotSupported,
    DeliveryError,
    InvalidAddress,
    OutcomeUnknown,
    PermanentDeliveryError,
    TransientDeliveryError,
    incomplete_error,
)
from airflow_smtp_interface.mail.message import Envelope
from airflow_smtp_interface.mail.session import SmtpSession, connect
from airflow_smtp_interface.mail.settings import SmtpSettings
from airflow_smtp_interface.mail.transaction import deliver
from tests.mail.conftest import Serve
from tests.peers.fault_server import Fault, FaultServer

SettingsFor = Callable[..., SmtpSettings]
ENVELOPE = Envelope(sender="me@x.org", recipients=("a@x.org", "b@x.org", "c@x.org"))
CONTENT = [b"Subject: s\r\n\r\n", b"one\r\n.two\r\n", b".\r\nend\r\n"]
SIZE = sum(map(len, CONTENT))


def send(session: SmtpSession, content: object = CONTENT, envelope: Envelope = ENVELOPE, **more: object) -> Delivery:
    return deliver(session, envelope, content, size=SIZE, message_id="<1@x.org>", **more)  # type: ignore[arg-type]


def error_of(delivery: Delivery) -> DeliveryError:
    error = incomplete_error(delivery, where="test")
    assert error is not None
    assert error.delivery is delivery
    return error


@pytest.fixture
def open_session(serve: Serve, settings_for: SettingsFor) -> Iterator[Callable[..., tuple[FaultServer, SmtpSession]]]:
    """Start a server with faults and connect to it."""
    sessions = []

    def start(*plan: Fault, timeout: float = 0.6, **options: object) -> tuple[FaultServer, SmtpSession]:
        server = serve(*plan, **options)
        sessions.append(connect(settings_for(server, timeout=timeout, data_timeout=timeout)))
        return server, sessions[-1]

    yield start
    for session in sessions:
        session.leave()


Open = Callable[..., tuple[FaultServer, SmtpSession]]


def test_an_accepted_mail_arrives_byte_for_byte(open_session: Open) -> None:
    server, session = open_session()
    delivery = send(session)
    assert delivery.complete
    assert incomplete_error(delivery, where="test") is None
    assert delivery.accepted == ENVELOPE.recipients
    assert (delivery.reply, delivery.size) == (Reply(250, "2.0.0 queued as 42"), SIZE)
    assert delivery.reply
    assert delivery.reply.enhanced_status == "2.0.0"
    (mail,) = server.committed
    assert (mail.sender, mail.recipients, mail.content) == ("me@x.org", ENVELOPE.recipients, b"".join(CONTENT))
    assert f"MAIL FROM:<me@x.org> SIZE={SIZE}" in server.commands


def test_many_mails_go_over_one_session(open_session: Open) -> None:
    server, session = open_session(Fault(stage="rcpt", action="550 5.1.1 no", times=3))
    assert not send(session).accepted
    assert send(session).complete
    assert send(session).complete
    assert (server.connections, len(server.committed)) == (1, 2)


def test_the_others_get_the_mail_when_one_is_refused_and_one_deferred(open_session: Open) -> None:
    server, session = open_session(
        Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no such user"),
        Fault(stage="rcpt", address="c@x.org", action="450 4.7.1 greylisted"),
    )
    delivery = send(session)
    assert delivery.as_dict() == {
        "message_id": "<1@x.org>",
        "sender": "me@x.org",
        "accepted": ["a@x.org"],
        "refused": {"b@x.org": "550 5.1.1 no such user"},
        "deferred": {"c@x.org": "450 4.7.1 greylisted"},
        "unknown": {},
        "reply": "250 2.0.0 queued as 42",
        "size": SIZE,
    }
    assert server.committed[0].recipients == ("a@x.org",)
    error = error_of(delivery)
    assert isinstance(error, TransientDeliveryError)
    for words in ("c@x.org (450 4.7.1 greylisted)", "b@x.org (550 5.1.1 no such user)", "Accepted: a@x.org."):
        assert words in str(error)


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("mail", Stage.SENDER),
        ("rcpt", Stage.RECIPIENT),
        ("data", Stage.DATA),
        ("body", Stage.ACCEPTANCE),
    ],
)
@pytest.mark.parametrize(
    ("reply", "kind"),
    [("550 5.7.1 never", PermanentDeliveryError), ("451 4.3.0 later", TransientDeliveryError)],
)
def test_a_refusal_at_any_stage_is_told_with_the_servers_words(
    open_session: Open, fault: str, stage: Stage, reply: str, kind: type[DeliveryError]
) -> None:
    server, session = open_session(Fault(stage=fault, action=reply))
    delivery = send(session)
    error = error_of(delivery)
    assert (type(error), error.stage, str(error.reply)) == (kind, stage, reply)
    assert "Accepted: nobody." in str(error)
    failed = delivery.refused if kind is PermanentDeliveryError else delivery.deferred
    assert {address: str(failure) for address, failure in failed.items()} == dict.fromkeys(ENVELOPE.recipients, reply)
    assert not server.committed
    server.plan.clear()
    assert send(session).complete, "the session can be used again"
    assert server.connections == 1


@pytest.mark.parametrize("fault", ["mail", "rcpt", "data", "body"])
def test_421_ends_the_session_and_is_transient(open_session: Open, fault: str) -> None:
    server, session = open_session(Fault(stage=fault, action="421 4.3.2 going down"))
    error = error_of(send(session))
    assert isinstance(error, TransientDeliveryError)
    assert "421 4.3.2 going down" in str(error)
    assert session.sock is None
    assert not server.committed


def test_421_in_the_middle_leaves_those_refused_before_refused(open_session: Open) -> None:
    _, session = open_session(
        Fault(stage="rcpt", address="a@x.org", action="550 5.1.1 no"),
        Fault(stage="rcpt", address="c@x.org", action="421 4.3.2 bye"),
    )
    delivery = send(session)
    assert (list(delivery.refused), list(delivery.deferred)) == (["a@x.org"], ["b@x.org", "c@x.org"])


@pytest.mark.parametrize("fault", ["mail", "rcpt", "data", "content"])
@pytest.mark.parametrize("action", ["drop", "reset", "hang", "drip", "garbage", "no-code", "long-line"])
def test_a_connection_lost_before_the_final_dot_means_that_nobody_got_it(
    open_session: Open, fault: str, action: str
) -> None:
    server, session = open_session(Fault(stage=fault, action=action))
    started = time.monotonic()
    big = [b"x" * 998 + b"\r\n"] * 10_000
    error = error_of(send(session, content=big))
    assert time.monotonic() - started < 1.5
    assert isinstance(error, TransientDeliveryError)
    assert error.delivery
    assert set(error.delivery.deferred) == set(ENVELOPE.recipients)
    assert session.sock is None
    assert not server.committed


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("action", ["drop", "reset", "hang", "drip", "garbage", "354 go on", "no-code"])
def test_a_lost_answer_to_the_final_dot_is_unknown_never_guessed(open_session: Open, action: str, commit: bool) -> None:
    _, session = open_session(Fault(stage="body", action=action, commit=commit))
    delivery = send(session)
    assert list(delivery.unknown) == list(ENVELOPE.recipients)
    error = error_of(delivery)
    assert isinstance(error, OutcomeUnknown)
    assert "may have been delivered" in str(error)
    assert "<1@x.org>" in str(error)
    assert session.sock is None


def test_those_refused_are_not_in_doubt_when_the_answer_is_lost(open_session: Open) -> None:
    _, session = open_session(
        Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no"), Fault(stage="body", action="drop")
    )
    delivery = send(session)
    assert (list(delivery.unknown), list(delivery.refused)) == (["a@x.org", "c@x.org"], ["b@x.org"])


@pytest.mark.parametrize("fault", ["connect", "ehlo", "mail", "rcpt", "data", "body", "quit"])
@pytest.mark.parametrize("action", ["slow", "pieces", "40-lines", "bare-lf"])
def test_odd_but_complete_replies_just_work(open_session: Open, fault: str, action: str) -> None:
    server, session = open_session(Fault(stage=fault, action=action, times=1), timeout=2)
    assert send(session).complete
    assert len(server.committed) == 1


@pytest.mark.parametrize(("fault", "reply"), [("mail", "354 go"), ("rcpt", "354 go"), ("data", "250 ok")])
def test_a_reply_that_does_not_fit_closes_the_session(open_session: Open, fault: str, reply: str) -> None:
    _, session = open_session(Fault(stage=fault, action=reply))
    error = error_of(send(session))
    assert isinstance(error, TransientDeliveryError)
    assert reply in str(error)
    assert session.sock is None


def test_a_server_that_breaks_off_within_the_content_is_quoted(open_session: Open) -> None:
    _, session = open_session(Fault(stage="content", action="552 5.3.4 too much of it"))

    def slowly() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 998 + b"\r\n"
            time.sleep(0.01)

    error = error_of(send(session, content=slowly()))
    assert isinstance(error, PermanentDeliveryError)
    assert (error.stage, str(error.reply)) == (Stage.CONTENT, "552 5.3.4 too much of it")


def test_last_words_before_a_hang_up_within_the_content_are_quoted(open_session: Open) -> None:
    server, session = open_session(Fault(stage="content", action="421 4.4.2 out of space"), timeout=3)
    error = error_of(send(session, content=[b"x" * 998 + b"\r\n"] * 50_000))
    assert isinstance(error, TransientDeliveryError)
    assert "421 4.4.2 out of space" in str(error)
    assert not server.committed


def test_last_words_are_quoted_when_the_content_no_longer_goes_out(open_session: Open) -> None:
    _, session = open_session(Fault(stage="midway", action="421 4.4.2 out of space"), timeout=3)
    error = error_of(send(session, content=[(b"x" * 998 + b"\r\n") * 50_000]))
    assert (error.stage, str(error.reply)) == (Stage.CONTENT, "421 4.4.2 out of space")


def test_content_that_cannot_be_read_gives_the_mail_up_before_the_final_dot(open_session: Open) -> None:
    server, session = open_session()

    def shrinking() -> Iterator[bytes]:
        yield b"Subject: s\r\n\r\n"
        raise OSError("'report.csv' has become shorter")

    error = error_of(send(session, content=shrinking()))
    assert isinstance(error, TransientDeliveryError)
    assert (error.stage, "has become shorter" in str(error)) == (Stage.CONTENT, True)
    assert session.sock is None
    assert not server.committed


def test_before_end_is_called_once_between_content_and_final_dot(open_session: Open) -> None:
    server, session = open_session()
    seen: list[int] = []
    assert send(session, before_end=lambda: seen.append(len(server.committed))).complete
    assert (seen, len(server.committed)) == ([0], 1)


def test_if_before_end_raises_nobody_gets_the_mail(open_session: Open) -> None:
    server, session = open_session()

    def fail() -> None:
        raise KeyError("ledger")

    with pytest.raises(KeyError):
        send(session, before_end=fail)
    assert session.sock is None
    time.sleep(0.1)
    assert not server.committed


@pytest.mark.parametrize("reset", ["drop", "500 what?"])
def test_a_failing_rset_changes_no_result(open_session: Open, reset: str) -> None:
    _, session = open_session(Fault(stage="mail", action="550 5.7.1 no"), Fault(stage="rset", action=reset))
    assert str(error_of(send(session)).reply) == "550 5.7.1 no"
    assert session.sock is None


def test_a_mail_larger_than_the_server_takes_is_refused_before_a_byte_is_sent(open_session: Open) -> None:
    server, session = open_session(extensions=("SIZE 10",))
    error = error_of(send(session))
    assert isinstance(error, PermanentDeliveryError)
    assert f"the mail has {SIZE} octets, the server takes 10" in str(error)
    assert server.commands == ["ehlo [127.0.0.1]"]


@pytest.mark.parametrize("extensions", [("SIZE",), ("SIZE 0",), ("SIZE x",), ()])
def test_no_fixed_size_is_no_limit(open_session: Open, extensions: tuple[str, ...]) -> None:
    _, session = open_session(extensions=extensions)
    assert send(session).complete


JOERG = Envelope(sender="me@x.org", recipients=("jörg@x.org",), utf8=True)


@pytest.mark.parametrize("more", [("8BITMIME",), ()])
def test_smtputf8_is_asked_for_where_it_is_needed(open_session: Open, more: tuple[str, ...]) -> None:
    server, session = open_session(extensions=("SMTPUTF8", *more))
    assert send(session, envelope=JOERG).complete
    assert server.commands[1] == "MAIL FROM:<me@x.org> SMTPUTF8" + (" BODY=8BITMIME" if more else "")
    assert server.committed[0].recipients == ("jörg@x.org",)


def test_without_smtputf8_the_address_is_invalid_there(open_session: Open) -> None:
    server, session = open_session(extensions=())
    error = error_of(send(session, envelope=JOERG))
    assert isinstance(error, AddressNotSupported)
    assert isinstance(error, InvalidAddress)
    assert isinstance(error, PermanentDeliveryError)
    assert "(jörg@x.org)" in str(error)
    assert len(server.commands) == 1


def test_an_error_names_fifty_and_counts_the_rest() -> None:
    refused = {f"r{number}@x.org": Failure(stage=Stage.RECIPIENT, reply=Reply(550, "no")) for number in range(60)}
    error = error_of(Delivery(sender="me@x.org", refused=refused))
    assert "r49@x.org (550 no) and 10 more." in str(error)
    assert "r50@x.org" not in str(error)


def test_a_servers_control_characters_are_shown_not_obeyed(open_session: Open) -> None:
    _, session = open_session(Fault(stage="mail", action="550 \x1b[31mred\tü\x07"))
    assert "550 \\x1b[31mred\\tü\\x07" in str(error_of(send(session)))


def test_a_reply_without_text_and_without_status() -> None:
    assert str(Reply(250, "")) == "250"
    assert Reply(250, "ok").enhanced_status is None
    assert str(Failure(stage=Stage.DATA, text="lost", cause=Cause.LOST)) == "lost"

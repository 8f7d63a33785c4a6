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
from airflow_smtp_interface.mail.settings import Pipelining, SmtpSettings
from airflow_smtp_interface.mail.transaction import Item, deliver, deliver_all
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


@pytest.fixture(params=list(Pipelining), ids=["pipelined", "lock-step"])
def open_session(
    serve: Serve, settings_for: SettingsFor, request: pytest.FixtureRequest
) -> Iterator[Callable[..., tuple[FaultServer, SmtpSession]]]:
    """Start a server with faults and connect to it."""
    sessions = []

    def start(*plan: Fault, timeout: float = 0.6, **options: object) -> tuple[FaultServer, SmtpSession]:
        server = serve(*plan, **options)
        sessions.append(connect(settings_for(server, timeout=timeout, data_timeout=timeout, pipelining=request.param)))
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
    assert time.monotonic() - started < 3
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
    server.settle()
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


@pytest.mark.parametrize("extensions", [("SIZE",), ("SIZE 0",), ("SIZE x",), (f"SIZE {10**21}",), ()])
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


# --- pipelining and mails in a row


def item(number: int, *recipients: str) -> Item:
    envelope = Envelope(sender="me@x.org", recipients=recipients or ("a@x.org",))
    content = [f"Subject: {number}\r\n\r\nbody {number}\r\n".encode()]
    return Item(envelope=envelope, content=content, size=sum(map(len, content)), message_id=f"<{number}@x.org>")


def subjects(server: FaultServer) -> list[int]:
    return [int(mail.content.split(b"\r\n")[0].removeprefix(b"Subject: ")) for mail in server.committed]


def test_an_envelope_is_one_write_where_the_server_pipelines(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    with connect(settings_for(server)) as session:
        before = server.turns
        assert send(session).complete
        assert server.turns - before == 2, "the envelope; content and final dot"


@pytest.mark.parametrize("mails", [2, 10])
def test_a_mail_in_a_row_costs_one_round_trip(serve: Serve, settings_for: SettingsFor, mails: int) -> None:
    server = serve()
    with connect(settings_for(server)) as session:
        before = server.turns
        deliveries = list(deliver_all(session, map(item, range(mails))))
        assert server.turns - before == mails + 1
    assert all(delivery.complete for delivery in deliveries)
    assert [delivery.message_id for delivery in deliveries] == [f"<{number}@x.org>" for number in range(mails)]
    assert subjects(server) == list(range(mails))


@pytest.mark.parametrize("recipients", [100, 101, 250, 301, 1000])
def test_many_recipients_go_in_groups_of_a_hundred(serve: Serve, settings_for: SettingsFor, recipients: int) -> None:
    server = serve()
    envelope = Envelope(sender="me@x.org", recipients=tuple(f"r{number}@x.org" for number in range(recipients)))
    with connect(settings_for(server)) as session:
        before = server.turns
        assert send(session, envelope=envelope).complete
        assert server.turns - before == -(-recipients // 100) + 1
    assert server.committed[0].recipients == envelope.recipients


def test_long_addresses_go_in_groups_of_32_kB(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    addresses = tuple(f"{'x' * 60}{number:03}@{'y' * 60}.{'z' * 60}.{'w' * 60}.{'v' * 60}.org" for number in range(150))
    with connect(settings_for(server)) as session:
        before = server.turns
        assert send(session, envelope=Envelope(sender="me@x.org", recipients=addresses)).complete
        assert server.turns - before == 3


def test_everybody_refused_and_content_wanted_all_the_same_gets_one_lone_dot(open_session: Open) -> None:
    server, session = open_session(
        Fault(stage="rcpt", action="550 5.1.1 no", times=3), Fault(stage="data", action="354 go on", times=1)
    )
    first, second = deliver_all(session, [item(0, "a@x.org", "b@x.org", "c@x.org"), item(1)])
    assert list(first.refused) == ["a@x.org", "b@x.org", "c@x.org"]
    assert second.complete
    assert subjects(server) == [1]
    assert server.connections == 1


def test_a_refused_sender_with_everything_else_accepted_ends_the_session(open_session: Open) -> None:
    server, session = open_session(
        Fault(stage="mail", action="550 5.7.1 no"),
        Fault(stage="rcpt", action="250 ok"),
        Fault(stage="data", action="354 go on"),
    )
    assert str(error_of(send(session)).reply) == "550 5.7.1 no"
    assert not server.committed


def test_a_mail_in_the_middle_may_be_refused(open_session: Open) -> None:
    server, session = open_session(
        Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no"), Fault(stage="body", action="554 no", times=1)
    )
    items = [item(0), item(1, "b@x.org"), item(2, "a@x.org", "b@x.org"), item(3)]
    deliveries = list(deliver_all(session, items))
    assert [(delivery.accepted, list(delivery.refused)) for delivery in deliveries] == [
        ((), ["a@x.org"]),
        ((), ["b@x.org"]),
        (("a@x.org",), ["b@x.org"]),
        (("a@x.org",), []),
    ]
    assert subjects(server) == [2, 3]
    assert server.connections == 1


@pytest.mark.parametrize("refused_first", [True, False])
def test_a_mail_that_does_not_fit_disturbs_no_other(open_session: Open, refused_first: bool) -> None:
    faults = [Fault(stage="mail", action="550 5.7.1 no", times=1)] if refused_first else []
    server, session = open_session(*faults, extensions=("PIPELINING", "SIZE 100"))
    big = Item(envelope=ENVELOPE, content=[b"x" * 200], size=200)
    first, large, last = deliver_all(session, [item(0), big, item(2)])
    assert first.complete is not refused_first
    assert list(large.refused) == list(ENVELOPE.recipients)
    assert last.complete
    assert server.connections == 1


@pytest.mark.parametrize(
    ("fault", "group", "committed"),
    [
        (Fault(stage="body", action="drop", skip=1, times=1), "unknown", [0]),
        (Fault(stage="body", action="drop", skip=1, times=1, commit=True), "unknown", [0, 1]),
        (Fault(stage="body", action="421 4.3.2 bye", skip=1, times=1), "deferred", [0]),
        (Fault(stage="mail", action="421 4.3.2 too many", skip=1, times=1), "deferred", [0]),
    ],
)
def test_a_loss_in_the_middle_ends_the_row_with_nobody_in_the_wrong_group(
    open_session: Open, fault: Fault, group: str, committed: list[int]
) -> None:
    server, session = open_session(fault)
    deliveries = list(deliver_all(session, map(item, range(5))))
    assert deliveries[0].complete
    assert list(getattr(deliveries[1], group)) == ["a@x.org"]
    assert all(list(delivery.deferred) == ["a@x.org"] for delivery in deliveries[2:])
    assert len(deliveries) <= 3, "no further mail was taken"
    assert subjects(server) == committed
    assert session.sock is None


def test_none_brings_the_mail_under_way_to_its_end(open_session: Open) -> None:
    server, session = open_session()
    taken = deliver_all(session, [item(0), None, item(1)])
    assert next(taken).complete
    assert subjects(server) == [0]
    assert next(taken).complete
    assert next(taken, None) is None


def test_who_leaves_in_the_middle_of_a_mail_does_not_send_it(open_session: Open) -> None:
    server, session = open_session()

    def two_and_a_break() -> Iterator[Item]:
        yield item(0)
        raise KeyError("the author's own")

    with pytest.raises(KeyError):
        list(deliver_all(session, two_and_a_break()))
    assert session.sock is None
    server.settle()
    assert not server.committed


def test_a_server_whose_replies_do_not_fit_is_spoken_to_one_command_at_a_time(
    serve: Serve, settings_for: SettingsFor
) -> None:
    server = serve(Fault(stage="rcpt", action="garbage", times=1))
    settings = settings_for(server)
    with connect(settings) as session:
        assert session.pipelines
        assert not send(session).complete
    with connect(settings) as session:
        assert not session.pipelines
        before = server.turns
        assert send(session).complete
        assert server.turns - before == len(ENVELOPE.recipients) + 3


def test_an_error_of_the_authors_own_within_the_content_ends_the_session(open_session: Open) -> None:
    server, session = open_session()

    def broken() -> Iterator[bytes]:
        yield b"Subject: s\r\n\r\n"
        raise KeyError("the author's own")

    with pytest.raises(KeyError):
        send(session, content=broken())
    assert session.sock is None
    server.settle()
    assert not server.committed


@pytest.mark.parametrize(
    ("words", "queue_id"),
    [
        ("2.0.0 Ok: queued as 4F1A2B3C", "4F1A2B3C"),  # Postfix
        ("OK id=1tXyZ0-0004Kq-1b", "1tXyZ0-0004Kq-1b"),  # Exim
        ("2.6.0 <a@x.org> [InternalId=1234, Hostname=h] Queued mail for delivery", "1234"),  # Exchange
        ("2.0.0 4AB12cde Message accepted for delivery", "4AB12cde"),  # Sendmail
        ("2.0.0 OK", None),
    ],
)
def test_what_the_server_calls_a_mail_is_read_from_its_answer(words: str, queue_id: str | None) -> None:
    assert Reply(250, words).queue_id == queue_id
    assert Reply(450, words).queue_id is None

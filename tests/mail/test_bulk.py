"""Many mails over few sessions: in order, nothing lost, nothing twice, within the provider's limits."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_smtp_interface.mail import bulk
from airflow_smtp_interface.mail.bulk import send_all
from airflow_smtp_interface.mail.delivery import Delivery
from airflow_smtp_interface.mail.errors import DeliveryError, InvalidEmail, PermanentDeliveryError
from airflow_smtp_interface.mail.message import Envelope
from airflow_smtp_interface.mail.settings import Pipelining, SmtpSettings
from airflow_smtp_interface.mail.transaction import Item
from tests.mail.conftest import Serve
from tests.peers.fault_server import Fault, FaultServer

SettingsFor = Callable[..., SmtpSettings]


def item(number: int, *recipients: str, content: Any = None) -> Item:
    octets = [f"Subject: {number}\r\n\r\nbody\r\n".encode()]
    return Item(
        envelope=Envelope(sender="me@x.org", recipients=recipients or (f"r{number}@x.org",)),
        content=content or octets,
        size=sum(map(len, octets)),
        message_id=f"<{number}@x.org>",
    )


def items(count: int) -> Iterator[Item]:
    return map(item, range(count))


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(re.sub(r"\D", "", delivery.message_id)) for delivery in deliveries]


def committed(server: FaultServer) -> list[int]:
    return sorted(int(mail.content.split(b"\r\n")[0].removeprefix(b"Subject: ")) for mail in server.committed)


@pytest.fixture(params=list(Pipelining), ids=["pipelined", "lock-step"])
def settings(settings_for: SettingsFor, request: pytest.FixtureRequest) -> SettingsFor:
    return lambda server, **fields: settings_for(server, **{"pipelining": request.param, **fields})


@pytest.mark.parametrize("connections", [1, 3, 10])
def test_results_come_in_the_order_given(serve: Serve, settings: SettingsFor, connections: int) -> None:
    server = serve()
    deliveries = list(send_all(settings(server), items(200), connections=connections))
    assert numbers(deliveries) == list(range(200))
    assert all(delivery.complete for delivery in deliveries)
    assert committed(server) == list(range(200))
    assert 1 <= server.connections <= connections


def test_in_a_row_a_mail_costs_about_one_round_trip(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve()
    list(send_all(settings_for(server), items(100), connections=1))
    assert server.turns <= 110


def test_mails_that_come_late_go_over_the_session_that_waits_for_them(serve: Serve, settings: SettingsFor) -> None:
    server = serve()

    def slowly() -> Iterator[Item]:
        for number, each in enumerate(items(3)):
            while len(server.committed) < number:
                time.sleep(0.01)
            time.sleep(0.2)  # the session has nothing to do
            yield each

    assert numbers(list(send_all(settings(server), slowly(), connections=1))) == [0, 1, 2]
    assert server.connections == 1


def test_nothing_to_send_opens_nothing(serve: Serve, settings: SettingsFor) -> None:
    server = serve()
    assert list(send_all(settings(server), [], connections=3)) == []
    assert server.connections == 0


@pytest.mark.parametrize("connections", [0, 11])
def test_sessions_are_few(serve: Serve, settings: SettingsFor, connections: int) -> None:
    with pytest.raises(ValueError, match=f"connections: {connections} is not between 1 and 10"):
        list(send_all(settings(serve()), items(1), connections=connections))


def test_mails_are_taken_in_lazily(serve: Serve, settings: SettingsFor) -> None:
    taken = itertools.count()
    endless = (item(next(taken)) for _ in itertools.repeat(None))
    results = send_all(settings(serve()), endless, connections=2)
    for _ in range(10):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert next(taken) <= 10 + 2 * 32


def test_refusals_and_deferrals_are_results_not_exceptions(serve: Serve, settings: SettingsFor) -> None:
    server = serve(
        Fault(stage="rcpt", address="r3@x.org", action="550 5.1.1 no"),
        Fault(stage="rcpt", address="r5@x.org", action="450 4.7.1 later"),
    )
    deliveries = list(send_all(settings(server), items(10), connections=1))
    assert [str(failure) for failure in deliveries[3].refused.values()] == ["550 5.1.1 no"]
    assert [str(failure) for failure in deliveries[5].deferred.values()] == ["450 4.7.1 later"]
    assert committed(server) == [0, 1, 2, 4, 6, 7, 8, 9]
    assert server.connections == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(stage="mail", action="421 4.7.0 too many messages in this connection", skip=4, times=1),
        Fault(stage="mail", action="452 4.7.0 too many messages in this connection", skip=4, times=1),
        Fault(stage="rcpt", action="drop", skip=4, times=1),
        Fault(stage="data", action="reset", skip=4, times=1),
        Fault(stage="body", action="421 4.3.2 going down", skip=4, times=1),
        Fault(stage="rcpt", action="garbage", skip=4, times=1),
        Fault(stage="data", action="250 not what was asked", times=1),
    ],
    ids=lambda fault: f"{fault.stage}={fault.action[:12]}",
)
def test_a_lost_session_is_replaced_and_nothing_is_lost_or_sent_twice(
    serve: Serve, settings: SettingsFor, fault: Fault
) -> None:
    server = serve(fault)
    deliveries = list(send_all(settings(server), items(20), connections=1))
    assert numbers(deliveries) == list(range(20))
    assert all(delivery.complete for delivery in deliveries)
    assert committed(server) == list(range(20))
    assert server.connections == 2


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("action", ["drop", "hang", "354 go on"])
def test_a_mail_whose_last_answer_was_lost_is_unknown_and_not_sent_again(
    serve: Serve, settings: SettingsFor, action: str, commit: bool
) -> None:
    server = serve(Fault(stage="body", action=action, commit=commit, skip=4, times=1))
    deliveries = list(send_all(settings(server, data_timeout=0.5), items(10), connections=1))
    assert [number for number, delivery in enumerate(deliveries) if delivery.unknown] == [4]
    assert committed(server) == [number for number in range(10) if number != 4 or commit]


def test_a_mail_that_ends_every_session_is_given_up(serve: Serve, settings: SettingsFor) -> None:
    server = serve(Fault(stage="rcpt", address="r2@x.org", action="drop"))
    deliveries = list(send_all(settings(server), items(5), connections=1))
    assert [number for number, delivery in enumerate(deliveries) if not delivery.complete] == [2]
    assert committed(server) == [0, 1, 3, 4]


def test_the_first_mail_of_a_session_is_not_tried_over_another_one(serve: Serve, settings_for: SettingsFor) -> None:
    server = serve(Fault(stage="body", action="421 4.3.2 busy", times=1))
    first, second = send_all(settings_for(server), items(2), connections=1)
    assert (list(first.deferred), second.complete) == (["r0@x.org"], True)
    assert server.commands.count("RCPT TO:<r0@x.org>") == 1
    assert server.connections == 2


def test_a_refused_reset_is_nobodys_refusal(serve: Serve, settings: SettingsFor) -> None:
    server = serve(
        Fault(stage="rcpt", action="550 5.1.1 no", address="r0@x.org"), Fault(stage="rset", action="500 what?", times=1)
    )
    first, second = send_all(settings(server), items(2), connections=1)
    assert (list(first.refused), second.complete) == (["r0@x.org"], True)
    assert server.connections == 2


def test_a_session_that_the_server_has_ended_meanwhile_is_closed(serve: Serve, settings: SettingsFor) -> None:
    server = serve()

    def slowly() -> Iterator[Item]:
        yield item(0)
        while not server.committed:
            time.sleep(0.01)
        server.close_connections()
        time.sleep(0.1)  # the end has come to the session, which waits for a mail
        yield item(1)

    assert all(delivery.complete for delivery in send_all(settings(server), slowly(), connections=1))
    assert server.connections == 2
    gc.collect()  # a socket left open warns, and warnings are errors


def test_whatever_ends_a_session_nobody_waits_for_ever(serve: Serve, settings: SettingsFor) -> None:
    server = serve()
    with pytest.raises(TypeError):
        list(send_all(settings(server, timeout=None), items(3), connections=2))


def test_a_server_that_allows_fewer_sessions_gets_fewer(serve: Serve, settings: SettingsFor) -> None:
    server = serve(Fault(stage="connect", action="421 4.7.0 too many connections", skip=1))
    deliveries = list(send_all(settings(server), items(50), connections=3))
    assert numbers(deliveries) == list(range(50))
    assert committed(server) == list(range(50))


def test_no_session_at_all_is_an_error(serve: Serve, settings: SettingsFor) -> None:
    server = serve(Fault(stage="connect", action="554 no mail here"))
    with pytest.raises(PermanentDeliveryError, match="554 no mail here"):
        list(send_all(settings(server), items(50), connections=3))


def test_no_further_session_is_an_error_after_the_results_before_it(serve: Serve, settings: SettingsFor) -> None:
    server = serve(Fault(stage="connect", action="554 no more", skip=1), Fault(stage="mail", action="421 bye", skip=4))
    results, done = send_all(settings(server), items(50), connections=1), []
    with pytest.raises(DeliveryError, match="554 no more"):
        done.extend(results)
    assert committed(server) == [0, 1, 2, 3]


def test_results_that_are_there_come_before_the_error_that_no_session_can_be_opened(
    serve: Serve, settings: SettingsFor
) -> None:
    server, both = serve(), threading.Barrier(2)

    def together() -> Iterator[bytes]:
        both.wait(5)  # a session each, so that neither begins with a later mail
        yield from item(0).content

    def until_the_server_goes_down() -> Iterator[bytes]:
        yield b"Subject: 2\r\n"
        while len(server.committed) < 6:
            time.sleep(0.01)
        server.plan.append(Fault(stage="connect", action="421 4.3.2 going down"))
        server.close_connections()
        yield b"\r\nbody\r\n"

    contents = {0: together(), 1: together(), 2: until_the_server_goes_down()}
    mails = (item(number, content=contents.get(number)) for number in itertools.count())
    results, done = send_all(settings(server), mails, connections=2), []
    with pytest.raises(DeliveryError, match=r"421 4\.3\.2 going down"):
        done.extend(results)
    assert numbers(done) == list(range(len(done))), "in the order given, without a gap"
    assert "421 4.3.2 going down" in str(done[2].deferred["r2@x.org"])
    assert [done[number].complete for number in (0, 1, 3, 4)] == [True] * 4
    accepted = sum(delivery.complete for delivery in done)
    assert accepted <= len(server.committed) <= accepted + sum(bool(delivery.unknown) for delivery in done)


def test_results_come_while_the_next_mail_takes_its_time(serve: Serve, settings: SettingsFor) -> None:
    server = serve()
    taken = 0

    def slowly() -> Iterator[Item]:
        nonlocal taken
        for each in items(20):
            taken += 1
            yield each
            while len(server.committed) < taken:
                time.sleep(0.01)
            time.sleep(0.05)

    results = send_all(settings(server), slowly(), connections=1)
    next(results)
    assert taken <= 3
    assert len(list(results)) == 19


def test_what_the_authors_iterable_raises_comes_after_the_results_before_it(
    serve: Serve, settings: SettingsFor
) -> None:
    def broken() -> Iterator[Item]:
        yield from items(3)
        raise InvalidEmail("subject: None is NoneType, not text")

    results = send_all(settings(serve()), broken(), connections=2)
    assert numbers([next(results) for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(InvalidEmail):
        next(results)


@pytest.mark.parametrize("raised", [KeyError("no such object"), asyncio.CancelledError(), SystemExit(1)], ids=repr)
def test_what_the_contents_own_code_raises_is_its_mails_result(
    serve: Serve, settings: SettingsFor, raised: BaseException
) -> None:
    def content() -> Iterator[bytes]:
        yield b"Subject: 1\r\n"
        raise raised

    server = serve()
    results = list(send_all(settings(server), [item(0), item(1, content=content()), item(2)], connections=1))
    assert [delivery.complete for delivery in results] == [True, False, True]
    assert [str(failure) for failure in results[1].deferred.values()] == [f"{type(raised).__name__}: {raised}"]
    assert committed(server) == [0, 2]


def test_a_session_is_left_after_its_share_of_mails(serve: Serve, settings: SettingsFor) -> None:
    server = serve()
    deliveries = list(send_all(settings(server, messages_per_connection=3), items(10), connections=1))
    assert all(delivery.complete for delivery in deliveries)
    assert server.connections == 4
    server.settle()
    assert server.commands.count("QUIT") == 4


def test_no_minute_sees_more_mails_than_allowed(
    serve: Serve, settings: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 5)
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    pace = bulk._Pace(3)
    monkeypatch.setattr(bulk, "monotonic", lambda: next(clock))
    assert all(pace.wait(Event()) for _ in range(5))
    assert waits == [45, 40], "the fourth waits for the first of 0 s to be a minute old at 15 s, and so on"


def test_a_session_that_ends_while_the_minute_is_full_loses_no_mail(
    serve: Serve, settings: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk._Pace, "is_full", lambda self: True)
    monkeypatch.setattr(bulk._Pace, "wait", lambda self, closing: True)
    server = serve(Fault(stage="body", action="drop", times=1))
    first, second, third = send_all(settings(server), items(3), connections=1)
    assert (bool(first.unknown), second.complete, third.complete) == (True, True, True)


def test_with_fewer_threads_than_connections_all_mails_go_out_all_the_same(
    serve: Serve, settings: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, begun = threading.Thread.start, []

    def start_one(thread: threading.Thread) -> None:
        if thread.name == "smtp-interface":
            if begun:
                raise RuntimeError("can't start new thread")
            begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    assert all(delivery.complete for delivery in send_all(settings(serve()), items(50), connections=3))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(send_all(settings(serve()), items(2), connections=3))


def test_closing_early_brings_mails_under_way_to_their_end_and_logs_the_rest(
    serve: Serve, settings: SettingsFor, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    results = send_all(settings(server), items(1000), connections=2)
    next(results)
    with caplog.at_level(logging.WARNING):
        results.close()  # type: ignore[attr-defined]
    (line,) = caplog.messages
    said = re.search(r"ended early: .* \((\d+) recipients accepted: (.*)\), (\d+) were not sent \((.*)\)$", line)
    assert said
    assert len(server.committed) == 1 + int(said[1]), "what the log says is what the server has"
    accepted, unsent = (set(re.findall(r"<(\d+)@x.org>", each)) for each in (said[2], said[4]))
    assert accepted <= {str(number) for number in committed(server)}
    assert unsent
    assert unsent.isdisjoint(str(number) for number in committed(server))


def test_closing_early_does_not_wait_for_the_minute_to_pass(serve: Serve, settings: SettingsFor) -> None:
    server = serve()
    started = time.monotonic()
    results = send_all(settings(server, messages_per_minute=1), items(3), connections=1)
    assert next(results).complete
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    assert committed(server) == [0]

"""Across the tries of a task nobody who was accepted is mailed again, and what is in doubt is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from typing import Any, BinaryIO

import pytest
from airflow.sdk import DAG

from airflow_smtp_interface.inbox import Inbox
from airflow_smtp_interface.mail.errors import OutcomeUnknown, TransientDeliveryError
from airflow_smtp_interface.mail.message import Attachment
from airflow_smtp_interface.operators.email_actor import EmailActorOperator
from airflow_smtp_interface.operators.exceptions import AirflowFailException
from airflow_smtp_interface.operators.waiting import Waiting
from tests.airflow.running import HAS_STORE, OutOfReach, Store, mail_task, run_dag, run_task, run_through_waits
from tests.peers.fault_server import Fault, FaultServer

Faulty = Callable[..., FaultServer]
THREE = "a@x.org, b@x.org, c@x.org"
LATER = "450 4.7.1 later"
NEVER = "550 5.1.1 no such user"

if not HAS_STORE:  # the tests' own store stands in for the one that Airflow 3.3 brings along
    import airflow.sdk

    airflow.sdk.NEVER_EXPIRE = timedelta.max


def try_once(store: Store | None, *, max_tries: int = 0, **fields: Any) -> dict[str, Any]:
    context = {"task_state_store": store} if store else {}
    return run_task(mail_task(**{"recipients": THREE, **fields}), max_tries=max_tries, **context)


def got(server: FaultServer) -> list[tuple[str, ...]]:
    return [mail.recipients for mail in server.committed]


def message_ids(server: FaultServer) -> set[bytes]:
    lines = b"".join(mail.content for mail in server.committed).split(b"\r\n")
    return {line for line in lines if line.startswith(b"Message-ID")}


def test_a_retry_mails_only_those_left(faulty: Faulty) -> None:
    server, store = faulty(Fault(stage="rcpt", address="b@x.org", action=LATER, times=1)), Store()
    with pytest.raises(TransientDeliveryError):
        try_once(store)
    result = try_once(store)
    assert got(server) == [("a@x.org", "c@x.org"), ("b@x.org",)]
    assert len(message_ids(server)) == 1
    assert (result["accepted"], result["this_try"]) == (["a@x.org", "c@x.org", "b@x.org"], ["b@x.org"])
    assert b"To: a@x.org,\r\n b@x.org,\r\n c@x.org" in server.committed[1].content, "the header names everybody"


def test_what_is_recorded_is_intent_before_the_final_dot_and_the_answer_after_it(inbox: Inbox) -> None:
    store = Store()
    result = try_once(store, recipients="a@x.org")
    record = {"generation": 0, "finished": False, "message_id": result["message_id"], "accepted": {}}
    assert store.writes == [
        {**record, "in_flight": ["a@x.org"]},
        {**record, "in_flight": [], "finished": True, "accepted": {"a@x.org": "250 2.0.0 OK: mail 1"}},
    ]


def test_a_try_with_nothing_left_returns_the_stored_result(faulty: Faulty, capsys: pytest.CaptureFixture[str]) -> None:
    server, store = faulty(), Store()
    first = try_once(store)
    second = try_once(store)
    assert len(server.committed) == 1
    assert second["already_sent"] is True
    assert (second["accepted"], second["this_try"]) == (first["accepted"], [])
    assert second["message_id"] == first["message_id"]
    assert "Nothing is left to send" in capsys.readouterr().out


def test_a_clear_of_a_finished_mail_sends_it_to_everybody_again(faulty: Faulty) -> None:
    server, store = faulty(), Store()
    try_once(store)
    try_once(store, max_tries=1)
    assert got(server) == [("a@x.org", "b@x.org", "c@x.org")] * 2
    assert len(message_ids(server)) == 2


def test_a_clear_of_an_unfinished_mail_goes_on_with_the_rest_and_says_how_to_start_over(
    faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    server, store = faulty(Fault(stage="rcpt", address="b@x.org", action=NEVER, times=1)), Store()
    with pytest.raises(AirflowFailException):
        try_once(store)
    result = try_once(store, max_tries=1)
    assert got(server) == [("a@x.org", "c@x.org"), ("b@x.org",)]
    assert len(message_ids(server)) == 1
    assert sorted(result["accepted"]) == ["a@x.org", "b@x.org", "c@x.org"]
    assert "goes on with the rest" in caplog.text
    assert "delete the task state 'smtp_interface'" in caplog.text
    try_once(store, max_tries=2)
    assert len(message_ids(server)) == 2, "finished now: the next Clear starts afresh"


def test_some_deferred_and_some_refused_is_transient_until_only_refusals_are_left(faulty: Faulty) -> None:
    server = faulty(
        Fault(stage="rcpt", address="b@x.org", action=LATER, times=1),
        Fault(stage="rcpt", address="c@x.org", action=NEVER),
    )
    store = Store()
    with pytest.raises(TransientDeliveryError, match=r"Refused: c@x\.org"):
        try_once(store)
    with pytest.raises(AirflowFailException, match=r"Refused: c@x\.org"):
        try_once(store)
    assert got(server) == [("a@x.org",), ("b@x.org",)]


def test_on_refused_warn_is_finished_with_the_refusal_in_every_result(faulty: Faulty) -> None:
    server, store = faulty(Fault(stage="rcpt", address="b@x.org", action=NEVER)), Store()
    first = try_once(store, on_refused="warn")
    again = try_once(store, on_refused="warn")
    assert first["refused"] == again["refused"] == {"b@x.org": NEVER}
    assert again["already_sent"] is True
    assert len(server.committed) == 1


def test_on_refused_warn_excuses_those_who_are_left_when_others_were_accepted_before(faulty: Faulty) -> None:
    faulty(
        Fault(stage="rcpt", address="b@x.org", action=LATER, times=1),
        Fault(stage="rcpt", address="b@x.org", action=NEVER),
    )
    store = Store()
    with pytest.raises(TransientDeliveryError):
        try_once(store, on_refused="warn")
    result = try_once(store, on_refused="warn")
    assert (result["accepted"], result["refused"]) == (["a@x.org", "c@x.org"], {"b@x.org": NEVER})


@pytest.mark.parametrize("commit", [True, False])
def test_a_lost_answer_fails_without_retry_and_names_the_message_id(faulty: Faulty, commit: bool) -> None:
    server, store = faulty(Fault(stage="body", action="drop", commit=commit, times=1)), Store()
    with pytest.raises(AirflowFailException, match=r"may have been delivered.*Message-ID <\w+@x.org>"):
        try_once(store)
    assert store.get("smtp_interface")["in_flight"] == ["a@x.org", "b@x.org", "c@x.org"]
    assert len(server.committed) == int(commit)


def test_a_human_who_clears_a_mail_in_doubt_sends_it_under_the_same_message_id(faulty: Faulty) -> None:
    server, store = faulty(Fault(stage="body", action="drop", commit=True, times=1)), Store()
    with pytest.raises(AirflowFailException):
        try_once(store)
    try_once(store, max_tries=1)
    assert len(server.committed) == 2
    assert len(message_ids(server)) == 1


def test_a_doubt_that_nobody_was_told_of_is_named_before_a_cleared_task_sends_again(
    faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    server, store = faulty(), Store()
    write, store.set = store.set, die_at_the_second_write(store)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        try_once(store)
    store.set = write  # type: ignore[method-assign]
    with pytest.raises(AirflowFailException, match=r"may have been delivered.*Unknown: a@x\.org"):
        try_once(store, max_tries=1)
    assert len(server.committed) == 1
    try_once(store, max_tries=2)
    assert len(server.committed) == 2
    assert len(message_ids(server)) == 1
    assert "0 recipients have it already, and 3 may have it and get it again" in caplog.text


def test_on_unknown_resend_is_an_ordinary_error_and_the_retry_sends_again(
    faulty: Faulty, capsys: pytest.CaptureFixture[str]
) -> None:
    server, store = faulty(Fault(stage="body", action="drop", commit=True, times=1)), Store()
    with pytest.raises(OutcomeUnknown):
        try_once(store, on_unknown="resend")
    assert try_once(store, on_unknown="resend")["accepted"] == ["a@x.org", "b@x.org", "c@x.org"]
    assert len(server.committed) == 2
    assert len(message_ids(server)) == 1
    assert "It is sent again (on_unknown)" in capsys.readouterr().out


def test_the_error_of_a_retry_names_those_who_have_the_mail_from_earlier(faulty: Faulty) -> None:
    faulty(
        Fault(stage="rcpt", address="b@x.org", action=LATER, times=1),
        Fault(stage="connect", action="421 4.3.2 busy", skip=1, times=1),
        Fault(stage="rcpt", address="b@x.org", action=NEVER),
    )
    store, earlier = Store(), r"Accepted in an earlier try: a@x\.org, c@x\.org\.$"
    with pytest.raises(TransientDeliveryError, match=r"Accepted: a@x\.org, c@x\.org\.$"):
        try_once(store)
    with pytest.raises(TransientDeliveryError, match=f"421 4.3.2 busy.* {earlier}"):
        try_once(store)
    with pytest.raises(AirflowFailException, match=f"Refused: b@x.org .*Accepted: nobody. {earlier}"):
        try_once(store)


def test_a_domain_that_changes_its_case_between_tries_is_the_same_mailbox(faulty: Faulty) -> None:
    server, store = faulty(Fault(stage="rcpt", address="b@x.org", action=LATER, times=1)), Store()
    with pytest.raises(TransientDeliveryError):
        try_once(store, recipients="a@X.org, b@x.org")
    xcoms: dict[str, Any] = {}
    run_task(mail_task(recipients="a@x.org, b@x.org"), task_state_store=store, xcoms=xcoms)
    assert got(server) == [("a@X.org",), ("b@x.org",)]
    assert {each["address"]: each["outcome"] for each in xcoms["email"]["recipients"]} == {
        "a@x.org": "accepted",
        "b@x.org": "accepted",
    }


class Killed(BaseException):
    """Stands in for a kill within one process; test_killed_worker.py kills a real one."""


def die_at_the_second_write(store: Store) -> Callable[..., None]:
    write = store.set

    def die(key: str, value: Any, **more: Any) -> None:
        if store.writes:
            raise Killed
        write(key, value, **more)

    return die


@pytest.mark.parametrize("policy", ["fail", "resend"])
def test_a_kill_after_the_final_dot_leaves_the_mail_in_doubt(faulty: Faulty, policy: str) -> None:
    server, store = faulty(), Store()
    write, store.set = store.set, die_at_the_second_write(store)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        try_once(store, on_unknown=policy)
    store.set = write  # type: ignore[method-assign]
    if policy == "fail":
        with pytest.raises(AirflowFailException, match="an earlier try ended before the answer was recorded"):
            try_once(store)
    else:
        try_once(store, on_unknown=policy)
    assert len(server.committed) == (1 if policy == "fail" else 2)


def test_if_the_intent_cannot_be_recorded_nobody_gets_the_mail(faulty: Faulty) -> None:
    server, store = faulty(), Store()

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("api-server is away")

    store.set = refuse  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        try_once(store)
    assert not server.committed


def test_mapped_tasks_have_a_mail_each(inbox: Inbox) -> None:
    stores = [Store(), Store()]
    for index, store in enumerate(stores):
        run_task(mail_task(recipients="a@x.org"), map_index=index, task_state_store=store)
    assert len({mail.message["Message-ID"] for mail in inbox.mails}) == 2


# --- waiting in the triggerer


def test_delays_grow_up_to_an_hour_and_end_with_the_deadline() -> None:
    waiting, delays = Waiting(), []
    for _ in range(6):
        further = waiting.next(
            message_id="<1@x>", accepted={}, delays=EmailActorOperator.delays, max_wait=timedelta(hours=9)
        )
        assert further
        waiting, delay = further
        delays.append(delay.total_seconds() / 60)
    assert delays == [1, 5, 15, 30, 60, 60]
    near = Waiting(attempt=9, deadline=datetime.now(UTC) + timedelta(minutes=2))
    further = near.next(message_id="<1@x>", accepted={}, delays=EmailActorOperator.delays, max_wait=timedelta())
    assert further
    assert further[1] <= timedelta(minutes=2)
    over = Waiting(attempt=9, deadline=datetime.now(UTC))
    assert over.next(message_id="<1@x>", accepted={}, delays=EmailActorOperator.delays, max_wait=timedelta()) is None


def test_what_goes_on_is_json_without_body_or_secret() -> None:
    waiting, _ = Waiting().next(  # type: ignore[misc]
        message_id="<1@x>",
        accepted={"a@x.org": "250 ok"},
        delays=EmailActorOperator.delays,
        max_wait=timedelta(hours=4),
    )
    kwargs = waiting.as_kwargs()
    assert set(kwargs) == {"message_id", "accepted", "attempt", "deadline"}
    assert Waiting.from_kwargs(**json.loads(json.dumps(kwargs))) == waiting


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmailActorOperator, "delays", (timedelta(seconds=0.1),))


@pytest.mark.parametrize("has_store", [True, False])
@pytest.mark.usefixtures("quick")
def test_a_deferrable_task_waits_and_goes_on_with_those_left(faulty: Faulty, has_store: bool) -> None:
    server = faulty(
        Fault(stage="rcpt", address="b@x.org", action=LATER, times=2),
        Fault(stage="mail", action="421 4.3.2 busy", times=1, skip=1),
    )
    result, went_on = run_through_waits(
        lambda: mail_task(recipients=THREE, body="secret body", deferrable=True),
        task_state_store=Store() if has_store else None,
    )
    assert got(server) == [("a@x.org", "c@x.org"), ("b@x.org",)]
    assert len(message_ids(server)) == 1
    assert (result["accepted"], result["this_try"]) == (["a@x.org", "c@x.org", "b@x.org"], ["b@x.org"])
    assert [set(kwargs) for kwargs in went_on] == [{"message_id", "accepted", "attempt", "deadline"}] * 3
    assert [kwargs["attempt"] for kwargs in went_on] == [1, 2, 3]
    assert len({kwargs["deadline"] for kwargs in went_on}) == 1
    assert "secret" not in str(went_on)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", [Fault(stage="connect", action="421 4.3.2 busy"), Fault(stage="mail", action=LATER)])
def test_a_deferrable_task_gives_up_after_max_wait(faulty: Faulty, fault: Fault) -> None:
    server = faulty(fault)
    with pytest.raises(TransientDeliveryError):
        run_through_waits(lambda: mail_task(deferrable=True, max_wait=timedelta(seconds=0.2)))
    assert server.connections > 2


@pytest.mark.usefixtures("quick")
def test_a_deferrable_task_that_gives_up_partly_accepted_is_not_retried_without_a_record(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action=LATER))
    with pytest.raises(AirflowFailException, match=r"keeps no record .* would mail them again: a@x.org, c@x.org\.$"):
        run_through_waits(lambda: mail_task(recipients=THREE, deferrable=True, max_wait=timedelta(seconds=0.2)))


def _time_is_up() -> BinaryIO:
    raise Killed("execution_timeout")


@pytest.mark.parametrize(
    ("plan", "fields"),
    [
        ([], {"attachments": [Attachment(name="x", open=_time_is_up, size=3)]}),
        ([], {"attachments": [OutOfReach()]}),
        ([Fault(stage="body", action="drop", skip=1)], {"on_unknown": "resend"}),
    ],
    ids=["time is up", "no file", "in doubt"],
)
@pytest.mark.usefixtures("quick")
def test_whatever_ends_a_resumed_task_nobody_is_mailed_again_without_a_record(
    faulty: Faulty, plan: list[Fault], fields: dict[str, Any]
) -> None:
    server = faulty(Fault(stage="rcpt", address="b@x.org", action=LATER, times=1), *plan)
    task = {"recipients": THREE, "deferrable": True, "max_wait": timedelta(seconds=0.3)}
    tasks = chain([mail_task(**task)], (mail_task(**task, **fields) for _ in count()))
    with pytest.raises(AirflowFailException, match=r"keeps no record .* would mail them again: a@x.org, c@x.org\.$"):
        run_through_waits(lambda: next(tasks))
    assert got(server) == [("a@x.org", "c@x.org")]


def test_a_deferrable_task_does_not_wait_for_what_cannot_be_helped(faulty: Faulty) -> None:
    server = faulty(Fault(stage="mail", action=NEVER))
    with pytest.raises(AirflowFailException):
        run_task(mail_task(deferrable=True))
    assert server.connections == 1


def test_a_deferred_task_whose_arguments_were_lost_sends_nothing(faulty: Faulty) -> None:
    server = faulty()
    with pytest.raises(AirflowFailException, match=r"dag\.test\(\) loses it"):
        mail_task(deferrable=True).resume({}, event="the moment")
    assert server.connections == 0


def test_with_airflows_own_store_a_retry_mails_the_rest_and_without_one_the_task_fails(faulty: Faulty) -> None:
    server = faulty(Fault(stage="rcpt", address="b@x.org", action=LATER, times=1))
    with DAG("partly", schedule=None) as dag:
        EmailActorOperator(task_id="mail", subject="s", body="b", recipients=THREE, retries=2, retry_delay=0)
    (instance,) = run_dag(dag).get_task_instances()
    if HAS_STORE:
        assert (str(instance.state), instance.try_number) == ("success", 2)
        assert got(server) == [("a@x.org", "c@x.org"), ("b@x.org",)]
        assert instance.xcom_pull(task_ids="mail")["this_try"] == ["b@x.org"]
    else:
        assert (str(instance.state), instance.try_number) == ("failed", 1)
        assert got(server) == [("a@x.org", "c@x.org")]

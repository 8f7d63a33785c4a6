"""What a task keeps of the mail it sent, however it ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.headerregistry import Address
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker
from airflow.sdk.log import mask_secret

from airflow_smtp_interface.inbox import Inbox
from airflow_smtp_interface.mail.errors import TransientDeliveryError
from airflow_smtp_interface.operators.exceptions import AirflowFailException
from airflow_smtp_interface.viewer.message import Outcome, ShownMessage
from tests.airflow.running import HAS_STORE, Store, TaskInstance, mail_task, run_task, run_through_waits
from tests.peers.fault_server import Fault, FaultServer

if not HAS_STORE:  # the tests' own store stands in for the one that Airflow 3.3 brings along
    import airflow.sdk

    airflow.sdk.NEVER_EXPIRE = timedelta.max

Faulty = Callable[..., FaultServer]
LATER = "450 4.7.1 later"


@pytest.fixture(autouse=True)
def unmask() -> Iterator[None]:
    """Forget the secrets of each test: the masker is the process's."""
    yield
    _secrets_masker().reset_masker()


def send(store: Store | None = None, **fields: Any) -> dict[str, Any]:
    """Run a task and return its XComs; an error of the task is expected where ``fails`` names one."""
    xcoms: dict[str, Any] = {}
    context = {"task_state_store": store} if store else {}
    context |= fields.pop("context", {})
    fails = fields.pop("fails", None)
    task = mail_task(**{"recipients": "a@x.org, b@x.org", **fields})
    if fails:
        with pytest.raises(fails):
            run_task(task, xcoms=xcoms, **context)
    else:
        run_task(task, xcoms=xcoms, **context)
    return xcoms


def kept(xcoms: dict[str, Any]) -> ShownMessage:
    return ShownMessage.from_dict(xcoms["email"])


def outcomes(mail: ShownMessage) -> dict[str, tuple[Outcome, str]]:
    return {each.address: (each.outcome, each.words) for each in mail.recipients}


def test_a_sent_mail_is_kept_without_its_attachments(inbox: Inbox) -> None:
    mail = kept(
        send(
            subject="Grüße",
            body="<b>Hi</b>",
            is_html=True,
            cc="Cé <c@x.org>",
            bcc="d@x.org",
            reply_to="r@x.org",
            headers={"X-Report": "daily"},
            attachment="a,b\r\n",
            attachment_name="r.csv",
        )
    )
    (received,) = inbox.mails
    assert (mail.subject, mail.sender, mail.html, mail.text) == ("Grüße", "Sender <me@x.org>", "<b>Hi</b>", "**Hi**")
    assert (mail.to, mail.cc, mail.bcc) == (("a@x.org", "b@x.org"), ("Cé <c@x.org>",), ("d@x.org",))
    assert mail.message_id == received.message["Message-ID"]
    assert mail.date == received.message["Date"]
    assert mail.size == len(received.content)
    assert mail.server == f"{inbox.host}:{inbox.port}"
    assert set(outcomes(mail).values()) == {(Outcome.ACCEPTED, "250 2.0.0 OK: mail 1")}
    assert [(each.name, each.size, each.content_type) for each in mail.attachments] == [
        ("r.csv", 5, "text/csv; charset=utf-8")
    ]
    headers = dict(mail.headers)
    assert (headers["Subject"], headers["X-Report"], headers["Cc"]) == ("Grüße", "daily", "Cé <c@x.org>")
    assert "d@x.org" not in str(headers)
    assert mail.problem == ""


def test_a_plain_mail_has_text_only(inbox: Inbox) -> None:
    mail = kept(send(body="Hi"))
    assert (mail.html, mail.text) == (None, "Hi")


def test_the_servers_queue_id_is_kept(faulty: Faulty) -> None:
    faulty(Fault(stage="body", action="250 2.0.0 Ok: queued as 4F1A2B", commit=True))
    assert kept(send()).queue_id == "4F1A2B"


def test_a_mail_that_failed_is_kept_with_the_reason_and_each_recipient(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no such user"))
    mail = kept(send(fails=AirflowFailException))
    assert outcomes(mail) == {
        "a@x.org": (Outcome.ACCEPTED, "250 2.0.0 queued as 42"),
        "b@x.org": (Outcome.REFUSED, "550 5.1.1 no such user"),
    }
    assert "5.1.1 no such user" in mail.problem


def test_a_refusal_that_is_excused_is_kept_too(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no such user"))
    mail = kept(send(on_refused="warn"))
    assert mail.counts[Outcome.REFUSED] == 1
    assert "no such user" in mail.problem


def test_a_mail_in_doubt_is_kept_as_unknown(faulty: Faulty) -> None:
    faulty(Fault(stage="body", action="drop", commit=True))
    mail = kept(send(fails=AirflowFailException))
    assert mail.counts[Outcome.UNKNOWN] == 2
    assert "may have been delivered" in mail.problem


def test_a_mail_that_reached_no_server_is_kept_as_not_sent(faulty: Faulty) -> None:
    faulty(Fault(stage="connect", action="554 5.7.1 go away"))
    mail = kept(send(body="Hi", fails=AirflowFailException))
    assert mail.counts[Outcome.UNSENT] == 2
    assert mail.text == "Hi"
    assert "go away" in mail.problem


def test_a_mail_that_could_not_be_composed_is_kept_with_the_reason(inbox: Inbox) -> None:
    mail = kept(send(recipients="nobody", fails=AirflowFailException))
    assert mail.subject == "s"
    assert "recipients" in mail.problem


def test_the_tries_of_a_task_are_joined_through_the_ledger(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action=LATER, times=1))
    store = Store()
    first = kept(send(store, fails=TransientDeliveryError))
    assert outcomes(first)["b@x.org"] == (Outcome.DEFERRED, LATER)
    second, third = kept(send(store)), kept(send(store))
    assert second.counts[Outcome.ACCEPTED] == 2
    assert outcomes(third) == outcomes(second)
    assert "nothing was sent in the last one" in third.problem


def test_a_deferred_mail_is_kept_while_it_waits_and_joined_when_it_goes_on(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action=LATER, times=1))
    xcoms: dict[str, Any] = {}
    run_through_waits(lambda: mail_task(recipients="a@x.org, b@x.org", deferrable=True), xcoms=xcoms)
    assert kept(xcoms).counts[Outcome.ACCEPTED] == 2


@pytest.mark.parametrize(
    ("configured", "parameter", "has_record", "has_body"),
    [
        (None, None, True, True),
        ("headers", None, True, False),
        ("off", None, False, False),
        ("off", "full", True, True),
        ("full", "headers", True, False),
        ("full", "off", False, False),
    ],
)
def test_how_much_is_kept(
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    configured: str | None,
    parameter: Any,
    has_record: bool,
    has_body: bool,
) -> None:
    if configured:
        monkeypatch.setenv("AIRFLOW__SMTP_INTERFACE__KEEP_SENT", configured)
    xcoms = send(keep_sent=parameter, body="Hi")
    assert ("email" in xcoms) is has_record
    if has_record:
        assert (kept(xcoms).text == "Hi") is has_body
        assert kept(xcoms).bodies_kept is has_body
    assert len(inbox.mails) == 1


def test_nothing_is_kept_without_xcoms(inbox: Inbox) -> None:
    assert send(do_xcom_push=False) == {}


def test_a_misspelt_configuration_is_an_error_before_anything_is_sent(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SMTP_INTERFACE__KEEP_SENT", "ful")
    with pytest.raises(AirflowFailException, match=r"keep_sent: 'ful' is none of full, headers, off"):
        send()
    assert inbox.mails == []
    with pytest.raises(ValueError, match=r"keep_sent: 'ful' is none of full, headers, off"):
        mail_task(keep_sent="ful")


def test_secrets_are_masked_wherever_they_stand(inbox: Inbox) -> None:
    mask_secret("hunter-two")
    record = send(
        subject="ü hunter-two",
        body="<p>hunter-two</p>",
        is_html=True,
        headers={"X-Note": "é hunter-two", "X-Password": "open sesame"},
        attachment="x",
        attachment_name="hunter-two.txt",
    )["email"]
    assert "hunter-two" not in str(record)
    assert "sesame" not in str(record)
    assert "***" in record["html"]
    assert inbox.mails[0].message["Subject"] == "ü hunter-two", "the mail itself is as its author wrote it"


def test_long_bodies_are_cut_and_no_piece_of_a_secret_is_left(inbox: Inbox) -> None:
    mask_secret("hunter-three")
    mail = kept(send(body="x" * (64 * 1024 - 6) + "hunter-three" + "y" * 100))
    assert mail.text is not None
    assert len(mail.text) <= 64 * 1024
    assert "hunter" not in mail.text
    assert mail.cut == ("text",)


def test_a_record_that_cannot_be_kept_does_not_fail_the_task(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: TaskInstance, key: str, value: Any) -> None:
        raise OSError("the backend is full")

    monkeypatch.setattr(TaskInstance, "xcom_push", full)
    assert send() == {}
    assert len(inbox.mails) == 1
    assert "could not be kept: OSError: the backend is full" in caplog.text


class TimeIsUp(BaseException):
    """What the end of ``execution_timeout`` raises is no Exception either."""


def ring_when(happened: Callable[[], bool]) -> None:
    """Let the alarm go off as soon as something has happened, in the middle of whatever the task is doing."""

    def watch() -> None:
        while not happened():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    threading.Thread(target=watch, daemon=True).start()


@pytest.fixture
def alarm() -> Iterator[None]:
    """As Airflow does: an alarm that raises in the task."""

    def ring(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("fault", "fails"),
    [
        (Fault(stage="noop", action="250 never asked"), None),
        (Fault(stage="rcpt", action="550 5.1.1 no such user"), AirflowFailException),
        (Fault(stage="body", action="drop", commit=True), AirflowFailException),
    ],
)
def test_the_end_of_the_tasks_time_while_the_record_is_kept_does_not_change_how_it_ended(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, alarm: None, fault: Fault, fails: type[Exception] | None
) -> None:
    faulty(fault)

    def push(self: TaskInstance, key: str, value: Any) -> None:
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), "the clock stands"
        self.xcoms[key] = value

    monkeypatch.setattr(TaskInstance, "xcom_push", push)
    signal.setitimer(signal.ITIMER_REAL, 60)
    assert kept(send(fails=fails))


@pytest.mark.parametrize("has_store", [True, False])
def test_a_task_whose_time_is_up_after_the_final_dot_fails_without_retry_and_names_the_doubt(
    faulty: Faulty, alarm: None, has_store: bool
) -> None:
    server = faulty(Fault(stage="body", action="hang", commit=True), extra={"data_timeout": 60})
    store = Store() if has_store else None
    ring_when(lambda: bool(server.committed))
    mail = kept(send(store, fails=AirflowFailException))
    assert mail.counts[Outcome.UNKNOWN] == 2
    assert len(server.committed) == 1
    assert "may have been delivered" in mail.problem
    if has_store:
        assert "may have been delivered" in kept(send(store, fails=AirflowFailException)).problem
        assert len(server.committed) == 1, "the ledger knows"


def test_with_resend_a_time_out_after_the_final_dot_is_named_in_the_log_and_tried_again(
    faulty: Faulty, alarm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    server = faulty(Fault(stage="body", action="hang", commit=True), extra={"data_timeout": 60})
    ring_when(lambda: bool(server.committed))
    send(Store(), fails=TimeIsUp, on_unknown="resend")
    assert "may have been delivered" in (said := capsys.readouterr().out)
    assert "It is sent again (on_unknown)" in said


def test_a_task_whose_time_is_up_before_the_final_dot_may_be_tried_again(faulty: Faulty, alarm: None) -> None:
    server = faulty(Fault(stage="rcpt", action="hang"), extra={"timeout": 60})
    ring_when(lambda: any(command.startswith("RCPT") for command in server.commands))
    assert kept(send(fails=TimeIsUp)).counts[Outcome.UNSENT] == 2


def test_a_secret_that_a_template_escaped_is_masked_and_its_surroundings_are_not(inbox: Inbox) -> None:
    secret = 'p&ss<w>"x'
    mask_secret(secret)
    mail = kept(
        send(
            is_html=True,
            body="<p title=\"{{ secret }}\">1 &lt; 2</p><b>{{ secret }}</b><a href='x?{{ secret }}'>é</a>",
            cc=str(Address(secret, "c", "x.org")),
            context={"secret": secret},
        )
    )
    assert mail.html is not None
    assert "ss&lt;w" not in mail.html
    assert "ss<w" not in str(mail)
    assert mail.html == """<p title="***">1 &lt; 2</p><b>***</b><a href='x?***'>é</a>"""


def test_a_name_with_a_comma_is_shown_as_one_name(inbox: Inbox) -> None:
    mail = kept(send(recipients='"Doe, Jane" <jane@x.org>, a@x.org'))
    assert mail.to == ('"Doe, Jane" <jane@x.org>', "a@x.org")
    assert ("To", '"Doe, Jane" <jane@x.org>, a@x.org') in mail.headers


def test_a_secret_that_lies_across_a_tags_end_costs_the_tags(inbox: Inbox) -> None:
    mask_secret("abc&def>ghi")
    html = kept(send(is_html=True, body='<p title="abc&amp;def>ghi">x</p>')).html
    assert html == "&lt;p title=&quot;***&quot;&gt;x&lt;/p&gt;"


def test_a_secret_that_is_a_word_of_the_record_does_not_break_it(inbox: Inbox) -> None:
    mask_secret("accepted")
    assert kept(send()).counts[Outcome.ACCEPTED] == 2


def test_of_very_many_recipients_those_without_the_mail_are_kept_first(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="r900@x.org", action=f"550 5.1.1 {'no ' * 300}"), max_recipients=2000)
    mail = kept(send(recipients=[f"r{number}@x.org" for number in range(1100)], fails=AirflowFailException))
    assert (len(mail.recipients), mail.unlisted) == (1000, {Outcome.ACCEPTED: 100})
    assert mail.counts == {Outcome.REFUSED: 1, Outcome.ACCEPTED: 1099}
    assert (mail.recipients[0].address, mail.recipients[0].outcome) == ("r900@x.org", Outcome.REFUSED)
    assert len(mail.recipients[0].words) == 300


def test_a_nul_which_a_database_may_not_take_is_shown_as_missing(inbox: Inbox) -> None:
    assert kept(send(body="a\0b")).text == "a\ufffdb"

"""The operator: what its templates render to, what it sends, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, literal, task

from airflow_smtp_interface.inbox import Inbox
from airflow_smtp_interface.mail.errors import TransientDeliveryError
from airflow_smtp_interface.mail.message import Attachment
from airflow_smtp_interface.operators.email_actor import EmailActorOperator
from airflow_smtp_interface.operators.exceptions import AirflowFailException, AirflowSkipException
from tests.airflow.running import OutOfReach, mail_task, run_dag, run_task
from tests.peers.fault_server import Fault, FaultServer

Faulty = Callable[..., FaultServer]


def bodies(inbox: Inbox) -> dict[str, str]:
    """Return the last mail's text parts by type."""
    parts = [part for part in inbox.mails[-1].message.walk() if part.get_content_maintype() == "text"]
    return {part.get_content_type(): part.get_content().rstrip("\r\n") for part in parts}


def attached(inbox: Inbox) -> dict[str | None, bytes]:
    return {part.get_filename(): part.get_payload(decode=True) for part in inbox.mails[-1].message.iter_attachments()}


def test_the_result_is_json_with_the_subject(inbox: Inbox) -> None:
    result = run_task(mail_task(subject="Report {{ params.day }}"), params={"day": "Monday"})
    (mail,) = inbox.mails
    assert json.loads(json.dumps(result)) == {
        "message_id": mail.message["Message-ID"],
        "sender": "me@x.org",
        "accepted": ["default@x.org"],
        "this_try": ["default@x.org"],
        "refused": {},
        "deferred": {},
        "unknown": {},
        "reply": "250 2.0.0 OK: mail 1",
        "size": len(mail.content),
        "subject": "Report Monday",
    }


def test_the_log_counts_recipients_and_names_neither_them_nor_the_content(
    inbox: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    run_task(mail_task(subject="secret subject", body="secret body", recipients="alice@x.org"))
    said = capsys.readouterr().out
    assert re.search(r"Mail <\w+@x.org> of \d+ octets through 127.0.0.1:\d+: all 1 recipients accepted", said)
    assert "alice" not in said
    assert "secret" not in said


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("recipients", ["{{ params.to }}", ["{{ params.to[0] }}", "{{ params.to[1] }}"]])
def test_templated_recipients_override_the_interfaces_to(inbox: Inbox, recipients: object, native: bool) -> None:
    run_task(mail_task(recipients=recipients, native=native), params={"to": ["a@x.org", "Bob <b@x.org>"]})
    assert inbox.mails[0].recipients == ("a@x.org", "b@x.org")


def test_every_address_field_is_templated(inbox: Inbox) -> None:
    fields = {name: f"{{{{ params.{name} }}}}" for name in ("recipients", "cc", "bcc", "sender", "reply_to")}
    run_task(mail_task(**fields), params={name: f"{name}@x.org" for name in fields})
    (mail,) = inbox.mails
    assert mail.recipients == ("recipients@x.org", "cc@x.org", "bcc@x.org")
    assert (mail.sender, mail.message["Reply-To"]) == ("sender@x.org", "reply_to@x.org")


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("flag", "html"), [("yes", True), ("False", False), (True, True), ("0", False)])
def test_is_html_is_templated_and_decides_the_escaping(inbox: Inbox, flag: object, html: bool, native: bool) -> None:
    body = "{{ params.value }} {{ params.value | safe }}"
    run_task(
        mail_task(body=body, subject="{{ params.value }}", is_html="{{ params.flag }}", native=native),
        params={"flag": flag, "value": "<b>&"},
    )
    key, expected = ("text/html", "&lt;b&gt;&amp; <b>&") if html else ("text/plain", "<b>& <b>&")
    assert bodies(inbox)[key] == expected
    assert inbox.mails[0].message["Subject"] == "<b>&", "a subject is not HTML"


def test_autoescape_can_be_switched_off(inbox: Inbox) -> None:
    run_task(mail_task(body="{{ params.v }}", is_html=True, autoescape=False), params={"v": "<b>x</b>"})
    assert bodies(inbox)["text/html"] == "<b>x</b>"


def test_the_text_alternative_is_templated_and_not_escaped(inbox: Inbox) -> None:
    run_task(mail_task(body="<p>x</p>", text="{{ params.v }}", is_html=True), params={"v": "a < b"})
    assert bodies(inbox)["text/plain"] == "a < b"


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("value", ["1", "[1, 2]", "007", "{'a': 1}", "None"])
def test_texts_stay_texts_where_the_dag_renders_native_objects(inbox: Inbox, value: str, native: bool) -> None:
    operator = mail_task(
        native=native,
        subject="{{ params.v }}",
        body="{{ params.v }}",
        attachment="{{ params.v }}",
        attachment_name="{{ params.v }}",
        headers={"X-V": "{{ params.v }}"},
    )
    run_task(operator, params={"v": value})
    message = inbox.mails[0].message
    assert (message["Subject"], message["X-V"], bodies(inbox)["text/plain"]) == (value, value, value)
    assert attached(inbox) == {value: value.encode()}


def test_literal_protects_a_value_from_rendering(inbox: Inbox) -> None:
    run_task(mail_task(body=literal("{{ not a template }}")))
    assert bodies(inbox)["text/plain"] == "{{ not a template }}"


def test_template_files_are_found_and_html_in_them_is_escaped(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "base.html.j2").write_text("<h1>{% block body %}{% endblock %}</h1>")
    (tmp_path / "body.html.j2").write_text('{% extends "base.html.j2" %}{% block body %}{{ params.v }}{% endblock %}')
    (tmp_path / "text.txt.j2").write_text("{{ params.v }}")
    operator = mail_task(folder=tmp_path, body="body.html.j2", text="text.txt.j2", is_html=True)
    run_task(operator, params={"v": "a & b"})
    assert bodies(inbox) == {"text/html": "<h1>a &amp; b</h1>", "text/plain": "a & b"}


def test_an_attachment_named_like_a_page_is_a_path(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    run_task(mail_task(attachments=["{{ params.folder }}/report.html"]), params={"folder": str(tmp_path)})
    assert attached(inbox) == {"report.html": b"<p>"}


def test_names_of_attachments_are_templated_too(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a")
    logo = Attachment.from_bytes(b"PNG", name="logo.png", content_id="logo")
    attachments = {"{{ params.day }}.csv": str(tmp_path / "a.csv"), "b.csv": b"b", "p.csv": tmp_path / "a.csv"}
    run_task(mail_task(attachments=attachments), params={"day": "Monday"})
    assert attached(inbox) == {"Monday.csv": b"a", "b.csv": b"b", "p.csv": b"a"}
    run_task(mail_task(attachments=[logo, tmp_path / "a.csv"], body='<img src="cid:logo">', is_html=True))
    assert [part.get_content_type() for part in inbox.mails[-1].message.walk()][-3:] == [
        "text/html",
        "image/png",
        "text/csv",
    ]


@pytest.mark.parametrize("content", ["äöü\n", "a,b\r\n1,2\r\n", b"\xff\x00"])
def test_the_actors_attachment_is_content_with_a_name(inbox: Inbox, content: str | bytes) -> None:
    run_task(mail_task(attachment=content, attachment_name="ä.bin"))
    assert attached(inbox) == {"ä.bin": content if isinstance(content, bytes) else content.encode()}


class XComOfNone:
    """What an upstream task has returned, which was nothing."""

    def resolve(self, context: object) -> None:
        return None


def failure(operator: EmailActorOperator, **context: Any) -> str:
    with pytest.raises(AirflowFailException) as caught:
        run_task(operator, **context)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"recipients": "{{ params.none }}"}, "recipients: is empty"),
        ({"recipients": "{{ none }}"}, "recipients: 'None' is no address: a template may have rendered to nothing"),
        ({"recipients": []}, "recipients: is empty"),
        ({"is_html": "{{ params.word }}", "body": "x"}, "is_html: 'perhaps' is neither true nor false"),
        ({"attachment": "x"}, "attachment_name: is missing"),
        ({"attachment_name": "x.csv"}, "attachment: is missing"),
        ({"attachments": ["missing.csv"]}, "missing.csv' cannot be read"),
        ({"headers": {"Bcc": "a@x.org"}}, "headers: 'Bcc' cannot be set by hand; use bcc"),
        (
            {"recipients": XComOfNone()},
            "recipients: was given, but came to None, and the interface's To would have got",
        ),
        ({"sender": XComOfNone()}, "sender: was given, but came to None, and the interface's From"),
        ({"attachments": XComOfNone()}, "attachments: was given, but came to None, and the mail would have gone out"),
        ({"attachments": {"{{ params.word }}": b"a", "perhaps": b"b"}}, "attachments: two names render to 'perhaps'"),
        ({"attachments": ["s3://bucket/key"]}, "attachments: 's3://bucket/key' cannot be read: "),
        ({"attachments": ["nosuch://x/y"]}, "x/y' cannot be read: "),
        ({"subject": "a\nb"}, "subject: 'a\\nb' holds the control character"),
    ],
)
def test_what_cannot_be_sent_fails_without_retry(faulty: Faulty, fields: dict[str, Any], problem: str) -> None:
    server = faulty()
    assert problem in failure(mail_task(**fields), params={"none": "", "word": "perhaps"})
    assert server.connections == 0


def test_a_template_that_renders_to_none_as_a_native_object_does_not_mail_the_default_list(faulty: Faulty) -> None:
    server = faulty()
    text = failure(mail_task(recipients="{{ params.none }}", native=True), params={"none": None})
    assert "recipients: was given, but came to None" in text
    assert server.connections == 0


class OnCall(EmailActorOperator):
    """Hands its recipients on, whatever they are."""

    def __init__(self, *, recipients: str | None = None, **fields: Any) -> None:
        super().__init__(recipients=recipients, **fields)


def test_a_mapped_task_does_not_mail_the_default_list_for_a_none(inbox: Inbox) -> None:
    with DAG("owners", schedule=None) as dag:

        @task
        def owners() -> list[str | None]:
            return ["a@x.org", None]

        EmailActorOperator.partial(task_id="mail", subject="s", body="b").expand(recipients=owners())
        EmailActorOperator.partial(task_id="usual", subject="s").expand(body=["b"])
        OnCall.partial(task_id="on_call", subject="s").expand(body=["b"])
        EmailActorOperator.partial(task_id="overridden", subject="s", body="b", recipients="p@x.org").expand_kwargs(
            [{"recipients": None}], strict=False
        )
    states = {(each.task_id, each.map_index): str(each.state) for each in run_dag(dag).get_task_instances()}
    assert states == {
        ("owners", -1): "success",
        ("mail", 0): "success",
        ("mail", 1): "failed",
        ("usual", 0): "success",
        ("on_call", 0): "success",
        ("overridden", 0): "failed",
    }
    assert sorted(mail.recipients for mail in inbox.mails) == [("a@x.org",), ("default@x.org",), ("default@x.org",)]


@pytest.mark.parametrize("text", ["[]", "()", "{}", " [ ] "])
def test_an_upstream_empty_list_of_attachments_means_none(inbox: Inbox, text: str) -> None:
    run_task(mail_task(attachments="{{ params.files }}"), params={"files": text})
    assert not attached(inbox)


def test_a_store_that_is_out_of_reach_is_tried_again_later(faulty: Faulty) -> None:
    server = faulty()
    with pytest.raises(TransientDeliveryError, match=r"^attachments: 's3://bucket/report.csv' cannot be read now, so"):
        run_task(mail_task(attachments=[OutOfReach()]))
    assert server.connections == 0


def test_html_that_no_parser_takes_is_sent_with_a_text_all_the_same(inbox: Inbox) -> None:
    run_task(mail_task(body="<p>rows<![0]></p>", is_html=True))
    assert bodies(inbox) == {"text/plain": "rows<![0]>", "text/html": "<p>rows<![0]></p>"}


def test_a_generator_serves_every_try_and_a_set_is_serialized_in_one_order(faulty: Faulty) -> None:
    server = faulty(Fault(stage="mail", action="451 4.3.0 later", times=1))
    operator = mail_task(recipients=(f"{name}@x.org" for name in "ab"), cc={f"{name}@x.org" for name in "zyxwv"})
    with pytest.raises(TransientDeliveryError):
        run_task(operator)
    run_task(operator)
    assert server.committed[0].recipients == tuple(f"{name}@x.org" for name in "abvwxyz")


def test_execute_by_hand_needs_no_task_instance(inbox: Inbox) -> None:
    assert mail_task().execute({})["accepted"] == ["default@x.org"]
    assert inbox.mails[0].message["Message-ID"].endswith("@x.org>")


def test_an_unusable_connection_fails_without_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_INTERFACE_DEFAULT", "smtp-interface://?timeout=x")
    text = failure(mail_task())
    assert "Host: is empty" in text
    assert "timeout: 'x'" in text


@pytest.mark.parametrize(("field", "value"), [("on_refused", "ignore"), ("on_inactive", "warn")])
def test_a_misspelt_policy_is_found_when_the_dag_is_parsed(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: '{value}' is none of"):
        mail_task(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("max_wait", 3600, r"max_wait: 3600 is int; pass one such as timedelta\(hours=4\)"),
        ("deferrable", "no", "deferrable: 'no' is str; pass True or False"),
    ],
)
def test_a_parameter_of_another_type_is_found_when_the_dag_is_parsed(field: str, value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        mail_task(**{field: value})


def test_a_refusal_fails_without_retry_and_names_who_got_the_mail(faulty: Faulty) -> None:
    server = faulty(Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no such user"))
    text = failure(mail_task(recipients="a@x.org, b@x.org"))
    assert "Refused: b@x.org (550 5.1.1 no such user)." in text
    assert "Accepted: a@x.org." in text
    assert len(server.committed) == 1


def test_on_refused_warn_ends_green_with_the_refusal_in_the_result(
    faulty: Faulty, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action="550 5.1.1 no such user"))
    result = run_task(mail_task(recipients="a@x.org, b@x.org", on_refused="warn"))
    assert (result["accepted"], result["refused"]) == (["a@x.org"], {"b@x.org": "550 5.1.1 no such user"})
    assert "Ended green all the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(stage="rcpt", action="550 5.1.1 no")],
        [Fault(stage="rcpt", address="a@x.org", action="450 4.1.1 no")],
        [Fault(stage="body", action="drop")],
    ],
)
def test_on_refused_warn_excuses_nothing_else(faulty: Faulty, faults: list[Fault]) -> None:
    faulty(*faults)
    failure(mail_task(recipients="a@x.org, b@x.org", on_refused="warn"))


def test_a_deferral_of_everybody_is_an_ordinary_error_that_airflow_retries(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", action="450 4.7.1 greylisted"))
    with pytest.raises(TransientDeliveryError, match="greylisted"):
        run_task(mail_task())


def test_a_partly_accepted_mail_is_not_retried_because_some_would_get_it_twice(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", address="b@x.org", action="450 4.7.1 greylisted"))
    text = failure(mail_task(recipients="a@x.org, b@x.org"))
    assert text.endswith(
        "Not retried, because this Airflow keeps no record (3.3 does) of those who have it, and clearing the task "
        "would mail them again: a@x.org; deferrable=True goes on with the rest."
    )
    assert "Deferred: b@x.org (450 4.7.1 greylisted)." in text


def test_an_unknown_outcome_is_not_retried(faulty: Faulty) -> None:
    faulty(Fault(stage="body", action="drop", commit=True))
    text = failure(mail_task())
    assert "may have been delivered" in text
    assert "Message-ID <" in text


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_an_interface_that_is_switched_off_fails_or_skips(faulty: Faulty, policy: str) -> None:
    server = faulty(extra={"active": "off"})
    kind = AirflowSkipException if policy == "skip" else AirflowFailException
    with pytest.raises(kind, match="connection 'smtp_interface_default' is switched off") as caught:
        run_task(mail_task(on_inactive=policy))
    assert str(caught.value).endswith("switch Active on to send" if policy == "skip" else 'on_inactive="skip"')
    assert server.connections == 0


def test_the_message_id_is_the_same_on_each_try_and_another_for_anything_else(inbox: Inbox) -> None:
    def message_id(**context: int) -> str:
        return run_task(mail_task(), **context)["message_id"]

    first = message_id()
    assert first == message_id()
    assert len({first, message_id(map_index=1), message_id(map_index=2), message_id(max_tries=1)}) == 4


def test_other_connections_can_be_named_by_a_template(inbox: Inbox, connect_to: Callable[..., None]) -> None:
    connect_to(inbox, conn_id="other", to="other@x.org")
    run_task(mail_task(smtp_interface_conn_id="{{ params.conn }}"), params={"conn": "other"})
    assert inbox.mails[0].recipients == ("other@x.org",)


def test_a_whole_dag_retries_what_can_be_retried_and_sends_once(faulty: Faulty) -> None:
    server = faulty(Fault(stage="mail", action="451 4.3.0 later", times=1))
    with DAG("retries", schedule=None) as dag:
        EmailActorOperator(task_id="mail", subject="s", body="b", retries=2, retry_delay=0)
    run = run_dag(dag)
    (instance,) = run.get_task_instances()
    assert (str(instance.state), instance.try_number, len(server.committed)) == ("success", 2, 1)


def test_a_whole_dag_does_not_retry_what_cannot_be_helped(faulty: Faulty) -> None:
    server = faulty(Fault(stage="mail", action="550 5.7.1 never"))
    with DAG("no_retries", schedule=None) as dag:
        EmailActorOperator(task_id="mail", subject="s", body="b", retries=2, retry_delay=0)
    (instance,) = run_dag(dag).get_task_instances()
    assert (str(instance.state), instance.try_number) == ("failed", 1)
    assert sum(command.startswith("MAIL") for command in server.commands) == 1


def test_subject_and_body_may_be_upstream_results(inbox: Inbox) -> None:
    with DAG("upstream", schedule=None) as dag:

        @task
        def write(text: str) -> str:
            return text

        EmailActorOperator(
            task_id="mail",
            subject=write.override(task_id="subject")("Figures"),
            body=write.override(task_id="body")("<p>a & b</p>"),
            is_html=True,
            attachments=write.override(task_id="files")("['/etc/hostname']"),
        )
    run_dag(dag)
    assert inbox.mails[0].message["Subject"] == "Figures"
    assert bodies(inbox)["text/html"] == "<p>a & b</p>", "an upstream result is not rendered, so not escaped"
    assert attached(inbox) == {"hostname": Path("/etc/hostname").read_bytes()}


def test_mapped_mails_are_rendered_and_escaped_each(inbox: Inbox) -> None:
    with DAG("mapped", schedule=None) as dag:
        EmailActorOperator.partial(task_id="mail", subject="s", is_html="{{ 'yes' }}").expand_kwargs(
            [
                {"recipients": "a@x.org", "body": "<p>{{ params.v }}</p>", "params": {"v": "<a>"}},
                {"recipients": "b@x.org", "body": "<p>{{ params.v }}</p>", "params": {"v": "<b>"}},
            ]
        )
    run_dag(dag)
    html = {mail.recipients: mail.message.get_body(("html",)).get_content().strip() for mail in inbox.mails}
    assert html == {("a@x.org",): "<p>&lt;a&gt;</p>", ("b@x.org",): "<p>&lt;b&gt;</p>"}


def test_a_task_says_quit(faulty: Faulty) -> None:
    server = faulty()
    run_task(mail_task())
    server.settle()
    assert server.commands[-1] == "QUIT"

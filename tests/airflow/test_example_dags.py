"""Each example Dag runs, and its mails arrive."""

from __future__ import annotations

import pytest

from airflow_smtp_interface.inbox import Inbox, ReceivedMail
from tests.airflow.conftest import EXAMPLES
from tests.airflow.running import load_dag, run_dag


def run(name: str, inbox: Inbox) -> list[ReceivedMail]:
    dag_run = run_dag(load_dag(EXAMPLES / f"{name}.py"))
    assert str(dag_run.state) == "success"
    return inbox.mails


def test_every_example_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        name.removeprefix("test_") for name in globals() if name.startswith("test_example_")
    }


def test_example_html_report(inbox: Inbox) -> None:
    (mail,) = run("example_html_report", inbox)
    assert mail.recipients == ("sales@example.com", "boss@example.com")
    html = mail.message.get_body(("html",))
    text = mail.message.get_body(("plain",))
    assert html is not None
    assert text is not None
    assert "<td>Tea &lt;green&gt;</td><td>120</td>" in html.get_content()
    assert "| Tea <green> | 120 |" in text.get_content()
    (attachment,) = mail.message.iter_attachments()
    assert attachment.get_filename() == "sales.csv"
    assert attachment.get_payload(decode=True) == b"Tea <green>,120\r\nCoffee,340\r\n"


def test_example_recipients(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_REPORT_RECIPIENTS", "a@example.com; b@example.com")
    mails = run("example_recipients", inbox)
    assert {mail.recipients for mail in mails} == {
        ("a@example.com", "b@example.com"),
        ("oncall@example.com", "deputy@example.com"),
    }


def test_example_mapped_mails(inbox: Inbox) -> None:
    alice, bob = sorted(run("example_mapped_mails", inbox), key=lambda mail: mail.recipients)
    assert (alice.recipients, bob.recipients) == (("alice@example.com",), ("bob@example.com",))
    assert b"Dear Bob &amp; Sons" in bob.content

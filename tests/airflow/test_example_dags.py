"""Each example Dag runs, and its mails arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_smtp_interface.inbox import Inbox, ReceivedMail
from tests.airflow.running import HAS_STORE, load_dag, run_dag
from tests.airflow_home import EXAMPLES
from tests.peers.fault_server import Fault, FaultServer


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


@pytest.mark.parametrize(
    ("fault", "reason", "copies"),
    [
        (Fault(stage="rcpt", action="450 4.7.1 greylisted", times=1), "the server asked for another try", 1),
        (Fault(stage="body", action="drop", commit=True, times=1), "the answer was lost", 2),
    ],
)
def test_example_retry_policy(
    faulty: Callable[..., FaultServer], capsys: pytest.CaptureFixture[str], fault: Fault, reason: str, copies: int
) -> None:
    path = EXAMPLES / "example_retry_policy.py"
    if not HAS_STORE:
        with pytest.raises(ImportError, match="ExceptionRetryPolicy"):  # it is for Airflow 3.3, as its docstring says
            load_dag(path)
        return
    server = faulty(fault)
    dag = load_dag(path)
    policy = dag.task_dict["send"].retry_policy
    policy.rules = [replace(rule, retry_delay=timedelta()) for rule in policy.rules]  # nobody waits ten minutes here
    (instance,) = run_dag(dag).get_task_instances()
    assert (str(instance.state), instance.try_number) == ("success", 2)
    assert len(server.committed) == copies
    assert reason in capsys.readouterr().out

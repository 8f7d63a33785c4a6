"""Run an example Dag against the embedded inbox and show each mail as the server received it: ``make demo``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).parent / "example_dags"
LINE = "─" * 100


def main() -> int:
    """Return 0 only if every mail arrived byte for byte."""
    with tempfile.TemporaryDirectory(prefix="smtp-interface-demo-") as home:
        os.environ.update(
            {
                "AIRFLOW_HOME": home,
                "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            }
        )
        return show()


def show() -> int:
    """Run the Dag and print what came of it."""
    from airflow.utils.db import initdb  # Airflow reads its home when it is imported

    from airflow_smtp_interface.inbox import Inbox
    from tests.airflow.running import load_dag, run_dag

    print("Setting up Airflow in a temporary folder …", flush=True)
    initdb()
    with Inbox() as inbox:
        os.environ["AIRFLOW_CONN_SMTP_INTERFACE_DEFAULT"] = (
            f"smtp-interface://{inbox.host}:{inbox.port}/?from=Demo+%3Cdemo%40example.com%3E&to=default%40example.com&security=none"
        )
        run = run_dag(load_dag(EXAMPLES / "example_html_report.py"))
        mails = list(inbox.mails)
    results = {ti.task_id: ti.xcom_pull(task_ids=ti.task_id) for ti in run.get_task_instances()}
    for mail in mails:
        print_mail(mail)
    print(f"{LINE}\nXCom of send_report\n{json.dumps(results['send_report'], indent=2)}\n{LINE}")
    problems = differences(mails, results)
    print("\n".join(problems) or f"{len(mails)} mail arrived byte for byte; the Dag ended in state {run.state}.")
    return 1 if problems or run.state != "success" else 0


def print_mail(mail: object) -> None:
    """Print envelope, headers, texts and attachments."""
    message = mail.message
    print(f"{LINE}\nMAIL FROM: {mail.sender}")
    for recipient in mail.recipients:
        print(f"RCPT TO: {recipient}")
    print(*(f"{name}: {value}" for name, value in message.items()), sep="\n")
    for part in message.walk():
        if part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        name = f" {part.get_filename()!r}" if part.get_filename() else ""
        print(f"\n── {part.get_content_type()}{name}, {len(content)} octets\n{content.decode()}")


def differences(mails: list, results: dict) -> list[str]:
    """Compare what arrived with what the Dag wrote, rendered here once more from its sources."""
    import jinja2

    from tests.airflow.running import load_dag

    if len(mails) != 1:
        return [f"{len(mails)} mails arrived instead of 1"]
    (mail,) = mails
    message = mail.message
    dag = load_dag(EXAMPLES / "example_html_report.py")
    template = jinja2.Environment(autoescape=True, keep_trailing_newline=True).from_string(
        (EXAMPLES / "report.html.j2").read_text()
    )

    class Results:
        xcom_pull = staticmethod(lambda task_ids: results[task_ids])

    html = template.render(params=dag.params.dump(), ti=Results).replace("\n", "\r\n")
    (attachment,) = message.iter_attachments()
    checks = {
        "recipients": (mail.recipients, ("sales@example.com", "boss@example.com")),
        "size": (len(mail.content), results["send_report"]["size"]),
        "Message-ID": (message["Message-ID"], results["send_report"]["message_id"]),
        "HTML": (message.get_body(("html",)).get_payload(decode=True), html.encode()),
        "file": (attachment.get_payload(decode=True), results["as_csv"].encode()),
        "file name": (attachment.get_filename(), "sales.csv"),
    }
    return [f"{what}: {got!r} arrived, not {sent!r}" for what, (got, sent) in checks.items() if got != sent]


if __name__ == "__main__":
    sys.exit(main())

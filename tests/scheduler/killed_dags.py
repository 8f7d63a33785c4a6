"""Dags for the kill test: each mails through a connection of its own id, as soon as the scheduler sees it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

MAILS: dict[str, dict[str, object]] = {
    "killed_while_connecting": {},
    "killed_in_the_envelope": {},
    "killed_after_the_dot": {},
    "killed_after_the_dot_resend": {"on_unknown": "resend"},
    "killed_after_the_record": {},
    "greylisted": {"deferrable": True, "retries": 0},
}


class Mail(EmailActorOperator):
    """Waits in the triggerer for a moment only, and stays after its first mail, if told, until it is killed."""

    delays = (timedelta(seconds=1),)

    def execute(self, context):
        result = super().execute(context)
        if context["dag"].dag_id == "killed_after_the_record" and context["ti"].try_number == 1:
            Path(__file__).with_name("recorded").touch()
            time.sleep(600)
        return result


for dag_id, fields in MAILS.items():
    with DAG(dag_id, schedule="@once", catchup=False) as dag:
        Mail(
            **{
                "task_id": "mail",
                "smtp_interface_conn_id": dag_id,
                "subject": dag_id,
                "body": "b",
                "recipients": "a@x.org, b@x.org",
                "retries": 1,
                "retry_delay": timedelta(seconds=1),
                **fields,
            }
        )
    globals()[dag_id] = dag

"""One mail through the connection that a test has filled in by hand, with its To and From. It gives a secret away."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

with DAG("mail_through_the_form", schedule=None) as dag:
    EmailActorOperator(
        task_id="send",
        smtp_interface_conn_id="by_hand",
        subject="Report of {{ ds }}",
        body="All rows were loaded. Never do this: {{ conn.by_hand.password }}",
    )

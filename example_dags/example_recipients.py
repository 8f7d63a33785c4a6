"""Who gets the mail: a Variable says so, an upstream task says so, and each overrides the interface's To."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

with DAG("example_recipients", schedule=None, catchup=False, tags=["smtp_interface"]) as dag:
    EmailActorOperator(
        task_id="to_a_variable",
        recipients="{{ var.value.report_recipients }}",  # such as: a@example.com, b@example.com
        subject="Recipients from a Variable",
        body="The Variable report_recipients named you.",
    )

    @task
    def who_is_on_call() -> list[str]:
        """Stand in for a look-up."""
        return ["On Call <oncall@example.com>", "deputy@example.com"]

    EmailActorOperator(
        task_id="to_an_upstream_result",
        recipients=who_is_on_call(),
        subject="Recipients from an upstream task",
        body="You are on call.",
    )

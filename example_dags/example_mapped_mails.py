"""One mail for each row of an upstream result, by dynamic task mapping; each is a task of its own, with its retries."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

with DAG("example_mapped_mails", schedule=None, catchup=False, tags=["smtp_interface"]) as dag:

    @task
    def invoices() -> list[dict[str, object]]:
        """Stand in for a query."""
        return [
            {"recipients": "alice@example.com", "params": {"name": "Alice", "due": "12.50"}},
            {"recipients": "Bob <bob@example.com>", "params": {"name": "Bob & Sons", "due": "99.00"}},
        ]

    EmailActorOperator.partial(
        task_id="send_invoice",
        subject="Invoice for {{ params.name }}",
        is_html=True,
        body="<p>Dear {{ params.name }}, please pay <b>{{ params.due }}</b>.</p>",
    ).expand_kwargs(invoices())

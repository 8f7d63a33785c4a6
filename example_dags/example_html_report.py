"""An HTML report with a CSV file: the body is a template file, the file is an upstream result."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

with DAG(
    "example_html_report",
    schedule=None,
    catchup=False,
    params={"recipients": "Sales <sales@example.com>, boss@example.com", "title": "Sales & returns"},
    tags=["smtp_interface"],
) as dag:

    @task
    def count() -> list[dict[str, object]]:
        """Stand in for a query."""
        return [{"product": "Tea <green>", "sold": 120}, {"product": "Coffee", "sold": 340}]

    @task
    def as_csv(rows: list[dict[str, object]]) -> str:
        """Write the rows as CSV."""
        return "".join(f"{row['product']},{row['sold']}\r\n" for row in rows)

    rows = count()
    EmailActorOperator(
        task_id="send_report",
        recipients="{{ params.recipients }}",  # overrides the interface's To
        subject="{{ params.title }} of {{ dag_run.run_id }}",
        is_html=True,
        body="report.html.j2",  # values are escaped
        attachment=as_csv(rows),
        attachment_name="sales.csv",
    )

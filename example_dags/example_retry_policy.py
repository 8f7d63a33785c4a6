"""Retries by cause (Airflow 3.3): our errors reach a retry policy as they are, so it can tell them apart.

Permanent errors never get here: they fail the task at once.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

ERRORS = "airflow_smtp_interface.mail.errors"

with DAG("example_retry_policy", schedule=None, catchup=False, tags=["smtp_interface"]) as dag:
    EmailActorOperator(
        task_id="send",
        recipients="alice@example.com",
        subject="Retried by cause",
        body="Greylisting wants another try soon; a lost answer one at leisure, under the same Message-ID.",
        on_unknown="resend",
        retries=3,
        retry_policy=ExceptionRetryPolicy(
            rules=[
                RetryRule(
                    exception=f"{ERRORS}.TransientDeliveryError",
                    action=RetryAction.RETRY,
                    retry_delay=timedelta(seconds=1),
                    reason="the server asked for another try",
                ),
                RetryRule(
                    exception=f"{ERRORS}.OutcomeUnknown",
                    action=RetryAction.RETRY,
                    retry_delay=timedelta(minutes=10),
                    reason="the answer was lost",
                ),
            ]
        ),
    )

"""Airflow's exceptions, from where the running version keeps them."""

from __future__ import annotations

try:
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[no-redef]
        AirflowFailException,
        AirflowSkipException,
        TaskDeferred,
    )

__all__ = ["AirflowFailException", "AirflowSkipException", "TaskDeferred"]

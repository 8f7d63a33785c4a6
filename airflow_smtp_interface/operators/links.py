"""The link in a task's details that leads to its Email tab."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from typing import Any

TAB = "sent-email"
"""The last part of the tab's address in Airflow's pages."""


class SentEmailLink(BaseOperatorLink):
    """Leads to the Email tab of a task instance."""

    name = "Sent email"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the tab's address, relative to the server where ``[api] base_url`` is not set.

        :param operator: the task.
        :param ti_key: names Dag, run, task and map index.
        """
        try:
            from airflow.sdk.configuration import conf
        except ImportError:  # Airflow 3.1
            from airflow.configuration import conf
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        dag, run, task = (quote(each, safe="") for each in (ti_key.dag_id, ti_key.run_id, ti_key.task_id))
        mapped = f"/mapped/{ti_key.map_index}" if ti_key.map_index >= 0 else ""
        return f"{base}/dags/{dag}/runs/{run}/tasks/{task}{mapped}/plugin/{TAB}"

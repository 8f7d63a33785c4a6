"""Airflow in a temporary home. Imported by each folder of tests that imports Airflow, before it does."""

from __future__ import annotations

import os
import tempfile
from base64 import b64encode
from pathlib import Path

import pytest

HOME = tempfile.TemporaryDirectory(prefix="airflow-test-")
EXAMPLES = Path(__file__).parents[1] / "example_dags"
os.environ.update(
    {
        "AIRFLOW_HOME": HOME.name,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME.name}/airflow.db",
        "AIRFLOW__CORE__FERNET_KEY": b64encode(os.urandom(32), b"-_").decode(),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{HOME.name}/logs",
    }
)


def leave_its_warnings_to_airflow(items: list[pytest.Item], where: Path) -> None:
    """Let only our own warnings be errors in the tests of a folder or file."""
    for item in items:
        if where in (item.path, *item.path.parents):
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::airflow_smtp_interface"))

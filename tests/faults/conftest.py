"""Airflow in a temporary home, set up before anything imports it; no database is needed here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

HOME = tempfile.TemporaryDirectory(prefix="airflow-test-")
os.environ.update({"AIRFLOW_HOME": HOME.name, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Airflow's own warnings to Airflow; ours stay errors."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::airflow_smtp_interface"))

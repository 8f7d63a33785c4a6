"""Airflow's home for the matrix; no database is needed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow_home import leave_its_warnings_to_airflow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Airflow's own warnings to Airflow; ours stay errors."""
    leave_its_warnings_to_airflow(items, Path(__file__).parent)

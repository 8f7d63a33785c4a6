"""Airflow's home for the tests that import it; those that do not run without Airflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.airflow_home import leave_its_warnings_to_airflow
from tests.hostile.inputs import RECIPIENT, SENDER, Input
from tests.peers.fault_server import FaultServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Airflow's own warnings to Airflow; ours stay errors."""
    leave_its_warnings_to_airflow(items, Path(__file__).parent / "test_hook_and_operator.py")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FaultServer]]:
    """Start the server that an input asks for, behind Airflow's default connection with the fields given."""
    with ExitStack() as stack:

        def start(row: Input, **fields: object) -> FaultServer:
            server = stack.enter_context(FaultServer(extensions=row.extensions))
            extra = {"security": "none", "from": SENDER, "to": RECIPIENT, "timeout": 5, "connect_attempts": 1}
            extra |= fields.pop("extra", {})  # type: ignore[arg-type]
            given = {"conn_type": "smtp_interface", "host": server.host, "port": server.port, **fields, "extra": extra}
            monkeypatch.setenv("AIRFLOW_CONN_SMTP_INTERFACE_DEFAULT", json.dumps(given))
            return server

        yield start

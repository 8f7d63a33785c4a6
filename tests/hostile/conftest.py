"""Airflow's home for the tests that import it; those that do not run without Airflow."""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.inputs import RECIPIENT, SENDER, Input
from tests.peers.fault_server import FaultServer

HOME = tempfile.TemporaryDirectory(prefix="airflow-test-")
if not Path(os.environ.get("AIRFLOW_HOME", "")).name.startswith("airflow-test-"):  # tests/airflow has set one up
    os.environ.update(
        {
            "AIRFLOW_HOME": HOME.name,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME.name}/airflow.db",
            "AIRFLOW__CORE__FERNET_KEY": b64encode(os.urandom(32), b"-_").decode(),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{HOME.name}/logs",
        }
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Airflow's own warnings to Airflow; ours stay errors."""
    for item in items:
        if item.path == Path(__file__).parent / "test_hook_and_operator.py":
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::airflow_smtp_interface"))


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

"""Airflow in a temporary home, set up before anything imports it, and connections to the tests' servers."""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

HOME = tempfile.TemporaryDirectory(prefix="airflow-test-")
EXAMPLES = Path(__file__).parents[2] / "example_dags"
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

from airflow_smtp_interface.inbox import Inbox  # noqa: E402 Airflow reads its home when it is imported
from tests.peers.fault_server import Fault, FaultServer  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Airflow's own warnings to Airflow; ours stay errors."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::airflow_smtp_interface"))


@pytest.fixture(scope="session", autouse=True)
def database() -> Iterator[None]:
    """A migrated database, as ``dag.test()`` needs it."""
    from airflow.utils.db import initdb

    initdb()
    yield
    HOME.cleanup()


@pytest.fixture
def connect_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Define an Airflow connection to a server, in clear unless its extras say otherwise."""

    def define(server: Inbox | FaultServer, *, conn_id: str = "smtp_interface_default", **extra: object) -> None:
        login, password = extra.pop("login", None), extra.pop("password", None)
        given = {"security": "none", "from": "Sender <me@x.org>", "to": "default@x.org", "timeout": 5}
        connection = {
            "conn_type": "smtp_interface",
            "host": server.host,
            "port": server.port,
            "login": login,
            "password": password,
            "extra": {**given, "connect_attempts": 1, **extra},
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))

    return define


@pytest.fixture
def inbox(connect_to: Callable[..., None]) -> Iterator[Inbox]:
    """The embedded mail server, behind the default connection."""
    with Inbox() as server:
        connect_to(server)
        yield server


@pytest.fixture
def faulty(connect_to: Callable[..., None]) -> Iterator[Callable[..., FaultServer]]:
    """Start a misbehaving mail server behind the default connection."""
    with ExitStack() as stack:

        def start(*plan: Fault, extra: dict[str, object] | None = None, **options: object) -> FaultServer:
            server = stack.enter_context(FaultServer(plan=list(plan), **options))  # type: ignore[arg-type]
            connect_to(server, **(extra or {}))
            return server

        yield start

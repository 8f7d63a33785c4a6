"""Airflow in a temporary home, set up before anything imports it, and connections to the tests' servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_smtp_interface.inbox import Inbox
from tests.airflow_home import HOME, leave_its_warnings_to_airflow
from tests.peers.fault_server import Fault, FaultServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Airflow's own warnings to Airflow; ours stay errors."""
    leave_its_warnings_to_airflow(items, Path(__file__).parent)


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

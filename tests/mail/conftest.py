"""Servers and settings for the tests of the mail core."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import hypothesis
import pytest
import trustme

from airflow_smtp_interface.mail.settings import Security, SmtpSettings
from tests.peers.fault_server import Fault, FaultServer

# A random seed or a slow moment of the machine shall not decide whether the tests pass.
hypothesis.settings.register_profile("ours", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ours")


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of the tests' own."""

    authority: trustme.CA

    @property
    def pem(self) -> str:
        """What goes into *CA certificate*."""
        return self.authority.cert_pem.bytes().decode()

    def server(self, *names: str) -> ssl.SSLContext:
        """Return a server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """One authority for all tests."""
    return Certificates(trustme.CA())


@pytest.fixture
def serve() -> object:
    """Start fault servers that end with the test."""
    with ExitStack() as stack:

        def start(*plan: Fault, **options: object) -> FaultServer:
            return stack.enter_context(FaultServer(plan=[replace(fault) for fault in plan], **options))  # type: ignore[arg-type]

        yield start


Serve = Callable[..., FaultServer]


@pytest.fixture
def settings_for() -> Callable[..., SmtpSettings]:
    """Make settings for a server: in clear, short of patience, one attempt."""

    def make(server: FaultServer, **fields: object) -> SmtpSettings:
        given: dict[str, object] = {
            "security": Security.NONE,
            "timeout": 2.0,
            "data_timeout": 2.0,
            "connect_attempts": 1,
            "name": "test",
            "host": server.host,
            "port": server.port,
        }
        return SmtpSettings(**{**given, **fields})  # type: ignore[arg-type]

    return make

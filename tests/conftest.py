"""What all tests share."""

from __future__ import annotations

import pytest

from airflow_smtp_interface.mail.session import DISTRUSTED


@pytest.fixture(autouse=True)
def trust_anew() -> None:
    """Forget which ports have pipelined badly: the kernel gives a port of an earlier test's server to a later one."""
    DISTRUSTED.clear()

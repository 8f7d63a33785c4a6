"""Every cell of the matrix, through the hook: nothing lost, nothing twice, no cause hidden."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
from airflow_smtp_interface.mail.delivery import Delivery, Stage
from airflow_smtp_interface.mail.errors import DeliveryError, TransientDeliveryError, incomplete_error
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.settings import Security
from tests.faults.cells import BOTH, CELLS, PASSWORD, TIMEOUT, USER, Cell
from tests.peers.fault_server import Authority, FaultServer

OWN_SECONDS = 3.0  # for what takes no time of its own; a busy machine has little to spare
DO_NOT_FIT = ("garbage", "no-code", "mixed-codes", "long-line", "endless-lines", "inject", "2", "3")
STAGE_IN_WORDS = {
    Stage.CONNECT: "connecting",
    Stage.TLS: "starting TLS",
    Stage.AUTH: "logging in",
    Stage.SENDER: "MAIL FROM",
    Stage.RECIPIENT: "RCPT TO",
    Stage.DATA: "DATA",
    Stage.CONTENT: "sending the content",
    Stage.ACCEPTANCE: "the reply to the final dot",
}


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


def connection_to(server: FaultServer, cell: Cell, ca_certificate: str) -> str:
    """The JSON of an Airflow connection."""
    extra: dict[str, object] = {
        "security": cell.way,
        "from": "me@x.org",
        "timeout": TIMEOUT,
        "data_timeout": TIMEOUT,
        "connect_attempts": 1,
    }
    if cell.way is not Security.NONE:
        extra["ca_certificate"] = ca_certificate
    return json.dumps(
        {
            "conn_type": "smtp_interface",
            "host": server.host,
            "port": server.port,
            "login": USER if cell.login else None,
            "password": PASSWORD if cell.login else None,
            "extra": {**extra, **cell.extra},
        }
    )


def send(attachments: dict[str, str]) -> tuple[Delivery | None, DeliveryError | None]:
    try:
        with SmtpInterfaceHook("matrix") as hook:
            delivery = hook.send_email(subject="Quarterly", body="Figures", recipients=BOTH, attachments=attachments)
    except DeliveryError as error:
        return error.delivery, error
    return delivery, None


def send_in_bulk(attachments: dict[str, str]) -> tuple[Delivery | None, DeliveryError | None]:
    email = Email.compose(subject="Quarterly", body="Figures", recipients=BOTH, attachments=attachments)
    try:
        with SmtpInterfaceHook("matrix") as hook:
            (delivery,) = hook.send_all([email], connections=1)
            return delivery, incomplete_error(delivery, where=hook.settings.where)
    except DeliveryError as error:
        return error.delivery, error


@pytest.mark.parametrize("send", [send, send_in_bulk])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_nothing_is_lost_nothing_comes_twice_and_the_cause_is_named(
    cell: Cell,
    send: Callable[[dict[str, str]], tuple[Delivery | None, DeliveryError | None]],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    attachments = {}
    if cell.attachment:
        (tmp_path / "big.bin").write_bytes(bytes(cell.attachment))
        attachments = {"big.bin": str(tmp_path / "big.bin")}
    with cell.start(authority) as server:
        monkeypatch.setenv("AIRFLOW_CONN_MATRIX", connection_to(server, cell, authority.pem))
        started = time.monotonic()
        delivery, error = send(attachments)
        took = time.monotonic() - started
        server.settle()

    if send is send_in_bulk and server.connections == cell.connections + 1:
        check_second_session(cell, delivery, server)
        return
    check_error(cell, error)
    check_recipients(cell, delivery)
    check_server(cell, server)
    assert cell.pauses <= took < cell.seconds + 2 * cell.pauses + OWN_SECONDS


def check_second_session(cell: Cell, delivery: Delivery | None, server: FaultServer) -> None:
    """After a reply that does not fit, bulk sending goes on one command at a time: once, and if nobody has the mail."""
    assert cell.error is TransientDeliveryError
    assert any(fault.partition("=")[2].startswith(DO_NOT_FIT) for fault in cell.faults)
    assert cell.stage in (Stage.SENDER, Stage.RECIPIENT, Stage.DATA, Stage.CONTENT)
    assert delivery
    if delivery.complete:
        assert server.copies == dict.fromkeys(BOTH, 1)
    else:
        check_recipients(cell, delivery)
        assert server.copies == cell.copies


def check_error(cell: Cell, error: DeliveryError | None) -> None:
    """Its class, stage and words, and that it holds no secret."""
    if cell.error is None or error is None:
        assert cell.error is None, "no error"
        assert error is None, str(error)
        return
    assert (type(error), error.stage) == (cell.error, cell.stage), str(error)
    assert f"{STAGE_IN_WORDS[error.stage]}: " in str(error)
    assert re.search(cell.words, str(error)), str(error)
    assert PASSWORD not in str(error)
    if error.delivery:
        failures = {**error.delivery.unknown, **error.delivery.deferred, **error.delivery.refused}
        assert all(f"{recipient} ({failure})" in str(error) for recipient, failure in failures.items())
    if cell.pauses:
        assert error.__notes__ == ["tried 3 times; this is the first failure"]


def check_recipients(cell: Cell, delivery: Delivery | None) -> None:
    """That each is in the right group, once; in none only if no mail was begun."""
    expected = (cell.accepted, cell.refused, cell.deferred, cell.unknown)
    if delivery is None:
        assert not any(expected)
        return
    got = (delivery.accepted, tuple(delivery.refused), tuple(delivery.deferred), tuple(delivery.unknown))
    assert got == expected
    assert sorted(sum(got, ())) == sorted(BOTH)


def check_server(cell: Cell, server: FaultServer) -> None:
    """What it got: how often, over what, and nothing readable on the way where TLS was asked for."""
    assert (server.copies, server.connections) == (cell.copies, cell.connections)
    assert sum(command.startswith("MAIL") for command in server.commands) <= 1
    if cell.way is Security.NONE:
        return
    assert all(mail.tls for mail in server.committed)
    assert all(auth.tls for auth in server.auths)
    secrets = (PASSWORD.encode(), b64encode(PASSWORD.encode()), b"AUTH", b"MAIL", b"RCPT", b"Quarterly")
    assert not [secret for secret in secrets if secret in server.clear]

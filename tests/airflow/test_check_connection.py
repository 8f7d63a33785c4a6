"""The button *Test Connection*: what it says, and that it never shows a connection id or raises."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
from airflow_smtp_interface.inbox import Inbox
from tests.peers.fault_server import Fault, FaultServer

Faulty = Callable[..., FaultServer]
ConnectTo = Callable[..., None]


def test_the_button_goes_the_whole_way_and_sends_nothing(inbox: Inbox) -> None:
    assert SmtpInterfaceHook().test_connection() == (
        True,
        f"127.0.0.1:{inbox.port} answers. Not encrypted: anybody on the way can read the mail. "
        "No login, because no User is set. Announces no limit of size. Sender me@x.org accepted. "
        "Recipients: default@x.org accepted.",
    )
    assert not inbox.mails


def test_airflow_gives_the_button_what_was_found(inbox: Inbox) -> None:
    from airflow.models.connection import Connection

    extra = {"security": "none", "from": "me@x.org", "to": "a@x.org"}
    works, text = pressed(Connection, host=inbox.host, port=inbox.port, extra=extra)
    assert works
    assert text.endswith("Recipients: a@x.org accepted.")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "", "extra": {"activ": False}}, "The connection cannot be used:\n- activ: there is no such field"),
        ({"extra": {"active": False}}, "The connection is switched off (Active)"),
        ({"extra": {}}, "does not offer STARTTLS"),
        ({"extra": {"security": "tls"}}, "the port does not speak TLS from the first byte"),
        ({"port": 9, "extra": {}}, "The connection (127.0.0.1:9), connecting: the connection was refused"),
        (
            {"extra": {"security": "none", "from": "me@x.org", "to": "a@x.org", "allowed_recipients": "@y.org"}},
            "not among the Allowed recipients of the connection (@y.org)",
        ),
    ],
)
def test_the_random_id_that_airflow_gives_the_button_is_not_shown(
    inbox: Inbox, fields: dict[str, object], words: str
) -> None:
    from airflow.models.connection import Connection

    works, text = pressed(Connection, **{"host": inbox.host, "port": inbox.port, **fields})
    assert not works
    assert words in text
    assert "randomid" not in text


def pressed(connection: Callable[..., object], *, extra: dict[str, object], **fields: object) -> tuple[bool, str]:
    """Do what Airflow's api-server does for the button."""
    transient = connection(conn_id="randomid", conn_type="smtp_interface", extra=json.dumps(extra), **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_RANDOMID", transient.get_uri())  # type: ignore[attr-defined]
        return transient.test_connection()  # type: ignore[attr-defined, no-any-return]


def test_a_refused_recipient_is_told(faulty: Faulty) -> None:
    faulty(Fault(stage="rcpt", action="550 5.1.1 no such user"))
    works, text = SmtpInterfaceHook().test_connection()
    assert not works
    assert "Recipients: default@x.org refused (550 5.1.1 no such user). Check their addresses" in text


def test_no_error_of_any_kind_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    works, text = SmtpInterfaceHook("no_such_connection").test_connection()
    assert not works
    assert "The connection cannot be read" in text
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_INTERFACE_DEFAULT", json.dumps({"host": ["a"], "extra": 3}))
    assert SmtpInterfaceHook().test_connection()[0] is False

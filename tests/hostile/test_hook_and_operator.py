"""The hostile inputs through the hook and through the operator, whose templates are rendered as Airflow does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from airflow.sdk import literal

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
from airflow_smtp_interface.mail.errors import InvalidEmail, InvalidSettings
from airflow_smtp_interface.operators.exceptions import AirflowFailException
from tests.airflow.running import mail_task, run_task
from tests.hostile.inputs import CONNECTIONS, INPUTS, Input
from tests.hostile.test_mail import check_arrival, check_error
from tests.peers.fault_server import FaultServer

Serve = Callable[..., FaultServer]


def by_hook(row: Input) -> None:
    with SmtpInterfaceHook() as hook:
        hook.send_email(**row.for_hook())  # type: ignore[arg-type]


def by_operator(row: Input) -> None:
    # What looks like a template is meant as text here, and literal() is how an author says so.
    run_task(mail_task(**{name: _as_text(value) for name, value in row.for_operator().items()}))


def _as_text(value: object) -> object:
    if isinstance(value, str) and any(sign in value for sign in ("{{", "{%", "{#")):
        return literal(value)
    if isinstance(value, Mapping):
        return {_as_text(key): _as_text(each) for key, each in value.items()}
    return value


# The operator makes the Message-ID itself.
_BY_BOTH = [
    pytest.param(way, row, id=f"{way.__name__}-{row.name}")
    for way in (by_hook, by_operator)
    for row in INPUTS
    if not (way is by_operator and "message_id" in row.fields)
]


def check_refusal(way: Callable[[Input], None], row: Input, kind: type[Exception]) -> str:
    """Return the text of the error, in the class in which a Dag author meets it."""
    # An Attachment is made, and refused, where the Dag is parsed.
    with pytest.raises(AirflowFailException if way is by_operator and "built" not in row.fields else kind) as caught:
        way(row)
    return str(caught.value)


@pytest.mark.parametrize(("way", "row"), [each for each in _BY_BOTH if each.values[1].refused])
def test_it_is_refused_before_any_connection(serve: Serve, way: Callable[[Input], None], row: Input) -> None:
    server = serve(row)
    check_error(check_refusal(way, row, InvalidEmail), row)
    assert (server.connections, server.commands) == (0, [])


@pytest.mark.parametrize(("way", "row"), [each for each in _BY_BOTH if not each.values[1].refused])
def test_it_arrives_once_exactly_as_written(serve: Serve, way: Callable[[Input], None], row: Input) -> None:
    server = serve(row)
    way(row)
    check_arrival(server, row)


# Airflow itself finds no connection whose JSON holds a lone surrogate: test_mail.py has those rows.
@pytest.mark.parametrize("way", [by_hook, by_operator])
@pytest.mark.parametrize(
    "row", [each for each in CONNECTIONS if "surrogate" not in each.name], ids=lambda row: row.name
)
def test_a_connection_is_refused_without_its_secret(serve: Serve, way: Callable[[Input], None], row: Input) -> None:
    server = serve(row, **row.fields)
    mail = Input(name="mail", fields={})
    text = check_refusal(way, mail, InvalidSettings)
    check_error(text[text.index("\n- ") + 3 :], row)
    assert "hunter2" not in text
    assert (server.connections, server.commands) == (0, [])

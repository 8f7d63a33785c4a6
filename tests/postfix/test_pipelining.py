"""A Postfix that turns away clients who pipeline out of turn takes our groups of commands, in clear and over TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_smtp_interface.mail.bulk import send_all
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.mime import Content
from airflow_smtp_interface.mail.settings import Pipelining, Security, SmtpSettings
from airflow_smtp_interface.mail.transaction import Item
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.postfix


@pytest.fixture(scope="module")
def strict() -> Iterator[Postfix]:
    with Postfix(settings={"smtpd_forbid_unauth_pipelining": "yes"}) as postfix:
        yield postfix


def item(number: int, *recipients: str) -> Item:
    email = Email.compose(
        subject=str(number), body="b", sender="me@example.test", recipients=recipients or f"r{number}@example.test"
    ).with_defaults(sender=None, to=())
    content = Content(email)
    return Item(envelope=email.envelope, content=content, size=content.size)


@pytest.mark.parametrize("pipelining", list(Pipelining))
@pytest.mark.parametrize("way", [Security.STARTTLS, Security.TLS, Security.NONE])
@pytest.mark.parametrize("connections", [1, 3])
def test_mails_in_a_row_arrive_each_once(
    strict: Postfix, way: Security, connections: int, pipelining: Pipelining
) -> None:
    strict.wait_until_idle()
    strict.forget()
    port = {Security.STARTTLS: strict.starttls, Security.TLS: strict.smtps, Security.NONE: strict.plain}[way]
    settings = SmtpSettings(
        host=strict.host,
        port=port,
        security=way,
        user=strict.user,
        password=strict.password,
        ca_certificate=strict.ca_pem,
        pipelining=pipelining,
    )
    rows = [item(number) for number in range(30)]
    rows[10] = item(10, "reject@example.test")
    rows[20] = item(20, "r20@example.test", "reject@example.test", "grey@example.test")
    deliveries = list(send_all(settings, rows, connections=connections))
    assert [number for number, delivery in enumerate(deliveries) if not delivery.complete] == [10, 20]
    assert list(deliveries[10].refused) == ["reject@example.test"]
    assert (deliveries[20].accepted, list(deliveries[20].deferred)) == (("r20@example.test",), ["grey@example.test"])
    subjects = sorted(int(str(mail["Subject"])) for mail in strict.wait_for(29))
    assert subjects == [number for number in range(30) if number != 10]
    assert "improper command pipelining" not in strict.log

"""The hostile inputs through the mail core alone, on any Python, without Airflow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email import message_from_bytes
from email.header import decode_header
from email.message import Message
from types import SimpleNamespace

import pytest

from airflow_smtp_interface.mail.addresses import parse_address
from airflow_smtp_interface.mail.errors import InvalidEmail, InvalidSettings
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.mime import Content
from airflow_smtp_interface.mail.session import connect
from airflow_smtp_interface.mail.settings import Security, SmtpSettings
from airflow_smtp_interface.mail.transaction import deliver
from tests.hostile.inputs import CONNECTIONS, INPUTS, RECIPIENT, SENDER, Input
from tests.peers.fault_server import FaultServer

_OWN = ("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type")
_OF_A_PART = {"Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID"}


def send(server: FaultServer, given: Mapping[str, object]) -> None:
    """Send a mail as the hook does."""
    email = Email.compose(**given).with_defaults(  # type: ignore[arg-type]
        sender=parse_address(SENDER, field="from"), to=(parse_address(RECIPIENT, field="to"),)
    )
    envelope, content = email.envelope, Content(email)
    settings = SmtpSettings(
        host=server.host, port=server.port, security=Security.NONE, timeout=2.0, data_timeout=2.0, connect_attempts=1
    )
    session = connect(settings)
    assert deliver(session, envelope, content, size=content.size).complete
    session.leave()


def check_error(text: str, row: Input) -> None:
    assert text.startswith(row.refused), text[:300]
    assert row.remedy in text, text[:300]


def check_arrival(server: FaultServer, row: Input) -> None:
    """Look at everything that the server got: commands, octets, and the mail as a reader sees it."""
    expected = row.arrival()
    (mail,) = server.committed
    assert (mail.sender, mail.recipients) == (SENDER, expected["envelope"])
    verbs = [command for command in server.commands if not re.match("ehlo|quit", command, re.I)]
    assert re.fullmatch(rf"MAIL FROM:<{SENDER}>( SIZE=\d+)?( SMTPUTF8)?( BODY=8BITMIME)?", verbs[0])
    assert verbs[1:] == [*(f"RCPT TO:<{each}>" for each in expected["envelope"]), "DATA"]
    check_octets(mail.content, row, utf8=" SMTPUTF8" in verbs[0])
    check_mail(message_from_bytes(mail.content), expected)


def check_octets(octets: bytes, row: Input, *, utf8: bool) -> None:
    """Look at the raw octets, since a parser may read more kindly than others do."""
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets), "CRLF only"
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    head, _, body = octets.partition(b"\r\n\r\n")
    assert body.isascii()
    assert utf8 or head.isascii()
    lines = [line for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))]
    names = [line.partition(b":")[0].decode() for line in lines]
    single = b"\r\nContent-Type: multipart/" not in head
    encoding = ["Content-Transfer-Encoding"] if single else []
    assert sorted(names) == sorted([*_OWN, *encoding, *row.fields.get("headers", {})]), "nothing became a header"


def check_mail(message: Message, expected: Mapping[str, object]) -> None:
    fields = {name: decoded(value) for name, value in message.raw_items()}
    headers = {name: value for name, value in expected.items() if name not in ("envelope", "plain", "html", "files")}
    assert {name: fields[name] for name in headers} == headers
    plain, *others = [part for part in message.walk() if not part.is_multipart()]
    parts = [part for part in message.walk() if part is not message]
    assert all(_OF_A_PART.issuperset(part.keys()) and not part.defects for part in parts)
    assert not message.defects
    if expected["plain"] is not None:
        assert text_of(plain) in ([lf(expected["plain"])] + [ended(expected["plain"])] * (plain is message))
    if expected["html"] is not None:
        html, *others = others
        assert html.get_content_type() == "text/html"
        assert text_of(html) == lf(expected["html"])
    assert {part.get_filename(): part.get_payload(decode=True) for part in others} == expected["files"]


def decoded(value: str) -> str:
    """Undo folding and encoded words, once."""
    value = re.sub(r"\r?\n(?=[ \t])", "", value).encode(errors="surrogateescape").decode()
    words = decode_header(value) if value.isascii() else [(value, None)]
    return "".join(word if isinstance(word, str) else word.decode(charset or "ascii") for word, charset in words)


def text_of(part: Message) -> str:
    return lf(part.get_payload(decode=True).decode())  # type: ignore[union-attr]


def ended(text: object) -> str:
    """Give the last line of a mail's only part the end that the final dot needs before it."""
    return lf(text).removesuffix("\n") + "\n"


def lf(text: object) -> str:
    """Write every line break of a text, LF or CRLF, in the same way; a lone CR is none."""
    return str(text).replace("\r\n", "\n")


@pytest.mark.parametrize("row", [row for row in INPUTS if row.refused], ids=lambda row: row.name)
def test_it_is_refused_before_any_connection(row: Input) -> None:
    with FaultServer(extensions=row.extensions) as server:
        with pytest.raises(InvalidEmail) as caught:
            send(server, row.for_hook())
        check_error(str(caught.value), row)
        assert (server.connections, server.commands) == (0, [])


@pytest.mark.parametrize("row", [row for row in INPUTS if not row.refused], ids=lambda row: row.name)
def test_it_arrives_once_exactly_as_written(row: Input) -> None:
    with FaultServer(extensions=row.extensions) as server:
        send(server, row.for_hook())
        check_arrival(server, row)


@pytest.mark.parametrize("row", CONNECTIONS, ids=lambda row: row.name)
def test_a_connection_is_refused_without_its_secret(row: Input) -> None:
    given = {"conn_id": "c", "host": "localhost", "port": 25, "schema": None, **row.fields}
    connection = SimpleNamespace(**{**given, "extra": json.dumps(given["extra"])})
    with pytest.raises(InvalidSettings) as caught:
        SmtpSettings.from_connection(connection)
    text = str(caught.value)
    check_error(text[text.index("\n- ") + 3 :], row)
    assert "hunter2" not in text


def test_there_are_enough_inputs_with_names_of_their_own() -> None:
    names = [row.name for row in (*INPUTS, *CONNECTIONS)]
    assert len(names) == len(set(names)) > 75

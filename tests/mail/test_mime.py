"""The octets of a mail: any reader gets back what the author wrote, and no text becomes a header."""

from __future__ import annotations

import io
import re
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_smtp_interface.mail import headers
from airflow_smtp_interface.mail.errors import InvalidEmail
from airflow_smtp_interface.mail.message import Attachment, Email
from airflow_smtp_interface.mail.mime import Content, text_of_html

FIELDS = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"}


def octets(**fields: object) -> bytes:
    email = Email.compose(  # type: ignore[arg-type]
        **{"subject": "s", "body": "b", "sender": "me@x.org", "recipients": "to@x.org", **fields}
    )
    content = Content(email.with_defaults(sender=None, to=()))
    written = b"".join(content)
    assert content.size == len(written)
    assert b"".join(content) == written, "content can be read twice"
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", written), "CRLF only"
    assert max(map(len, written.split(b"\r\n"))) <= 998
    assert written.endswith(b"\r\n"), "the final dot gets a line of its own"
    return written


def parsed(**fields: object) -> EmailMessage:
    message = message_from_bytes(octets(**fields), policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    return message


def leaves(message: EmailMessage) -> list[EmailMessage]:
    return [part for part in message.walk() if not part.is_multipart()]


def text_of(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode().replace("\r\n", "\n")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
lines = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=200)


def test_a_plain_mail_is_one_part_with_the_fields_of_every_mail() -> None:
    message = parsed(subject="Hello", body="Hi\nthere\n")
    assert set(message.keys()) - {"Content-Transfer-Encoding"} == FIELDS
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].endswith("@x.org>")
    assert message["Date"].datetime is not None
    assert message.get_content_type() == "text/plain"
    assert text_of(message) == "Hi\nthere\n"


def test_html_goes_with_a_text_made_from_it() -> None:
    html = (
        "<html><head><title>T</title><style>p{}</style></head><body><h1>Report</h1><p>See <a href='https://x.org/a'>it</a>"
        "</p><script>alert(1)</script><table><tr><th>a</th></tr><tr><td>1</td></tr></table></body></html>"
    )
    text, body = leaves(parsed(body=html, is_html=True))
    assert (text.get_content_type(), body.get_content_type()) == ("text/plain", "text/html")
    assert text_of(text) == "# Report\n\nSee [it](https://x.org/a)\n\n| a |\n| --- |\n| 1 |"
    assert text_of(body) == html


def test_a_given_text_is_the_alternative() -> None:
    text, _ = leaves(parsed(body="<p>Hi</p>", is_html=True, text="Hello"))
    assert text_of(text) == "Hello"


def test_parts_nest_as_readers_expect_them() -> None:
    logo = Attachment.from_bytes(b"PNG", name="logo.png", content_id="logo")
    report = Attachment.from_bytes(b"a,b", name="report.csv")
    message = parsed(body='<img src="cid:logo">', is_html=True, attachments=[logo, report])
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "text/csv",
    ]
    image, attachment = leaves(message)[-2:]
    assert (image["Content-ID"], image.get_content_disposition()) == ("<logo>", "inline")
    assert (attachment.get_filename(), attachment.get_content_disposition()) == ("report.csv", "attachment")


def test_an_inline_image_of_a_plain_mail_is_an_ordinary_attachment() -> None:
    logo = Attachment.from_bytes(b"PNG", name="logo.png", content_id="logo")
    _, image = leaves(parsed(attachments=[logo]))
    assert image.get_content_disposition() == "attachment"


def test_bcc_never_reaches_the_wire() -> None:
    assert b"secret" not in octets(bcc="secret@x.org", cc="open@x.org")


def test_names_and_addresses_stand_in_the_header() -> None:
    message = parsed(
        recipients='"Doe, Jane" <jane@x.org>, Jörg Müller <j@bücher.example>',
        cc=f"{'Very Long Name ' * 6}<l@x.org>, a@[192.0.2.1]",
        reply_to="=?utf-8?q?evil?= <r@x.org>",
    )
    assert [(a.display_name, a.addr_spec) for a in message["To"].addresses] == [
        ("Doe, Jane", "jane@x.org"),
        ("Jörg Müller", "j@xn--bcher-kva.example"),
    ]
    assert [a.display_name for a in message["Cc"].addresses] == [("Very Long Name " * 6).strip(), ""]
    assert message["Reply-To"].addresses[0].display_name == "=?utf-8?q?evil?="


@pytest.mark.parametrize("name", ["ü" * 100, "x" * 500])
def test_a_long_name_is_folded_into_encoded_words(name: str) -> None:
    # CPython 3.11's structured parser puts spaces between them; the older one reads them as RFC 2047 says.
    field = message_from_bytes(octets(cc=f"{name} <a@x.org>"), policy=policy.compat32)["Cc"]
    assert str(make_header(decode_header(field))) == f"{name} <a@x.org>"


def test_a_non_ascii_local_part_is_written_as_utf8() -> None:
    assert "To: jörg@x.org\r\n".encode() in octets(recipients="jörg@x.org")


def test_auto_submitted_can_be_said_otherwise() -> None:
    assert parsed(headers={"auto-submitted": "no"}).get_all("Auto-Submitted") == ["no"]


def test_redirected_mail_names_to_and_cc_but_never_bcc() -> None:
    email = Email.compose(
        subject="s", body="b", sender="me@x.org", recipients="a@x.org", cc="b@x.org", bcc="secret@x.org"
    )
    redirected = email.with_defaults(sender=None, to=()).redirected((Address("", "stage", "x.org"),))
    written = b"".join(Content(redirected))
    assert b"X-Original-To: a@x.org, b@x.org\r\n" in written
    assert b"secret" not in written
    assert redirected.envelope.recipients == ("stage@x.org",)


def test_a_crafted_encoded_word_arrives_as_that_text() -> None:
    crafted = "=?utf-8?q?Hi=0D=0ABcc:_evil@x.org?="
    written = octets(subject=crafted, recipients=f'"{crafted}" <a@x.org>', headers={"X-A": crafted})
    assert b"=0D" not in written
    message = message_from_bytes(written, policy=policy.default)
    assert (message["Subject"], message["X-A"], message["Bcc"]) == (crafted, crafted, None)


@given(lines, lines)
@example("a  b ", " x")
@example("word " * 60, "x" * 1200)
@example("some words " * 30 + "end", "")
@example("ü" * 300, "")
@example("a" * 77 + " b", "a" * 990 + "  b")
@example("=?utf-8?b?eA==?=", "")
def test_no_text_in_subject_or_header_adds_or_loses_anything(subject: str, value: str) -> None:
    message = parsed(subject=subject, headers={"X-Value": value})
    assert set(message.keys()) - {"Content-Transfer-Encoding"} == FIELDS | {"X-Value"}
    assert (message["Subject"], message["X-Value"]) == (subject, value)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=150).map("a{}".format))
@example("=?utf-8?q?x?=.csv")
@example(" spaced ")
@example('a"b\\c.csv')
@example("ü" * 150)
@example("a" * 150)
@example("50%.csv")
def test_file_names_are_given_back(name: str) -> None:
    _, part = leaves(parsed(attachments={name: b"x"}))
    assert part.get_filename() == name.strip()  # get_filename strips


@given(texts, texts, st.binary(max_size=400))
@example("one\rtwo", "\n.\r\n", b"")
@example("a" * 1000, "ü" * 1000, b"\r\n.\r\n")
@example("a" * 998, "trailing \n\tspace \n", b"x" * 57)
@example("é" + "a" * 200, "NUL \0", b"x" * 58)
@example("From me\n.\n..\n", "日本語\n" * 50, b"x")
def test_bodies_and_attachments_are_given_back(body: str, text: str, content: bytes) -> None:
    text_part, html_part, file_part = leaves(parsed(body=body, text=text, is_html=True, attachments={"x.bin": content}))
    assert text_of(html_part) == body.replace("\r\n", "\n")
    assert text_of(text_part) == text.replace("\r\n", "\n")
    assert file_part.get_payload(decode=True) == content


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 300_000))
@example(57 * 1024)
@example(57 * 1024 + 1)
@example(57 * 2048)
def test_the_size_of_any_attachment_is_known_beforehand(size: int) -> None:
    assert leaves(parsed(attachments={"x.bin": b"x" * size}))[1].get_payload(decode=True) == b"x" * size


class Trickle(io.RawIOBase):
    """A stream that gives less than it is asked for, as network streams do."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(min(size, 1000))


def test_a_stream_that_gives_little_at_a_time_is_read_whole() -> None:
    attachment = Attachment(name="x.bin", open=lambda: Trickle(b"x" * 70_000), size=70_000)  # type: ignore[arg-type, return-value]
    assert leaves(parsed(attachments=[attachment]))[1].get_payload(decode=True) == b"x" * 70_000


@pytest.mark.parametrize(("now", "problem"), [(b"abcdef", "longer than its 3 octets"), (b"a", "2 octets shorter")])
def test_a_file_that_changes_its_size_meanwhile_is_an_error(tmp_path: Path, now: bytes, problem: str) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"abc")
    email = Email.compose(subject="s", body="b", sender="me@x.org", recipients="to@x.org", attachments=[str(path)])
    content = Content(email.with_defaults(sender=None, to=()))
    path.write_bytes(now)
    with pytest.raises(OSError, match=problem):
        b"".join(content)


def test_whatever_a_stores_library_raises_is_a_content_that_cannot_be_read() -> None:
    class Away(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise LookupError("NoSuchBucket")

    attachment = Attachment(name="x.bin", open=Away, size=3)
    email = Email.compose(subject="s", body="b", sender="me@x.org", recipients="to@x.org", attachments=[attachment])
    with pytest.raises(OSError, match=r"'x.bin' cannot be read: LookupError: NoSuchBucket"):
        b"".join(Content(email.with_defaults(sender=None, to=())))


@pytest.mark.parametrize("html", ["<p>rows<![0]></p>", "<p>rows</p><![>", "<p>rows</p><![ x]>"])
def test_html_that_the_parser_gives_up_has_a_text_all_the_same(html: str) -> None:
    assert text_of_html(html).startswith("rows")


@pytest.mark.parametrize(
    "field", ["X-A: b\r\nBcc: c", "X-A: b\r\n\r\nbody", "X-A: b\nBcc: c", "no field", "X-A: " + "x" * 998]
)
def test_the_last_guard_refuses_a_field_that_would_arrive_as_another(field: str) -> None:
    with pytest.raises(InvalidEmail, match=r"^headers: "):
        headers.block([field])

"""What an author writes becomes an e-mail, or an error that names the field."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from airflow_smtp_interface.mail.addresses import parse_address, parse_addresses
from airflow_smtp_interface.mail.attachment import StoredFile, parse_attachments
from airflow_smtp_interface.mail.errors import InvalidAddress, InvalidEmail, MailError, TransientDeliveryError
from airflow_smtp_interface.mail.message import Attachment, Email, Envelope

ME = parse_address("me@x.org", field="from")


def compose(**fields: object) -> Email:
    return Email.compose(**{"subject": "s", "body": "b", "sender": "me@x.org", "recipients": "to@x.org", **fields})  # type: ignore[arg-type]


def test_recipients_left_out_are_the_interfaces() -> None:
    email = compose(recipients=None, sender=None)
    filled = email.with_defaults(sender=ME, to=parse_addresses("a@x.org, b@x.org", field="to"))
    assert filled.envelope == Envelope(sender="me@x.org", recipients=("a@x.org", "b@x.org"))


def test_given_recipients_override_the_interfaces() -> None:
    filled = compose().with_defaults(sender=ME, to=parse_addresses("default@x.org", field="to"))
    assert filled.envelope.recipients == ("to@x.org",)


@pytest.mark.parametrize("empty", ["", " , ", [], "[]", ()])
def test_recipients_given_but_empty_never_fall_back_to_the_interfaces(empty: object) -> None:
    with pytest.raises(InvalidAddress, match=r"recipients: is empty"):
        compose(recipients=empty)


@pytest.mark.parametrize("empty", ["", " ", [], "[]", "()", (), None])
@pytest.mark.parametrize("field", ["cc", "bcc", "reply_to"])
def test_optional_addresses_may_be_empty(field: str, empty: object) -> None:
    assert getattr(compose(**{field: empty}), field) == ()


def test_neither_sender_nor_from_is_an_error_that_names_both() -> None:
    with pytest.raises(InvalidEmail, match=r"sender: none given, and the connection has no From"):
        compose(sender=None).with_defaults(sender=None, to=())


def test_neither_recipients_nor_to_is_an_error_that_names_both() -> None:
    with pytest.raises(InvalidEmail, match=r"recipients: none given, and the connection has no To"):
        compose(recipients=None).with_defaults(sender=ME, to=())


def test_bcc_is_in_the_envelope_and_repeated_recipients_get_one_mail() -> None:
    email = compose(recipients="a@X.org, b@x.org", cc="a@x.ORG", bcc="c@x.org, b@x.org")
    assert email.envelope.recipients == ("a@X.org", "b@x.org", "c@x.org")


def test_local_parts_that_differ_in_case_are_two_recipients() -> None:
    assert compose(recipients="a@x.org, A@x.org").envelope.recipients == ("a@x.org", "A@x.org")


@pytest.mark.parametrize(
    ("recipients", "problem"), [((), "is empty"), (("a",), "'a' is not an address"), (("a@x\r\nDATA",), "not an")]
)
def test_an_envelope_made_by_hand_cannot_break_the_command_line(recipients: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InvalidAddress, match=problem):
        Envelope(sender="me@x.org", recipients=recipients)


@pytest.mark.parametrize("field", ["recipients", "cc", "bcc", "reply_to", "sender"])
def test_a_non_ascii_local_part_anywhere_needs_smtputf8(field: str) -> None:
    assert compose(**{field: "jörg@x.org"}).envelope.utf8
    assert not compose(**{field: "Jörg <j@bücher.example>"}).envelope.utf8


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"subject": None}, "subject: None is NoneType, not text"),
        ({"subject": "a\nBcc: evil@x.org"}, r"subject: 'a\\nBcc: evil@x.org' holds the control character U\+000A"),
        ({"subject": "a\u2028b"}, r"subject: .* U\+2028"),
        ({"subject": "\udc80"}, r"subject: .* U\+DC80"),
        ({"body": 5}, "body: 5 is int, not text"),
        ({"body": "x\ud800"}, r"body: holds the lone surrogate U\+D800 at position 1"),
        ({"is_html": "maybe"}, "is_html: 'maybe' is neither true nor false"),
        ({"is_html": None}, "is_html: None is neither true nor false"),
        ({"is_html": 2}, "is_html: 2 is neither true nor false"),
        ({"text": "t"}, "text: is the alternative of an HTML body, but is_html is false"),
        ({"text": 1, "is_html": True}, "text: 1 is int, not text"),
        ({"sender": "a@x.org, b@x.org"}, "sender: .* holds 2 addresses; write one"),
        ({"sender": ""}, "sender: is empty"),
        ({"message_id": "no brackets@x"}, "message_id: 'no brackets@x' is not one"),
        ({"headers": ["X-A"]}, "headers: .* is list; write a dict"),
        ({"headers": {"X A": "b"}}, "headers: 'X A' is no header name"),
        ({"headers": {"X-A ": "b"}}, "headers: 'X-A ' is no header name"),
        ({"headers": {"X-A:": "b"}}, "headers: 'X-A:' is no header name"),
        ({"headers": {1: "b"}}, "headers: 1 is no header name"),
        ({"headers": {"X-A": "b\r\nBcc: evil@x.org"}}, r"headers: X-A: .* U\+000D"),
        ({"headers": {"X-A": 5}}, "headers: X-A: 5 is int, not text"),
        ({"headers": {"from": "b"}}, "headers: 'from' cannot be set by hand; use sender"),
        ({"headers": {"To": "b"}}, "use recipients"),
        ({"headers": {"BCC": "b"}}, "use bcc"),
        ({"headers": {"Reply-To": "b"}}, "use reply_to"),
        ({"headers": {"Content-Type": "b"}}, "it follows from body"),
        ({"headers": {"MIME-Version": "b"}}, "it follows from body"),
        ({"headers": {"Received": "b"}}, "mail servers add it"),
        ({"headers": {"Resent-To": "b"}}, "it belongs to mail that is sent on"),
        ({"attachments": [b"x"]}, "attachments: content has no name"),
        ({"attachments": 5}, "attachments: 5 is int"),
        ({"attachments": {"a\nb.csv": b"x"}}, r"attachments: the name: 'a\\nb.csv' holds .* U\+000A"),
        ({"attachments": {"": b"x"}}, "attachments: an attachment has an empty name"),
        ({"attachments": {1: b"x"}}, "attachments: the name: 1 is int"),
        ({"attachments": ["s3://bucket/key"]}, "is a URL, which only the hook"),
        ({"attachments": ["missing.csv"]}, "attachments: '/.*/missing.csv' cannot be read: .*No such file"),
        ({"attachments": ["/"]}, "attachments: '/' is not a regular file"),
        ({"attachments": ["/dev/zero"]}, "attachments: '/dev/zero' is not a regular file"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_field(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidEmail, match=problem):
        compose(**fields)


@pytest.mark.parametrize(("value", "truth"), [("True", True), (" yes ", True), ("ON", True), (1, True), ("0", False)])
def test_is_html_is_read_from_words(value: object, truth: bool) -> None:
    assert compose(is_html=value).is_html is truth


def test_a_fifo_is_an_error_not_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidEmail, match="pipe' is not a regular file"):
        compose(attachments=[str(tmp_path / "pipe")])


def test_a_file_that_became_a_fifo_is_an_error_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"a")
    (attachment,) = compose(attachments=[str(path)]).attachments
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no longer a regular file"):
        attachment.open()


def test_attachments_are_read_from_every_form(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"a,b\n")
    ready = Attachment.from_bytes(b"x", name="x.bin")
    forms: list[object] = [
        str(path),
        path,
        [str(path), ready],
        {"shown.csv": str(path), "bytes.txt": b"1", "ready.bin": ready},
        f"['{path}', '{path}']",
        f'{{"shown.csv": "{path}"}}',
        None,
    ]
    names = [[attachment.name for attachment in parse_attachments(form)] for form in forms]  # type: ignore[arg-type]
    assert names == [
        ["report.csv"],
        ["report.csv"],
        ["report.csv", "x.bin"],
        ["shown.csv", "bytes.txt", "ready.bin"],
        ["report.csv", "report.csv"],
        ["shown.csv"],
        [],
    ]


def test_a_path_that_only_looks_like_a_list_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("(draft)").write_bytes(b"x")
    (attachment,) = parse_attachments("(draft)")
    assert attachment.name == "(draft)"


def test_a_url_is_opened_by_whoever_can(tmp_path: Path) -> None:
    class Store:
        name = "key.csv"
        protocol = "s3"

        def is_file(self) -> bool:
            return True

        def stat(self) -> os.stat_result:
            return os.stat_result([0] * 6 + [3] + [0] * 3)

        def open(self, mode: str) -> BinaryIO:
            return io.BytesIO(b"abc")

    (attachment,) = parse_attachments("s3://bucket/key.csv", open_url=lambda url: Store())
    assert (attachment.name, attachment.size, attachment.open().read()) == ("key.csv", 3, b"abc")


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (
            ImportError("Install s3fs to access S3"),
            InvalidEmail,
            "cannot be read: Install s3fs to access S3; install",
        ),
        (ValueError("Unsupported filesystem"), InvalidEmail, "Unsupported filesystem; give the path of an existing"),
        (PermissionError("Forbidden"), InvalidEmail, "cannot be read: Forbidden; give the path"),
        (
            LookupError("SlowDown"),
            TransientDeliveryError,
            "cannot be read now, so nothing was sent: LookupError",
        ),
    ],
)
def test_a_url_that_cannot_be_opened_is_named(raised: Exception, kind: type[MailError], words: str) -> None:
    def open_url(url: str) -> StoredFile:
        raise raised

    with pytest.raises(kind, match=f"^attachments: 's3://bucket/key' .*{words}"):
        parse_attachments(["s3://bucket/key"], open_url=open_url)


def test_a_store_that_cannot_be_reached_now_is_not_the_authors_mistake(tmp_path: Path) -> None:
    class Store:
        name = "key"
        protocol = "s3"

        def is_file(self) -> bool:
            raise ConnectionResetError("gone")

        def stat(self) -> os.stat_result:
            raise AssertionError

        def open(self, mode: str) -> object:
            raise AssertionError

    text = "cannot be read now, so nothing was sent: ConnectionResetError: gone. Trying again later"
    with pytest.raises(TransientDeliveryError, match=text):
        parse_attachments("s3://bucket/key", open_url=lambda url: Store())  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("report.csv", "text/csv"),
        ("logo.png", "image/png"),
        ("report.csv.gz", "application/gzip"),
        ("report.csv.bz2", "application/octet-stream"),
        ("mail.eml", "application/octet-stream"),
        ("noext", "application/octet-stream"),
    ],
)
def test_the_type_is_guessed_from_the_name(name: str, content_type: str) -> None:
    assert Attachment.from_bytes(b"", name=name).content_type == content_type


def test_attached_text_says_its_charset() -> None:
    assert Attachment.from_text("ü", name="a.csv").content_type == "text/csv; charset=utf-8"
    assert Attachment.from_text("ü", name="a.pdf").content_type == "application/pdf"


@pytest.mark.parametrize("content_type", ["text", "text/csv\r\nX: y", "multipart/mixed", "a/b/c"])
def test_a_content_type_that_is_none_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidEmail, match="has the content type"):
        Attachment.from_bytes(b"", name="a.csv", content_type=content_type)


@pytest.mark.parametrize("content_id", ["", "<logo>", "a b", "a\r\nb"])
def test_a_content_id_that_is_none_is_refused(content_id: str) -> None:
    with pytest.raises(InvalidEmail, match="has the content_id"):
        Attachment.from_bytes(b"", name="a.png", content_id=content_id)


@pytest.mark.parametrize(
    ("missing", "named"), [({"sender": None}, "sender: none"), ({"recipients": None}, "recipients")]
)
def test_an_envelope_needs_a_sender_and_a_recipient(missing: dict[str, None], named: str) -> None:
    with pytest.raises(InvalidEmail, match=f"^{named}"):
        _ = compose(**missing).envelope

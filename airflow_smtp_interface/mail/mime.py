"""Email -> stream of wire bytes (RFC 2045, RFC 2046). Attachments are read while they are sent, never whole."""

from __future__ import annotations

import binascii
import os
import warnings
from email.utils import format_datetime
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail import headers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from airflow_smtp_interface.mail.message import Attachment, Email

_Part = list["bytes | Attachment"]  # a MIME part: its header and body, attachments still to be read

_LINE_OCTETS = 57  # as many octets as a line of 76 base64 characters holds
_LINES = 1024  # lines in a chunk
_CHUNK_OCTETS = _LINE_OCTETS * _LINES
_CHUNK = Struct("76s" * _LINES)


class Content:
    """Header and body of one mail as wire bytes: CRLF only, lines of at most 998 octets, not dot-stuffed.

    Iterating reads the attachments anew each time.

    :param email: a mail with its defaults filled in.
    :raises InvalidEmail: if a header cannot be sent.
    """

    def __init__(self, email: Email) -> None:
        parts: _Part = [header_block(email), *_body(email)]
        if isinstance(parts[-1], bytes) and not parts[-1].endswith(b"\r\n"):
            parts.append(b"\r\n")  # the final dot needs a line of its own
        self._parts = _joined(parts)

    @property
    def size(self) -> int:
        """Octets in all, known without reading any attachment (RFC 1870)."""
        return sum(len(part) if isinstance(part, bytes) else _base64_size(part.size) for part in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the octets, some 80 kB at a time.

        :raises OSError: if an attachment cannot be read, or its size is not what it was when the mail was composed.
        """
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from _base64(part)


def header_block(email: Email) -> bytes:
    """Return the header fields that say what a mail is, without those that say how its body is built.

    :param email: a mail with its defaults filled in.
    :raises InvalidEmail: if a header cannot be sent.
    """
    return headers.block(_fields(email))


def _fields(email: Email) -> Iterator[str]:
    assert email.sender is not None  # with_defaults has seen to it
    yield headers.mailboxes("From", [email.sender])
    yield headers.mailboxes("To", email.to or ())
    if email.cc:
        yield headers.mailboxes("Cc", email.cc)
    if email.reply_to:
        yield headers.mailboxes("Reply-To", email.reply_to)
    yield headers.unstructured("Subject", email.subject)
    yield f"Date: {format_datetime(email.date)}"
    yield f"Message-ID: {email.message_id}"
    if "auto-submitted" not in map(str.lower, email.headers):
        yield "Auto-Submitted: auto-generated"  # RFC 3834 section 5
    for name, value in email.headers.items():
        yield headers.unstructured(name, value)
    yield "MIME-Version: 1.0"


def _body(email: Email) -> _Part:
    inline = [a for a in email.attachments if a.content_id and email.is_html]
    others = [a for a in email.attachments if a not in inline]
    body = _text(email.body, "html" if email.is_html else "plain")
    if inline:
        body = _multipart("related", [body, *(_file(a, "inline") for a in inline)], '; type="text/html"')
    if email.is_html:
        text = text_of_html(email.body) if email.text is None else email.text
        body = _multipart("alternative", [_text(text, "plain"), body])
    if others:
        body = _multipart("mixed", [body, *(_file(a, "attachment") for a in others)])
    return body


def _multipart(subtype: str, children: list[_Part], parameters: str = "") -> _Part:
    boundary = f"=_{os.urandom(18).hex()}"  # "=_" cannot occur in base64 or quoted-printable (RFC 2045 6.7)
    fields = headers.block([f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"{parameters}'])
    delimiter = f"\r\n--{boundary}".encode()
    parts: _Part = [fields]
    for child in children:
        parts += [delimiter + b"\r\n", *child]
    return [*parts, delimiter + b"--\r\n"]


def _joined(parts: _Part) -> _Part:
    """Join neighbouring octets, so that a small mail is one write."""
    joined: _Part = []
    for part in parts:
        if joined and isinstance(part, bytes) and isinstance(joined[-1], bytes):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _text(text: str, subtype: str) -> _Part:
    octets = _with_crlf(text.encode())
    encoding, encoded = ("7bit", octets) if _may_travel_as_it_is(octets) else _encode_text(octets)
    return [_text_fields(subtype, encoding) + encoded]


@lru_cache
def _text_fields(subtype: str, encoding: str) -> bytes:
    fields = [f"Content-Type: text/{subtype}; charset=utf-8", f"Content-Transfer-Encoding: {encoding}"]
    return headers.block(fields) + b"\r\n"


def _with_crlf(octets: bytes) -> bytes:
    """End lines with CRLF that end with LF; a lone CR stays what it is."""
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _has_lone_cr(octets: bytes) -> bool:
    return octets.count(b"\r") > octets.count(b"\r\n")


def _may_travel_as_it_is(octets: bytes) -> bool:
    """Whether text is ASCII without NUL, without a lone CR, in lines of at most 998 octets (RFC 5322 2.1.1)."""
    if not octets.isascii() or b"\0" in octets or _has_lone_cr(octets):
        return False
    return max(map(len, octets.split(b"\r\n"))) <= 998


def _encode_text(octets: bytes) -> tuple[str, bytes]:
    """Choose the encoding that keeps the text exactly: base64 where a lone CR stands or little of it is ASCII."""
    if _has_lone_cr(octets) or sum(octet > 126 for octet in octets[:10_000]) * 6 > len(octets[:10_000]):
        return "base64", b"".join(_base64_lines(octets))
    # Where the text has no line break, b2a_qp ends its soft ones with LF alone.
    return "quoted-printable", _with_crlf(binascii.b2a_qp(octets, istext=True))


def _file(attachment: Attachment, disposition: str) -> _Part:
    name = headers.parameter("filename", attachment.name)
    fields = [
        f"Content-Type: {attachment.content_type}",
        "Content-Transfer-Encoding: base64",
        f"Content-Disposition: {disposition};\r\n {name}",
    ]
    if attachment.content_id:
        fields.append(f"Content-ID: <{attachment.content_id}>")
    return [headers.block(fields) + b"\r\n", attachment]


def _base64_size(octets: int) -> int:
    lines, rest = divmod(octets, _LINE_OCTETS)
    return lines * 78 + ((rest + 2) // 3 * 4 + 2 if rest else 0)


def _base64(attachment: Attachment) -> Iterator[bytes]:
    left = attachment.size
    try:
        with attachment.open() as stream:
            while left:
                octets = _read(stream, min(left, _CHUNK_OCTETS))
                if not octets:
                    raise OSError(f"{attachment.name!r} has become {left} octets shorter while it was sent")
                left -= len(octets)
                yield from _base64_lines(octets)
            if stream.read(1):
                raise OSError(f"{attachment.name!r} has become longer than its {attachment.size} octets")
    except OSError:
        raise
    except Exception as error:  # a store's library may raise anything
        raise OSError(f"{attachment.name!r} cannot be read: {type(error).__name__}: {error}") from error


def _read(stream: BinaryIO, size: int) -> bytes:
    """Read until size or the end: raw files and network streams may return less than they were asked for."""
    octets = stream.read(size) or b""
    while len(octets) < size and (more := stream.read(size - len(octets))):
        octets += more
    return octets


def _base64_lines(octets: bytes) -> Iterator[bytes]:
    # One C call encodes a whole chunk, another cuts it into lines: three times as fast as base64.encodebytes.
    for start in range(0, len(octets), _CHUNK_OCTETS):
        encoded = binascii.b2a_base64(octets[start : start + _CHUNK_OCTETS], newline=False)
        if len(encoded) == _CHUNK.size:
            lines = list(_CHUNK.unpack(encoded))
        else:
            lines = [encoded[cut : cut + 76] for cut in range(0, len(encoded), 76)]
        yield b"\r\n".join([*lines, b""])


def text_of_html(html: str) -> str:
    """Make the plain-text alternative of an HTML body, with its links and tables."""
    import bs4
    import bs4.builder
    import markdownify  # BeautifulSoup and its parsers: needed by HTML mails without a text of their own only

    class Converter(markdownify.MarkdownConverter):
        def convert_head(self, *_: object, **__: object) -> str:
            return ""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BeautifulSoup wonders about bodies that look like a URL or XML
        try:
            soup = bs4.BeautifulSoup(html, "html.parser")
        except bs4.builder.ParserRejectedMarkup:  # html.parser gives up at a marked section that it does not know
            soup = bs4.BeautifulSoup(html.replace("<![", "&lt;!["), "html.parser")
        try:
            converter = Converter(escape_asterisks=False, escape_underscores=False, heading_style="ATX")
            return str(converter.convert_soup(soup)).strip()
        except (RecursionError, ValueError):  # markdownify walks tags by recursion, and trusts their attributes
            return soup.get_text(" ", strip=True)

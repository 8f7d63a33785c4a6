"""Header fields as wire bytes (RFC 5322 section 2.2, RFC 2047, RFC 2231).

The standard library's header code is not used: on several patch releases it lets a crafted encoded word become a
header of its own. What is plain ASCII goes out as it is, anything else is encoded, and one guard reads the result.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_smtp_interface.mail.addresses import addr_spec
from airflow_smtp_interface.mail.errors import InvalidEmail

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from email.headerregistry import Address

_WIDTH = 78  # RFC 5322 2.1.1: lines should be no longer …
_LIMIT = 998  # … and must not be longer than this
_NAME_LIMIT = 300  # leaves room in the line for quoting and the longest address
_FOLD = "\r\n "
_WORD = re.compile(r" *[^ ]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*")
_FIELD = re.compile(rb"[!-9;-~]+:(?: [^\r\n\0]*)?(?:\r\n[ \t]+[^ \t\r\n\0][^\r\n\0]*)*")


def unstructured(name: str, text: str) -> str:
    """Return a field whose value is any text, folded where it is long, encoded where it has to be."""
    if _is_plain(text):
        folded = _fold(f"{name}: {text}")
        if all(len(line) <= _LIMIT for line in folded.split("\r\n")):
            return folded
    return f"{name}: {_FOLD.join(_encoded_words(text))}"


def mailboxes(name: str, addresses: Iterable[Address]) -> str:
    """Return a field that lists addresses, one a line."""
    return f"{name}: " + f",{_FOLD}".join(map(_mailbox, addresses))


def parameter(name: str, value: str) -> str:
    """Return a parameter of a Content-Type or Content-Disposition, such as a file name (RFC 2231 where needed)."""
    if _is_plain(value) and len(value) <= 60:
        escaped = re.sub(r'(["\\])', r"\\\1", value)
        return f'{name}="{escaped}"'
    encoded = "utf-8''" + quote(value, safe="")
    if len(encoded) <= 60:
        return f"{name}*={encoded}"
    # RFC 2231 section 3: long values in pieces; a piece must not end inside a %XX.
    pieces = re.findall(r"(?:%[0-9A-F]{2}|[^%]){1,20}", encoded)
    return f";{_FOLD}".join(f"{name}*{number}*={piece}" for number, piece in enumerate(pieces))


def block(fields: Iterable[str]) -> bytes:
    """Return finished header fields as bytes, each ended by CRLF, after a last look at every line.

    :raises InvalidEmail: if a line could be read as anything but what was meant.
    """
    finished = [field.encode() for field in fields]
    for field in finished:
        too_long = len(field) > _LIMIT and any(len(line) > _LIMIT for line in field.split(b"\r\n"))
        if too_long or not _FIELD.fullmatch(field):
            raise InvalidEmail(
                f"headers: {field[:200]!r} would not arrive as one field of lines of at most {_LIMIT} octets "
                "(RFC 5322); shorten it, and remove line breaks from it"
            )
    return b"\r\n".join([*finished, b""])


def _is_plain(text: str) -> bool:
    """Whether a reader gets this text back from a header line as it stands."""
    return text.isascii() and text.isprintable() and "=?" not in text and text == text.strip(" ")


def _fold(line: str) -> str:
    """Break a line before spaces, so that unfolding (RFC 5322 2.2.3) gives it back exactly."""
    if len(line) <= _WIDTH:
        return line
    name, first, *words = _WORD.findall(line)
    lines = [name + first]  # no line of the field's name alone
    for word in words:
        if len(lines[-1]) + len(word) <= _WIDTH:
            lines[-1] += word
        else:
            lines.append(word)
    return "\r\n".join(lines)


def _encoded_words(text: str) -> Iterator[str]:
    """Yield RFC 2047 encoded words of at most 75 characters, none of which splits a character."""
    start = size = 0
    for position, character in enumerate(text):
        width = len(character.encode())
        if size + width > 42:
            yield _encoded_word(text[start:position])
            start, size = position, 0
        size += width
    yield _encoded_word(text[start:])


def _encoded_word(text: str) -> str:
    return f"=?utf-8?b?{b64encode(text.encode()).decode()}?="


def _mailbox(address: Address) -> str:
    name, spec = address.display_name, addr_spec(address)
    if not name:
        return spec
    if not _is_plain(name) or len(name) > _NAME_LIMIT:
        return _FOLD.join((*_encoded_words(name), f"<{spec}>"))
    if not _ATOMS.fullmatch(name):
        name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return f"{name} <{spec}>"

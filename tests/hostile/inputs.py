"""Hostile inputs, as data: each is refused with its field named, or arrives exactly as it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from airflow_smtp_interface.mail.message import Attachment

SENDER, RECIPIENT = "me@x.org", "to@x.org"
"""The connection's From and To."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What an author or a template wrote, and what becomes of it.

    :param fields: arguments of ``EmailActorOperator`` and, but for the attachment, of ``hook.send_email``; ``built``
        are arguments of ``Attachment.from_bytes``. Of a connection: its fields.
    :param refused: how the error begins; empty for an input that arrives.
    :param remedy: words of the error that say what to do.
    :param arrives: where what arrives differs from ``fields``: headers, ``envelope``, ``plain``, ``html``, ``files``.
    :param extensions: what the server offers.
    """

    name: str
    fields: Mapping[str, object]
    refused: str = ""
    remedy: str = ""
    arrives: Mapping[str, object] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")

    def for_operator(self) -> dict[str, object]:
        """Return the operator's arguments.

        :raises InvalidEmail: where an ``Attachment`` refuses its own.
        """
        given: dict[str, object] = {"subject": "s", "body": "b", **self.fields}
        if "built" in given:
            given["attachments"] = [Attachment.from_bytes(b"x", **{"name": "x.csv", **given.pop("built")})]
        return given

    def for_hook(self) -> dict[str, object]:
        """Return the arguments of ``hook.send_email`` and ``Email.compose``; these have no ``attachment``."""
        given = self.for_operator()
        if "attachment" in given:
            given["attachments"] = [Attachment.from_text(given.pop("attachment"), name=given.pop("attachment_name"))]
        return given

    def arrival(self) -> dict[str, object]:
        """Return everything that arrives; ``plain`` is None where it is made from the HTML."""
        given = {"subject": "s", "body": "b", **self.fields}
        html = given["body"] if given.get("is_html") else None
        files = dict(given.get("attachments", {}))
        if "attachment" in given:
            files[given["attachment_name"]] = given["attachment"].encode()
        return {
            "From": SENDER,
            "To": RECIPIENT,
            "Subject": given["subject"],
            **given.get("headers", {}),
            "envelope": (RECIPIENT,),
            "plain": given["body"] if html is None else given.get("text"),
            "html": html,
            "files": files,
            **self.arrives,
        }


def _refused(name: str, refused: str, remedy: str, **fields: object) -> Input:
    return Input(name=name, refused=refused, remedy=remedy, fields=fields)


def _arrives(name: str, arrives: Mapping[str, object] | None = None, **fields: object) -> Input:
    return Input(name=name, arrives=arrives or {}, fields=fields)


# What ends a line in somebody's eyes; NUL ends a text in C's.
_ENDS = dict(CR="\r", VT="\v", LF="\n", FF="\f", CRLF="\r\n", NUL="\0", NEL="\x85", LS="\u2028")  # noqa: C408 one line
_SURROGATE = "\ud800"
_OVERRIDE = "\u202e"
_NAME = "use ASCII letters, digits and hyphens"


def _in_every_header(sign: str, end: str) -> Iterator[Input]:
    """Put a character that no header may hold wherever text becomes a header or an address."""
    places = {
        "the subject": ("subject: ", "remove it", {"subject": f"Hi{end}Bcc: evil@x.org"}),
        "the sender's name": ("sender: ", "remove it", {"sender": f'"M{end}RCPT TO:<evil@x>" <me@x.org>'}),
        "a local part": ("recipients: ", "remove it", {"recipients": [f"al{end}ice@x.org"]}),
        "a domain": ("recipients: ", "remove it", {"recipients": [f"alice@x{end}.org"]}),
        "a header's name": ("headers: ", _NAME, {"headers": {f"X{end}Bcc": "evil@x.org"}}),
        "a header": ("headers: X-A: ", "remove it", {"headers": {"X-A": f"v{end}Bcc: evil@x.org"}}),
        "a file name": ("attachments: ", "remove it", {"attachments": {f"a{end}b.csv": b"x"}}),
        "the actor's file name": ("attachment", "remove it", {"attachment": "x", "attachment_name": f"a{end}b.csv"}),
        "message_id": ("message_id: ", "write <unique@", {"message_id": f"<a{end}b@x.org>"}),
        "content_id": ("attachments: ", "behind cid:", {"built": {"content_id": f"a{end}b"}}),
        "content_type": ("attachments: ", "text/csv", {"built": {"content_type": f"a/b{end}c"}}),
    }
    for to in ("recipients", "cc", "bcc", "reply_to"):
        places[f"a name of {to}"] = (f"{to}: ", "remove it", {to: [f"Al{end}ice <a@x.org>"]})
    for place, (refused, remedy, fields) in places.items():
        yield _refused(f"{sign} in {place}", refused, remedy, **fields)


def _at_the_end(sign: str, character: str) -> Iterator[Input]:
    yield _refused(f"{sign} ends the subject", "subject: ", "remove it", subject=f"Hi{character}")
    yield _refused(f"{sign} ends a header", "headers: X-A: ", "remove it", headers={"X-A": f"v{character}"})
    yield _refused(f"{sign} ends a file name", "attachments: ", "remove it", attachments={f"a.csv{character}": b"x"})


def _everywhere(sign: str, text: str) -> Iterator[Input]:
    """Put a text wherever it is allowed; it has to be given back exactly."""
    yield _arrives(f"{sign} in the subject", subject=text)
    yield _arrives(f"{sign} in a header", headers={"X-A": text})
    yield _arrives(f"{sign} in a file name", attachments={text: b"x"})
    yield from _in_every_text(sign, text)


def _in_every_text(sign: str, text: str) -> Iterator[Input]:
    yield _arrives(f"{sign} in a body", body=text)
    yield _arrives(f"{sign} in an HTML body", body=text, is_html=True, text="b")
    yield _arrives(f"{sign} in an alternative", body="<p>b</p>", is_html=True, text=text)
    yield _arrives(f"{sign} in a file", attachments={"x.bin": text.encode()})
    yield _arrives(f"{sign} in the actor's file", attachment=text, attachment_name="x.txt")


def _named(sign: str, name: str) -> Input:
    """A display name in quotes; it arrives encoded, so without them."""
    return _arrives(
        f"{sign} as a name", {"To": f"{name} <a@x.org>", "envelope": ("a@x.org",)}, recipients=f'"{name}" <a@x.org>'
    )


def _smuggled(end: str) -> str:
    """Return a text that ends DATA for a lax server, with a whole mail behind it."""
    commands = "MAIL FROM:<evil@x.org>\r\nRCPT TO:<victim@x.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil"
    return f"Hi{end}{commands}{end}"


_CRAFTED = {"q word": "=?utf-8?q?Hi=0D=0ABcc:_evil?=", "b word": "=?utf-8?b?SGkNCkJjYzogZXZpbA==?="}
_SMUGGLING = ("\n.\r\n", "\r.\r", "\n.\n", "\r\n.\r\n", "\r.\r\n", "\r\n.\r", "\r\n.\n")
_LONG = {"5000 octets": "x" * 5000, "5000 octets of UTF-8": "ü" * 2500, "5000 octets of words": "x " * 2499 + "xx"}

_COMMENT, _GROUP, _ROUTE, _RETYPE = "holds a comment; remove it", "is a group", "is a source route", "retype it"
_QUOTE, _TEXT_AROUND = "quote the name", "does not belong there"
_NO_ADDRESSES = {
    "one@x.org> NOTIFY=NEVER ORCPT=rfc822;evil@x.org": _TEXT_AROUND,
    "<one@x.org> NOTIFY=NEVER": _TEXT_AROUND,
    "one@x.org>\r\nRCPT TO:<evil@x.org": _TEXT_AROUND,
    "alice@a<bob@b>": _QUOTE,
    "alice(comment)@x.org": _COMMENT,
    "alice@x.org (Alice)": _COMMENT,
    "Alice (evil@x.org) <alice@x.org>": _COMMENT,
    "Friends: alice@x.org, bob@x.org;": _GROUP,
    "undisclosed-recipients:;": _GROUP,
    "alice@x.org\r\nBcc: evil@x.org": _GROUP,
    "alice@x.org\nRCPT TO:<evil@x.org>": _GROUP,
    "<@relay.org:alice@x.org>": _ROUTE,
    "@a.org,@b.org:alice@x.org": _ROUTE,
    "alice@x.org@evil.org": "has no valid domain",
    "alice@[192.0.2.1]evil.org": "write [192.0.2.1]",
    '"alice"evil@x.org': "is not an address",
    "alice@\uff58.org": "no valid international domain",
    "alice@\u212a.org": _RETYPE,
    "alice@\u212aü.org": _RETYPE,
    "\uff41lice@x.org": _RETYPE,
    "\u212aelly@x.org": _RETYPE,
    "alice\uff20x.org": "type an ASCII @",
    "alice@x\u3002org": "no valid international domain",
    "alice@\u017f.org": "no valid international domain",
    "alice@pay\u200bpal.org": "no valid international domain",
    f"{_OVERRIDE}Alice <alice@x.org>": "remove it",
    f"al{_OVERRIDE}ice@x.org": "remove it",
    f"alice@x{_OVERRIDE}.org": "remove it",
    "x" * 5000 + "@x.org": "64 octets",
    "alice@" + "x." * 2500 + "org": "255 octets",
    '\v["alice@x.org"]\f': "remove it",
}
_ADDRESSES = {
    '"a@evil> x"@y': '"a@evil> x"@y',
    "alice%evil.org@x.org": "alice%evil.org@x.org",
    "evil.org!alice@x.org": "evil.org!alice@x.org",
    "alice@\u0430pple.example": "alice@xn--pple-43d.example",
    "alice@xn--pple-43d.example": "alice@xn--pple-43d.example",
    "\u0430lice@x.org": "\u0430lice@x.org",
    "al\u200bice@x.org": "al\u200bice@x.org",
}
_NO_HEADERS = {
    "X-A ": _NAME,
    " X-A": _NAME,
    "X-A:": _NAME,
    "X-A: v\r\nBcc": _NAME,
    "": _NAME,
    "X-Ä": _NAME,
    "X" * 77: _NAME,
    "bCC": "use bcc",
    "Content-Type": "it follows from body",
    "Resent-To": "sent on",
    "Return-Path": "mail servers add it",
}
_NO_FIELDS = {
    "a lone surrogate in body": ("body: ", "has no UTF-8 form", {"body": _SURROGATE}),
    "a lone surrogate in text": ("text: ", "has no UTF-8 form", {"body": "b", "is_html": True, "text": _SURROGATE}),
    "a lone surrogate in the actor's file": (
        *("attachment", "has no UTF-8 form"),
        {"attachment": _SURROGATE, "attachment_name": "x.txt"},
    ),
    "a lone surrogate in a path": ("attachments: ", "existing file", {"attachments": [_SURROGATE]}),
    "NUL in a path": ("attachments: ", "existing file", {"attachments": ["a\0b"]}),
    "message_id of 1000 octets": ("message_id: ", "", {"message_id": f"<{'x' * 1000}@x.org>"}),
    "content_id of 1000 octets": ("attachments: ", "", {"built": {"content_id": "x" * 1000}}),
    "content_type of 1000 octets": ("attachments: ", "", {"built": {"content_type": f"a/{'b' * 1000}"}}),
    # RFC 2046 section 5.2.1: base64, which every file gets, is not allowed for it, and readers find it empty.
    "a file as message/rfc822": ("attachments: ", "", {"built": {"content_type": "message/rfc822"}}),
}
_HTML = {"3000 tags": "<b>" * 3000, "a superscript number": "<ol start='²'><li>a</ol>", "a URL alone": "http://x"}
_EIGHT_BIT = {"body": "Grüße\n日本語", "subject": "Grüße", "headers": {"X-A": "日本語"}, "attachments": {"ü": b"\xff"}}


def _of_texts() -> Iterator[Input]:
    for sign, word in _CRAFTED.items():
        yield from _everywhere(f"a {sign}", word)
        yield _named(f"a {sign}", word)
    for sign, text in _LONG.items():
        yield from _everywhere(sign, text)
        yield _named(sign, text)
    yield from _everywhere("a bidi override", f"invoice{_OVERRIDE}fdp.exe")
    yield from _everywhere("a template", "{{ 7 * 7 }} {% if x %} {# y #}")
    for end in _SMUGGLING:
        yield from _in_every_text(f"a mail behind {end!r}", _smuggled(end))
    yield from _in_every_text("every control character", "".join(_ENDS.values()).join("ab"))
    yield from _in_every_text("dots", ".\n..\n.\r\n.")
    for where, value in _EIGHT_BIT.items():
        yield Input(name=f"8-bit {where} without 8BITMIME", fields={where: value}, extensions=())
    yield Input(name="8-bit HTML without 8BITMIME", fields={"body": "ü", "is_html": True, "text": "ü"}, extensions=())
    for sign, html in _HTML.items():
        yield _arrives(f"HTML of {sign}", body=html, is_html=True)
    for name in ("../../etc/passwd", 'a"; filename="evil.exe', "a%0D%0ABcc: e", "utf-8''a%0D%0Ab", "a\\"):
        yield _arrives(f"file name {name!r}", attachments={name: b"x"})


def _of_addresses() -> Iterator[Input]:
    for text, remedy in _NO_ADDRESSES.items():
        yield _refused(f"address {text[:60]!r}", "recipients: ", remedy, recipients=text)
    for text, spec in _ADDRESSES.items():
        yield _arrives(f"address {text!r}", {"To": spec, "envelope": (spec,)}, recipients=text)
    spaced = "\u3000Alice\xa0"
    yield _named("ideographic spaces", spaced)
    to = f"{spaced} <a@x.org>"
    yield _arrives("a name without quotes", {"To": to, "envelope": ("a@x.org",)}, recipients=to)
    yield _refused("cc of NEL alone", "cc: ", "remove it", cc="\x85")


def _of_the_refused() -> Iterator[Input]:
    for sign, character in {**_ENDS, "a lone surrogate": _SURROGATE}.items():
        yield from _in_every_header(sign, character)
    for sign, character in _ENDS.items():
        yield from _at_the_end(sign, character)
    for name, remedy in _NO_HEADERS.items():
        yield _refused(f"header {name[:30]!r}", "headers: ", remedy, headers={name: "evil@x.org"})
    for name, (refused, remedy, fields) in _NO_FIELDS.items():
        yield _refused(name, refused, remedy, **fields)


INPUTS = (*_of_the_refused(), *_of_addresses(), *_of_texts())

_NO_CONNECTIONS = {
    "a password with CRLF": ("Password: ", "holds a line break", {"password": "hunter2\r\nMAIL FROM:<evil@x.org>"}),
    "a password that ends with LF": ("Password: ", "read from a file", {"password": "hunter2\n"}),
    "a password with NUL": ("Password: ", "NUL", {"password": "hunter2\0"}),
    "a password with a lone surrogate": ("Password: ", "", {"password": f"hunter2{_SURROGATE}"}),
    "a user with CRLF": ("User: ", "holds a line break", {"login": "me\r\nRSET"}),
    "a user with a lone surrogate": ("User: ", "", {"login": _SURROGATE}),
    "a host with CRLF": ("Host: ", "write one such as", {"host": "x.org\r\nRSET"}),
    "a host's scope with CRLF": ("Host: ", "write", {"host": "[fe80::1%\r\nRSET]"}),
    "a From with CRLF": ("from: ", "remove it", {"extra": {"from": "me@x.org\r\nBcc: evil@x.org"}}),
    "a To with VT": ("to: ", "remove it", {"extra": {"to": "to\v@x.org"}}),
    "a redirect with NUL": ("redirect_to: ", "remove it", {"extra": {"redirect_to": ["to\0@x.org"]}}),
    "an EHLO name with CRLF": ("local_hostname: ", "has no valid domain", {"extra": {"local_hostname": "x\r\nRSET"}}),
    "an allowed domain with LF": (
        "allowed_recipients: ",
        "no valid domain",
        {"extra": {"allowed_recipients": ["@x\n"]}},
    ),
    "a certificate that is not ASCII": ("ca_certificate: ", "PEM", {"extra": {"ca_certificate": "ü"}}),
}
CONNECTIONS = tuple(
    _refused(name, named, remedy, **{"login": "me", "password": "hunter2", "extra": {}, **fields})
    for name, (named, remedy, fields) in _NO_CONNECTIONS.items()
)

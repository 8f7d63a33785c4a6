"""What is to be sent, as plain data: an e-mail, its attachments, its envelope."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.addresses import AddressInput, addr_spec, parse_addresses, without_case
from airflow_smtp_interface.mail.attachment import Attachment, AttachmentsInput, parse_attachments
from airflow_smtp_interface.mail.errors import InvalidAddress, InvalidEmail
from airflow_smtp_interface.mail.values import CONTROL_CHARACTER, encodable, one_line, parse_bool

if TYPE_CHECKING:
    from email.headerregistry import Address

__all__ = ["Attachment", "Email", "Envelope"]

_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_MESSAGE_ID = re.compile(r"<[!-;=?A-~]{1,400}@[!-;=?A-~]{1,400}>")

# RFC 5322 3.6: these say how the mail travels and is built; each has its parameter or is the mailer's own.
_STRUCTURAL = {
    "from": "use sender",
    "sender": "use sender",
    "to": "use recipients",
    "cc": "use cc",
    "bcc": "use bcc",
    "reply-to": "use reply_to",
    "subject": "use subject",
    "message-id": "use message_id",
    "date": "it is set when the mail is composed",
    "received": "mail servers add it",
    "return-path": "mail servers add it",
    "delivered-to": "mail servers add it",
    "x-original-to": "it is set when Redirect all mail to is in force",
}
_STRUCTURAL_PREFIXES = {
    "content-": "it follows from body, is_html and attachments",
    "mime-": "it follows from body, is_html and attachments",
    "resent-": "it belongs to mail that is sent on",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """Who a mail is from and for, as the server is told (RFC 5321 section 3.3).

    :param sender: the reverse-path, without angle brackets.
    :param recipients: the forward-paths; never empty, never repeated (domains compared without case).
    :param utf8: whether an address in envelope or header has a non-ASCII local part (RFC 6531).
    :param utf8_fields: those addresses and the fields that they stand in, for error texts.
    :raises InvalidAddress: if there is no recipient, or an address could break the command line.
    """

    sender: str
    recipients: tuple[str, ...]
    utf8: bool = False
    utf8_fields: str = ""

    def __post_init__(self) -> None:
        """Drop repeated recipients, the later ones."""
        once: dict[str, str] = {}
        for recipient in self.recipients:
            once.setdefault(without_case(recipient), recipient)
        object.__setattr__(self, "recipients", tuple(once.values()))
        if not self.recipients:
            raise InvalidAddress("recipients: is empty; a mail needs at least one")
        for address in (self.sender, *self.recipients):
            if "@" not in address or CONTROL_CHARACTER.search(address):
                raise InvalidAddress(f"envelope: {address!r} is not an address; write alice@example.org")


@dataclass(frozen=True, kw_only=True, slots=True)
class Email:
    """One mail as its author means it. Build it with :meth:`compose`, which reads what humans and templates write."""

    subject: str
    body: str
    is_html: bool = False
    text: str | None = None
    to: tuple[Address, ...] | None = None
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    sender: Address | None = None
    reply_to: tuple[Address, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    message_id: str | None = None
    date: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def compose(
        cls,
        *,
        subject: str,
        body: str,
        recipients: AddressInput = None,
        is_html: bool | str = False,
        text: str | None = None,
        cc: AddressInput = None,
        bcc: AddressInput = None,
        sender: str | None = None,
        reply_to: AddressInput = None,
        attachments: AttachmentsInput = None,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
    ) -> Email:
        """Read what an author wrote or a template rendered. This is the only validation.

        :param subject: one line of text.
        :param body: plain text, or HTML with ``is_html``.
        :param recipients: the To addresses; None means the interface's To, anything empty is an error.
        :param is_html: whether ``body`` is HTML; the words true, false, yes, no, on, off, 1, 0 too.
        :param text: the plain-text alternative of an HTML body; made from the HTML by default.
        :param cc: further recipients, named in the mail; empty means none.
        :param bcc: further recipients, named nowhere; empty means none.
        :param sender: the From address; None means the interface's From.
        :param reply_to: where answers go; empty means to the sender.
        :param attachments: files: paths, stored files, :class:`Attachment` objects, or a mapping from the name shown
            to a path, content (bytes) or stored file.
        :param headers: further header fields by name and value.
        :param message_id: the Message-ID with its angle brackets; made anew by default.
        :raises InvalidEmail: naming the field, what was there and what to do.
        """
        html = _parse_is_html(is_html)
        if text is not None and not html:
            raise InvalidEmail("text: is the alternative of an HTML body, but is_html is false; leave one of them out")
        if message_id is not None and not _MESSAGE_ID.fullmatch(str(message_id)):
            raise InvalidEmail(f"message_id: {message_id!r} is not one; write <unique@domain> in ASCII")
        return cls(
            subject=one_line(subject, field="subject"),
            body=encodable(body, field="body"),
            is_html=html,
            text=None if text is None else encodable(text, field="text"),
            to=None if recipients is None else parse_addresses(recipients, field="recipients"),
            cc=_parse_optional(cc, field="cc"),
            bcc=_parse_optional(bcc, field="bcc"),
            sender=_parse_sender(sender),
            reply_to=_parse_optional(reply_to, field="reply_to"),
            attachments=parse_attachments(attachments),
            headers=_parse_headers(headers),
            message_id=message_id,
        )

    def with_defaults(self, *, sender: Address | None, to: tuple[Address, ...]) -> Email:
        """Fill in what the author left to the interface.

        :param sender: the interface's From.
        :param to: the interface's To.
        :raises InvalidEmail: if there is still no sender or no recipient.
        """
        sender = self.sender or sender
        recipients = to if self.to is None else self.to
        if sender is None:
            raise InvalidEmail("sender: none given, and the connection has no From; set one of them")
        if not recipients:
            raise InvalidEmail("recipients: none given, and the connection has no To; set one of them")
        message_id = self.message_id or f"<{uuid.uuid4().hex}@{sender.domain}>"
        return replace(self, sender=sender, to=recipients, message_id=message_id)

    def redirected(self, to: tuple[Address, ...]) -> Email:
        """Return the mail as it goes to a staging mailbox: To and Cc only named in ``X-Original-To``, Bcc nowhere.

        :param to: who gets it instead of everybody else.
        """
        original = ", ".join(addr_spec(address) for address in (*(self.to or ()), *self.cc))
        return replace(self, to=to, cc=(), bcc=(), headers={**self.headers, "X-Original-To": original})

    @property
    def envelope(self) -> Envelope:
        """Who the server is told the mail is from and for.

        :raises InvalidEmail: before :meth:`with_defaults`, if there is no sender or no recipient.
        """
        sender = self.sender
        if sender is None or not self.to:
            return self.with_defaults(sender=None, to=()).envelope  # which says what is missing
        recipients = (*self.to, *self.cc, *self.bcc)
        in_header = (sender, *recipients, *self.reply_to)
        utf8 = not all(address.username.isascii() for address in in_header)
        return Envelope(
            sender=addr_spec(sender),
            recipients=tuple(map(addr_spec, recipients)),
            utf8=utf8,
            utf8_fields=self._utf8_fields() if utf8 else "",
        )

    def _utf8_fields(self) -> str:
        fields = {"recipients": self.to or (), "cc": self.cc, "bcc": self.bcc, "reply_to": self.reply_to}
        people = {"sender": (self.sender,) if self.sender else (), **fields}
        named = ((field, each) for field, addresses in people.items() for each in addresses)
        return "; ".join(f"{field}: {addr_spec(each)!r}" for field, each in named if not each.username.isascii())


def _parse_is_html(is_html: object) -> bool:
    try:
        return parse_bool(is_html)
    except ValueError as error:
        raise InvalidEmail(f"is_html: {error}") from None


def _parse_optional(addresses: AddressInput, *, field: str) -> tuple[Address, ...]:
    """Unlike To, these have no default that an empty template could fall back to by accident."""
    if isinstance(addresses, str) and addresses.strip(" \t\r\n") in ("", "[]", "()"):
        return ()
    if addresses is None or (isinstance(addresses, (list, tuple, set, frozenset)) and not addresses):
        return ()
    return parse_addresses(addresses, field=field)


def _parse_sender(sender: str | None) -> Address | None:
    addresses = parse_addresses(sender, field="sender")
    if len(addresses) > 1:
        raise InvalidAddress(f"sender: {sender!r} holds {len(addresses)} addresses; write one")
    return addresses[0] if addresses else None


def _parse_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidEmail(f"headers: {headers!r} is {type(headers).__name__}; write a dict of names and values")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidEmail(f"headers: {name!r} is no header name; use ASCII letters, digits and hyphens")
        lowered = name.lower()
        by_prefix = (why for prefix, why in _STRUCTURAL_PREFIXES.items() if lowered.startswith(prefix))
        if why := _STRUCTURAL.get(lowered) or next(by_prefix, None):
            raise InvalidEmail(f"headers: {name!r} cannot be set by hand; {why}")
        one_line(value, field=f"headers: {name}")
    return dict(headers)

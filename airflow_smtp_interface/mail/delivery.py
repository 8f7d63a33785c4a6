"""What became of a mail: what the server said, recipient by recipient."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# RFC 3463 section 2: class "." subject "." detail at the start of the text.
_ENHANCED_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
# As Postfix, Exim, Exchange and Sendmail write it in the answer to the final dot.
_QUEUE_ID = re.compile(
    r"queued as ([\w.\-]+)|\bid=([\w.\-]+)|InternalId=(\d+)|([\w.\-]+) Message accepted", re.IGNORECASE
)


class Stage(StrEnum):
    """How far the conversation with the server had come (RFC 5321 section 3)."""

    CONNECT = "connect"
    """Name look-up, TCP, the greeting and EHLO."""
    TLS = "tls"
    """STARTTLS or TLS from the first byte."""
    AUTH = "auth"
    """The login (RFC 4954)."""
    SENDER = "sender"
    """MAIL FROM."""
    RECIPIENT = "recipient"
    """RCPT TO."""
    DATA = "data"
    """The reply to DATA."""
    CONTENT = "content"
    """Sending header and body."""
    ACCEPTANCE = "acceptance"
    """The reply to the final dot: from 250 on the server answers for the mail."""


class Cause(StrEnum):
    """Why a stage did not succeed. :mod:`.errors` holds a sentence and a remedy for each."""

    REPLY = "reply"
    NAME_NOT_FOUND = "name not found"
    NAME_SERVER_DOWN = "name server down"
    REFUSED = "connection refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    LOST = "connection lost"
    ODD_REPLY = "odd reply"
    PLAIN_TO_TLS_PORT = "plain text spoken to a TLS port"
    TLS_TO_PLAIN_PORT = "TLS spoken to a plain port"
    TLS_NOT_OFFERED = "STARTTLS not offered"
    TLS_INJECTED = "plain text behind the reply to STARTTLS"
    TLS_FAILED = "TLS handshake broken off"
    TLS_MISMATCH = "no TLS version or cipher in common"
    CERTIFICATE = "certificate not trusted"
    CLEARTEXT_LOGIN = "login over an unencrypted link"
    AUTH_NOT_OFFERED = "login not offered"
    AUTH_MECHANISM = "no login mechanism in common"
    TOO_LARGE = "larger than the server takes"
    NO_SMTPUTF8 = "SMTPUTF8 not offered"
    CONTENT_UNREADABLE = "content not readable"


class Reply(NamedTuple):
    """One reply of the server (RFC 5321 section 4.2), its lines joined by spaces.

    :param code: the reply code, 200 to 599.
    :param text: the server's words, with control characters escaped.
    """

    code: int
    text: str

    @property
    def enhanced_status(self) -> str | None:
        """The enhanced status code at the start of the text, such as ``5.1.1`` (RFC 3463)."""
        match = _ENHANCED_STATUS.match(self.text)
        return match[1] if match else None

    @property
    def queue_id(self) -> str | None:
        """What the server calls the mail that it has just accepted, where it says so in a known way."""
        match = _QUEUE_ID.search(self.text) if self.is_positive else None
        return next(filter(None, match.groups()), None) if match else None

    @property
    def is_positive(self) -> bool:
        """Whether the command succeeded (2yz)."""
        return 200 <= self.code < 300

    @property
    def is_transient(self) -> bool:
        """Whether trying again later can help (4yz)."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """Whether trying again cannot help (5yz)."""
        return 500 <= self.code < 600

    @property
    def is_negative(self) -> bool:
        """Whether the command failed (4yz, 5yz)."""
        return self.is_transient or self.is_permanent

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why one recipient did not get the mail.

    :param stage: where it failed.
    :param reply: what the server said; None where the client gave up or the connection was lost.
    :param text: what happened, in words; the server's where there are any.
    :param cause: what kind of failure it was.
    """

    stage: Stage
    reply: Reply | None = None
    text: str = ""
    cause: Cause = Cause.REPLY

    @property
    def is_permanent(self) -> bool:
        """Whether trying again cannot help."""
        if self.reply:
            return self.reply.is_permanent
        return self.cause in (Cause.TOO_LARGE, Cause.NO_SMTPUTF8)

    def __str__(self) -> str:
        return str(self.reply) if self.reply else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What became of one mail. Each recipient of its envelope is in exactly one of the four groups.

    :param message_id: the Message-ID, with its angle brackets.
    :param sender: the reverse-path of MAIL FROM.
    :param accepted: recipients that the server answers for (250 to RCPT and to the final dot).
    :param refused: recipients that will not get it, however often it is tried (5yz).
    :param deferred: recipients that did not get it this time (4yz, or the connection was lost before the final dot).
    :param unknown: recipients that may have got it: the answer to the final dot was lost.
    :param reply: the answer to the final dot, or the reply that ended the transaction.
    :param size: octets of header and body, before dot-stuffing.
    """

    message_id: str = ""
    sender: str
    accepted: tuple[str, ...] = ()
    refused: Mapping[str, Failure] = field(default_factory=dict)
    deferred: Mapping[str, Failure] = field(default_factory=dict)
    unknown: Mapping[str, Failure] = field(default_factory=dict)
    reply: Reply | None = None
    size: int = 0

    @property
    def complete(self) -> bool:
        """Whether everybody was accepted."""
        return not (self.refused or self.deferred or self.unknown)

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON values, for an XCom.

        ``refused``, ``deferred`` and ``unknown`` map each address to the server's code and words.
        """
        return {
            "message_id": self.message_id,
            "sender": self.sender,
            "accepted": list(self.accepted),
            "refused": {address: str(failure) for address, failure in self.refused.items()},
            "deferred": {address: str(failure) for address, failure in self.deferred.items()},
            "unknown": {address: str(failure) for address, failure in self.unknown.items()},
            "reply": str(self.reply) if self.reply else None,
            "size": self.size,
        }

"""What is shown of one mail, as plain data that can be kept as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY_OCTETS = 64 * 1024
"""Longer bodies are cut where they are kept."""


_TEXTS = ("subject", "problem", "sender", "date", "message_id", "queue_id", "reply", "server")


class Outcome(StrEnum):
    """What became of a mail for one recipient."""

    ACCEPTED = "accepted"
    """The server answers for it."""
    REFUSED = "refused"
    """The server will not take it, however often it is tried."""
    DEFERRED = "deferred"
    """Not this time; trying again later can help."""
    UNKNOWN = "unknown"
    """The answer was lost: may have been delivered."""
    UNSENT = "not sent"
    """It was not tried, or not as far as the recipient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRecipient:
    """One recipient of the envelope.

    :param words: what the server said.
    """

    address: str
    outcome: Outcome
    words: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownAttachment:
    """One attachment; its content is not kept.

    :param size: octets.
    """

    name: str
    size: int
    content_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownMessage:
    """One mail, and what became of it.

    :param problem: why not everybody has it, in words.
    :param sender, to, cc, bcc, reply_to: addresses with their names, as a reader sees them.
    :param date: when it was composed, in the form of RFC 5322.
    :param queue_id: what the server calls it.
    :param reply: the server's answer to the whole mail.
    :param server: where it was sent.
    :param size: octets of header and body.
    :param unlisted: how many further recipients there are, by outcome.
    :param headers: names and values, decoded.
    :param html: the HTML body; None where there is none, or it was not kept.
    :param text: the plain text likewise.
    :param bodies_kept: whether the bodies were to be kept.
    :param cut: which of ``html`` and ``text`` were longer than what was kept.
    """

    subject: str = ""
    problem: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    date: str = ""
    message_id: str = ""
    queue_id: str = ""
    reply: str = ""
    server: str = ""
    size: int = 0
    recipients: tuple[ShownRecipient, ...] = ()
    unlisted: Mapping[Outcome, int] = field(default_factory=dict)
    attachments: tuple[ShownAttachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    html: str | None = None
    text: str | None = None
    bodies_kept: bool = True
    cut: tuple[str, ...] = ()

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """How many recipients there are of each outcome, listed or not."""
        listed = Counter(recipient.outcome for recipient in self.recipients)
        listed.update(self.unlisted)
        return listed

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; empty fields are left out."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples and enums become lists and text
        return {name: value for name, value in plain.items() if value or name == "bodies_kept"}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ShownMessage:
        """Read what :meth:`as_dict` returned.

        :raises ValueError: if it is something else.
        """
        try:
            recipients = [{**each, "outcome": Outcome(each["outcome"])} for each in record.get("recipients", ())]
            values = {
                **{each.name: record[each.name] for each in fields(cls) if each.name in record},
                "recipients": tuple(ShownRecipient(**each) for each in recipients),
                "attachments": tuple(ShownAttachment(**each) for each in record.get("attachments", ())),
                "headers": tuple((str(name), str(value)) for name, value in record.get("headers", ())),
                **{name: tuple(map(str, record.get(name, ()))) for name in ("to", "cc", "bcc", "reply_to", "cut")},
                "unlisted": {Outcome(each): count for each, count in record.get("unlisted", {}).items()},
                "bodies_kept": bool(record["bodies_kept"]),
            }
            message = cls(**values)
            numbers = [message.size, *message.unlisted.values(), *(each.size for each in message.attachments)]
            texts = [getattr(message, name) for name in _TEXTS] + [message.html or "", message.text or ""]
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the record of a mail: {error}") from error
        if not (
            all(type(each) is int and each >= 0 for each in numbers) and all(isinstance(each, str) for each in texts)
        ):
            raise ValueError("not the record of a mail: a field is of another type")
        return message


def kept_body(text: str) -> tuple[str, bool]:
    """Return what is kept of a body, and whether it was cut."""
    octets = text.encode("utf-8", "replace")
    if len(octets) <= MAX_BODY_OCTETS:
        return text, False
    return octets[:MAX_BODY_OCTETS].decode("utf-8", "ignore"), True

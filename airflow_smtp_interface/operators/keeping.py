"""What the Email tab shows of a task's mail: a record in an XCom, written however the task ends."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, replace
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.utils import format_datetime
from html import escape, unescape
from typing import TYPE_CHECKING, Any

from airflow_smtp_interface.mail.addresses import without_case
from airflow_smtp_interface.mail.delivery import Reply
from airflow_smtp_interface.mail.errors import InvalidEmail, InvalidSettings
from airflow_smtp_interface.mail.mime import header_block
from airflow_smtp_interface.viewer.message import Outcome, ShownAttachment, ShownMessage, ShownRecipient, kept_body

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_smtp_interface.mail.delivery import Delivery
    from airflow_smtp_interface.mail.message import Email
    from airflow_smtp_interface.operators.email_actor import EmailActorOperator
    from airflow_smtp_interface.operators.ledger import Ledger

KEY = "email"
CHOICES = ("full", "headers", "off")

_LISTED = 1000  # recipients; those who do not have the mail come first
_SHOWN_WORDS = 300  # letters of a server's words for each recipient

_ATTRIBUTE = re.compile(r"""(?<==)(["'])(.*?)\1""", re.DOTALL)

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Sent:
    """What is known of a task's mail so far.

    :param server: where it goes.
    :param email: as it is sent; None where it could not be composed.
    :param ledger: who has it from earlier tries.
    :param delivery: what became of it in this try.
    :param problem: why the task did not end well.
    """

    subject: str = ""
    server: str = ""
    email: Email | None = None
    ledger: Ledger | None = None
    delivery: Delivery | None = None
    problem: str = ""

    def keep(self, ti: Any, *, what: str) -> None:
        """Push the record, secrets masked. A failure to do so is logged, and changes nothing of the task's end.

        :param ti: the task instance; None where the operator is called outside of one.
        :param what: ``full``; ``headers`` leaves the bodies out; ``off`` pushes nothing.
        """
        if what == "off" or ti is None:
            return
        try:
            ti.xcom_push(key=KEY, value=_masked(self.shown(), bodies=what == "full").as_dict())
        except Exception as error:  # noqa: BLE001 whatever a backend raises: the mail is sent, and must not be sent again
            _log.warning("What the Email tab shows of this mail could not be kept: %s: %s", type(error).__name__, error)

    def shown(self) -> ShownMessage:
        """Return everything, bodies whole, nothing masked."""
        known = ShownMessage(subject=self.subject, server=self.server, problem=self.problem)
        if self.email is None:
            return known
        email, reply = self.email, self.delivery.reply if self.delivery else None
        recipients = sorted(self._recipients(email), key=lambda each: each.outcome is Outcome.ACCEPTED)
        return replace(
            known,
            sender=", ".join(_people([email.sender] if email.sender else [])),
            to=_people(email.to or ()),
            cc=_people(email.cc),
            bcc=_people(email.bcc),
            reply_to=_people(email.reply_to),
            date=format_datetime(email.date),
            message_id=email.message_id or "",
            queue_id=(reply and reply.queue_id) or self._earlier_queue_id(),
            reply=str(reply or ""),
            size=self.delivery.size if self.delivery else 0,
            recipients=tuple(recipients[:_LISTED]),
            unlisted=dict(Counter(each.outcome for each in recipients[_LISTED:])),
            attachments=tuple(
                ShownAttachment(name=each.name, size=each.size, content_type=each.content_type)
                for each in email.attachments
            ),
            headers=_headers(email),
            html=email.body if email.is_html else None,
            text=email.text if email.is_html else email.body,
        )

    def _recipients(self, email: Email) -> Iterable[ShownRecipient]:
        """Say of each what this try brought, or else what an earlier one did."""
        outcomes: dict[str, tuple[Outcome, str]] = {}
        if self.ledger:
            outcomes |= {address: (Outcome.REFUSED, words) for address, words in self.ledger.refused.items()}
            outcomes |= {address: (Outcome.ACCEPTED, words) for address, words in self.ledger.accepted.items()}
            outcomes |= dict.fromkeys(self.ledger.in_flight, (Outcome.UNKNOWN, ""))
        if self.delivery:
            for outcome in (Outcome.REFUSED, Outcome.DEFERRED, Outcome.UNKNOWN):
                failures = getattr(self.delivery, outcome.value)
                outcomes |= {address: (outcome, str(failure)) for address, failure in failures.items()}
            outcomes |= dict.fromkeys(self.delivery.accepted, (Outcome.ACCEPTED, str(self.delivery.reply or "")))
        known = {without_case(address): outcome for address, outcome in outcomes.items()}
        for address in email.envelope.recipients:
            outcome, words = known.get(without_case(address), (Outcome.UNSENT, ""))
            yield ShownRecipient(address=address, outcome=outcome, words=words[:_SHOWN_WORDS])

    def _earlier_queue_id(self) -> str:
        """Return what the server called the mail in an earlier try, of which the ledger has the words."""
        words = next(iter(self.ledger.accepted.values()), "") if self.ledger else ""
        return Reply(250, words).queue_id or ""


def what_is_kept(operator: EmailActorOperator) -> str:
    """Return how much of the mail is kept: what the operator says, or else Airflow's configuration.

    :raises InvalidSettings: if the configuration holds none of the three words.
    """
    if not operator.do_xcom_push:
        return "off"
    if operator.keep_sent is not None:
        return operator.keep_sent
    try:
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    kept = str(conf.get("smtp_interface", "keep_sent", fallback="full")).strip().lower()
    if kept not in CHOICES:
        raise InvalidSettings(
            f"Airflow's configuration, [smtp_interface] keep_sent: {kept!r} is none of {', '.join(CHOICES)}"
        )
    return kept


def _headers(email: Email) -> tuple[tuple[str, str], ...]:
    """Return names and values as a reader's program decodes them: in encoded words no secret could be masked."""
    try:
        parsed = message_from_bytes(header_block(email), policy=policy.default)
    except InvalidEmail:
        return ()  # it was not sent for this reason
    people = {"From": [email.sender], "To": email.to, "Cc": email.cc, "Reply-To": email.reply_to}
    return tuple(
        (name, ", ".join(_people(people[name] or ())) if name in people else str(value))  # type: ignore[arg-type]
        for name, value in parsed.items()
    )


def _people(addresses: Iterable[Address]) -> tuple[str, ...]:
    # Masked before a name is quoted: a quoted secret would not be known as one.
    return tuple(
        str(Address(display_name=_mask(each.display_name), username=each.username, domain=each.domain))
        for each in addresses
    )


def _masked(message: ShownMessage, *, bodies: bool) -> ShownMessage:
    """Mask the secrets that Airflow knows, everywhere; then cut the bodies, so that no piece of a secret is left."""
    texts = {"html": message.html and _mask_html(message.html), "text": message.text and _mask(message.text)}
    kept = {name: kept_body(text.replace("\0", "\ufffd")) for name, text in texts.items() if text and bodies}
    record: dict[str, Any] = _mask(replace(message, html=None, text=None, recipients=()).as_dict())
    record["headers"] = [[name, _mask(value, name)] for name, value in record.get("headers", ())]
    return replace(
        ShownMessage.from_dict({**record, "bodies_kept": bodies}),
        recipients=tuple(
            replace(each, address=_mask(each.address), words=_mask(each.words)) for each in message.recipients
        ),
        html=kept["html"][0] if "html" in kept else None,
        text=kept["text"][0] if "text" in kept else None,
        cut=tuple(name for name, (_, was_cut) in kept.items() if was_cut),
    )


def _mask(value: Any, name: str | None = None) -> Any:
    """Mask the secrets that Airflow knows; whatever has a telling name too, such as a header ``X-Password``."""
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # there since 3.1, in no __all__

    return redact(value, name)


def _mask_html(html: str) -> str:
    """Mask secrets in HTML, also where their ``<``, ``&`` and quotes are escaped, as templates do."""
    html = _mask(html)
    whole = unescape(html)
    if _mask(whole) == whole:
        return html
    pieces = re.split(r"(<[^>]*>)", html)
    masked = "".join(_mask_tag(piece) if piece[:1] == "<" else _mask_text(piece) for piece in pieces)
    # A secret that lies across two pieces costs all tags.
    return masked if _mask(unescape(masked)) == unescape(masked) else escape(_mask(whole))


def _mask_tag(tag: str) -> str:
    """Mask the values of a tag's attributes; a secret elsewhere in it costs the tag."""
    return _mask_text(_ATTRIBUTE.sub(lambda value: f"{value[1]}{_mask_text(value[2])}{value[1]}", tag))


def _mask_text(text: str) -> str:
    plain = unescape(text)
    return text if _mask(plain) == plain else escape(_mask(plain))

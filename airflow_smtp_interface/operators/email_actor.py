"""EmailActorOperator: a task that sends one mail."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook, open_url
from airflow_smtp_interface.mail.attachment import Attachment, parse_attachments
from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Stage
from airflow_smtp_interface.mail.errors import (
    DeliveryError,
    InterfaceInactive,
    InvalidEmail,
    MailError,
    OutcomeUnknown,
    TransientDeliveryError,
    incomplete_error,
)
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.values import one_line
from airflow_smtp_interface.operators.exceptions import AirflowFailException, AirflowSkipException
from airflow_smtp_interface.operators.ledger import Ledger
from airflow_smtp_interface.operators.templates import RenderedTexts
from airflow_smtp_interface.operators.waiting import DELAYS, Waiting

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_smtp_interface.mail.addresses import AddressInput
    from airflow_smtp_interface.mail.attachment import AttachmentsInput


class EmailActorOperator(RenderedTexts):
    """Send one mail through an SMTP interface.

    A mail that the server refuses for good, or that cannot be sent as it is written, fails the task without retry.
    One that it may take later fails the task with an ordinary error, so that Airflow's own retries apply.

    :param subject: one line of text.
    :param body: plain text, or HTML with ``is_html``; also a template file (``.html.j2``, ``.txt.j2``).
    :param recipients: To, overriding the interface's; text with ``,`` ``;`` or newlines between, or a list. None
        means the interface's To; anything empty is an error.
    :param is_html: whether ``body`` is HTML. The words true, false, yes, no, on, off, 1, 0 too, so a template may say.
    :param text: the plain-text alternative of an HTML body; made from the HTML by default.
    :param sender: From, overriding the interface's.
    :param cc: further recipients, named in the mail; empty means none.
    :param bcc: further recipients, named nowhere; empty means none.
    :param reply_to: where answers go; empty means to the sender.
    :param attachment: content of one file, text or bytes.
    :param attachment_name: its name.
    :param attachments: files: paths, URLs (``s3://conn_id@bucket/key``), ``ObjectStoragePath`` or ``Attachment``
        objects, or a mapping from the name shown to a path, URL or bytes. A text is never content.
    :param headers: further header fields by name and value.
    :param smtp_interface_conn_id: id of a connection of type ``smtp_interface``.
    :param autoescape: whether values that Jinja puts into an HTML body are escaped unless marked ``| safe``.
    :param on_refused: ``warn`` ends green, with a warning and the refusals in the XCom, if some recipients were
        refused for good and all others accepted.
    :param on_unknown: ``resend`` lets a retry send the mail again, under the same Message-ID, if the answer to the
        final dot was lost; some recipients may get it twice then.
    :param on_inactive: ``skip`` skips the task if the connection is switched off.
    :param deferrable: whether to wait in the triggerer and go on with those left, where trying again later can help.
    :param max_wait: for how long then, from the first attempt to the last.
    :return: as XCom, :meth:`.Delivery.as_dict`, ``this_try`` (who was accepted in this try) and the subject.
    """

    template_fields: Collection[str] = (
        "smtp_interface_conn_id",
        "recipients",
        "cc",
        "bcc",
        "sender",
        "reply_to",
        "subject",
        "is_html",  # before body: it decides the escaping
        "body",
        "text",
        "attachment",
        "attachment_name",
        "attachments",
        "headers",
    )
    template_ext = (".html.j2", ".txt.j2")
    template_fields_renderers: ClassVar[dict[str, str]] = {"body": "html", "headers": "json"}
    ui_color = "#e6faf9"
    delays: ClassVar[Sequence[timedelta]] = DELAYS

    def __init__(
        self,
        *,
        subject: str,
        body: str,
        recipients: AddressInput = None,
        is_html: bool | str = False,
        text: str | None = None,
        sender: str | None = None,
        cc: AddressInput = None,
        bcc: AddressInput = None,
        reply_to: AddressInput = None,
        attachment: str | bytes | None = None,
        attachment_name: str | None = None,
        attachments: AttachmentsInput = None,
        headers: Mapping[str, str] | None = None,
        smtp_interface_conn_id: str = SmtpInterfaceHook.default_conn_name,
        autoescape: bool = True,
        on_refused: Literal["fail", "warn"] = "fail",
        on_unknown: Literal["fail", "resend"] = "fail",
        on_inactive: Literal["fail", "skip"] = "fail",
        deferrable: bool = False,
        max_wait: timedelta = timedelta(hours=4),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.subject = subject
        self.body = body
        self.recipients = recipients
        self.is_html = is_html
        self.text = text
        self.sender = sender
        self.cc = cc
        self.bcc = bcc
        self.reply_to = reply_to
        self.attachment = attachment
        self.attachment_name = attachment_name
        self.attachments = attachments
        self.headers = headers
        self.smtp_interface_conn_id = smtp_interface_conn_id
        self.autoescape = autoescape
        self.on_refused = _choice("on_refused", on_refused, "fail", "warn")
        self.on_unknown = _choice("on_unknown", on_unknown, "fail", "resend")
        self.on_inactive = _choice("on_inactive", on_inactive, "fail", "skip")
        self.deferrable = deferrable
        self.max_wait = max_wait

    def execute(self, context: Context) -> dict[str, object]:
        """Compose the mail from the rendered fields and send it, once, to those who do not have it yet.

        :raises AirflowFailException: from an error that trying again cannot mend.
        :raises AirflowSkipException: if the connection is switched off and ``on_inactive`` says so.
        :raises TransientDeliveryError: if trying again can help.
        :raises OutcomeUnknown: if the answer was lost and ``on_unknown`` says that the mail is to be sent again.
        :raises TaskDeferred: if trying again can help and the task is ``deferrable``.
        """
        return self._attempt(context, Waiting())

    def resume(self, context: Context, event: object = None, **waiting: Any) -> dict[str, object]:
        """Go on after a wait, as :meth:`execute` does; Airflow has rendered the templates anew."""
        if not waiting:
            raise AirflowFailException(
                "Airflow has not kept what this deferred task knew of its earlier attempts (dag.test() loses it), so "
                "nothing more is sent: some might get the mail twice. Run the Dag under a scheduler and a triggerer."
            )
        return self._attempt(context, Waiting.from_kwargs(**waiting))

    def _attempt(self, context: Context, waiting: Waiting) -> dict[str, object]:
        try:
            with SmtpInterfaceHook(self.smtp_interface_conn_id) as hook:
                hook.settings.check_active()
                return self._send(hook, context, waiting)
        except TransientDeliveryError:
            raise
        except InterfaceInactive as error:
            kind = AirflowSkipException if self.on_inactive == "skip" else AirflowFailException
            raise kind(str(error)) from error
        except MailError as error:
            if isinstance(error, OutcomeUnknown) and self.on_unknown == "resend":
                raise
            raise AirflowFailException(str(error)) from error

    def _send(self, hook: SmtpInterfaceHook, context: Context, waiting: Waiting) -> dict[str, object]:
        email = hook.addressed(self._compose())
        assert email.sender is not None  # addressed has seen to it
        message_id = waiting.message_id or _message_id(context, email.sender.domain)
        ledger = Ledger.open(context, message_id=message_id, accepted=waiting.accepted)
        email = replace(email, message_id=ledger.message_id)
        envelope = email.envelope
        left = ledger.left(envelope.recipients)
        if not left:
            self.log.warning("Nothing is left to send: everybody has mail %s from an earlier try.", ledger.message_id)
            sent = Delivery(message_id=ledger.message_id, sender=envelope.sender)
            return {**self._result(sent, ledger), "already_sent": True}
        if ledger.in_flight:
            self._decide_on_doubt(ledger, hook, envelope.sender)
        try:
            delivery = hook.deliver(email, replace(envelope, recipients=left), before_end=partial(ledger.begin, left))
            ledger.record(delivery)
        except DeliveryError as error:
            delivery = self._after_failure(error, ledger, waiting)
        return self._result(delivery, ledger)

    def _decide_on_doubt(self, ledger: Ledger, hook: SmtpInterfaceHook, sender: str) -> None:
        """Look at what an earlier try left open: it was ended after the final dot, before its answer was recorded."""
        why = Failure(
            stage=Stage.ACCEPTANCE, text="an earlier try ended before the answer was recorded", cause=Cause.LOST
        )
        doubt = Delivery(
            message_id=ledger.message_id,
            sender=sender,
            accepted=tuple(ledger.accepted),
            unknown=dict.fromkeys(ledger.in_flight, why),
        )
        error = incomplete_error(doubt, where=hook.settings.where)
        if self.on_unknown == "fail" and error:
            raise error
        self.log.warning("%s It is sent again (on_unknown).", error)

    def _after_failure(self, error: DeliveryError, ledger: Ledger, waiting: Waiting) -> Delivery:
        """Record who was accepted all the same; then excuse the refusals, wait, or raise the error."""
        delivery = error.delivery
        if delivery:
            ledger.record(delivery)
            only_refused = not (delivery.deferred or delivery.unknown)
            if self.on_refused == "warn" and only_refused and ledger.accepted:
                ledger.finish(delivery)
                self.log.warning("%s Ended green all the same (on_refused).", error)
                return delivery
        if isinstance(error, TransientDeliveryError):
            if self.deferrable:
                self._defer(error, ledger, waiting)
            if ledger.accepted and ledger.store is None:
                # Airflow would try again for everybody, and those who have the mail would get it twice.
                raise AirflowFailException(
                    f"{error} Not retried, because some recipients have it already, and this Airflow keeps no record "
                    "of them over retries (3.3 does); deferrable=True goes on with the rest."
                ) from error
        raise error

    def _defer(self, error: TransientDeliveryError, ledger: Ledger, waiting: Waiting) -> None:
        """Hand the slot back and wait in the triggerer, unless the time is over."""
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        further = waiting.next(
            message_id=ledger.message_id, accepted=ledger.accepted, delays=self.delays, max_wait=self.max_wait
        )
        if further is None:
            self.log.error("Given up after %d attempts, max_wait is over.", waiting.attempt + 1)
            return
        waiting, delay = further
        self.log.warning("%s Attempt %d follows in %s.", error, waiting.attempt + 1, delay)
        self.defer(trigger=TimeDeltaTrigger(delay), method_name="resume", kwargs=waiting.as_kwargs())

    def _result(self, delivery: Delivery, ledger: Ledger) -> dict[str, object]:
        """Return everybody accepted in this generation, and in this try."""
        result = delivery.as_dict()
        refused = ledger.refused or result["refused"]
        accepted = {"accepted": list(ledger.accepted), "this_try": list(delivery.accepted), "refused": refused}
        return {**result, **accepted, "subject": self.subject}

    def _compose(self) -> Email:
        return Email.compose(
            subject=self.subject,
            body=self.body,
            recipients=self.recipients,
            is_html=self.is_html,
            text=self.text,
            cc=self.cc,
            bcc=self.bcc,
            sender=self.sender,
            reply_to=self.reply_to,
            attachments=(*self._actor_attachment(), *parse_attachments(self.attachments, open_url=open_url)),
            headers=self.headers,
        )

    def _actor_attachment(self) -> Iterable[Attachment]:
        """Make the attachment of the actor's two inputs, content and name."""
        if self.attachment is None and self.attachment_name is None:
            return
        if self.attachment is None or not self.attachment_name:
            missing = "attachment" if self.attachment is None else "attachment_name"
            raise InvalidEmail(f"{missing}: is missing; attachment (content) and attachment_name go together")
        name = one_line(self.attachment_name, field="attachment_name")
        if isinstance(self.attachment, bytes):
            yield Attachment.from_bytes(self.attachment, name=name)
        else:
            yield Attachment.from_text(self.attachment, name=name)


def _choice(field: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{field}: {value!r} is none of {', '.join(choices)}")
    return value


def _message_id(context: Context, domain: str) -> str:
    """Return a Message-ID that stays the same over the retries of a task and changes when a human clears it."""
    ti = context["ti"]
    name = "\0".join(map(str, (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries, domain)))
    return f"<{hashlib.sha256(name.encode()).hexdigest()[:32]}@{domain}>"

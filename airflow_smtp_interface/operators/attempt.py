"""One attempt of a task to send its mail to those who do not have it yet."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook, open_url
from airflow_smtp_interface.mail.attachment import Attachment, parse_attachments
from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Stage
from airflow_smtp_interface.mail.errors import (
    DeliveryError,
    InterfaceInactive,
    InvalidEmail,
    InvalidSettings,
    MailError,
    OutcomeUnknown,
    TransientDeliveryError,
    incomplete_error,
    named,
)
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.mime import text_of_html
from airflow_smtp_interface.mail.values import one_line
from airflow_smtp_interface.operators.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow_smtp_interface.operators.keeping import Sent, what_is_kept
from airflow_smtp_interface.operators.ledger import Ledger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_smtp_interface.operators.email_actor import EmailActorOperator
    from airflow_smtp_interface.operators.waiting import Waiting

_DECIDED = (AirflowFailException, AirflowSkipException, TaskDeferred)
"""Whatever else a task raises, Airflow tries again if it has retries left."""


class Attempt:
    """Composes a task's mail, sends it to those left, and keeps the ledger.

    :param operator: with rendered fields.
    :param waiting: what is known of earlier attempts of a deferred task.
    """

    def __init__(self, operator: EmailActorOperator, context: Context, waiting: Waiting) -> None:
        self._operator = operator
        self._context = context
        self._waiting = waiting
        self._sent = Sent(subject=str(operator.subject))

    def run(self) -> dict[str, object]:
        """Send the mail, and say in Airflow's words how it ended; see ``EmailActorOperator.execute``."""
        try:
            kept = what_is_kept(self._operator)
        except InvalidSettings as error:
            raise AirflowFailException(str(error)) from error
        try:
            return self._run()
        except BaseException as error:  # a time-out of the task and a deferral are no Exceptions
            self._sent.problem = self._sent.problem or str(error)
            if (known := self._lost_by_a_retry()) and not isinstance(error, _DECIDED):
                raise AirflowFailException(f"{str(error) or type(error).__name__} {known}") from error
            raise
        finally:
            self._stop_the_clock()
            self._sent.keep(self._context.get("ti"), what=kept)

    def _run(self) -> dict[str, object]:
        try:
            with SmtpInterfaceHook(self._operator.smtp_interface_conn_id) as hook:
                self._sent.server = hook.settings.address
                hook.settings.check_active()
                return self._send(hook)
        except TransientDeliveryError as error:
            if self._operator.deferrable:
                self._defer(error)
            raise
        except InterfaceInactive as error:
            if self._operator.on_inactive == "skip":
                raise AirflowSkipException(str(error)) from error
            raise AirflowFailException(f'{error}, or give the operator on_inactive="skip"') from error
        except MailError as error:
            if isinstance(error, OutcomeUnknown) and self._operator.on_unknown == "resend":
                raise
            raise AirflowFailException(str(error)) from error

    def _send(self, hook: SmtpInterfaceHook) -> dict[str, object]:
        email = hook.addressed(self._compose())
        assert email.sender is not None  # addressed has seen to it
        message_id = self._waiting.message_id or _message_id(self._context, email.sender.domain) or email.message_id
        ledger = Ledger.open(self._context, message_id=message_id or "", accepted=self._waiting.accepted)
        email = replace(email, message_id=ledger.message_id)
        self._sent.email, self._sent.ledger = email, ledger
        envelope = email.envelope
        left = ledger.left(envelope.recipients)
        if not left:
            self._operator.log.warning(
                "Nothing is left to send: everybody has mail %s from an earlier try.", ledger.message_id
            )
            self._sent.problem = "Everybody had this mail from an earlier try; nothing was sent in the last one."
            sent = Delivery(message_id=ledger.message_id, sender=envelope.sender)
            return {**self._result(sent, ledger), "already_sent": True}
        if ledger.in_flight:
            self._decide_on_doubt(ledger, hook, envelope.sender)
        try:
            delivery = hook.deliver(email, replace(envelope, recipients=left), before_end=partial(ledger.begin, left))
            self._sent.delivery = delivery
            ledger.record(delivery)
            self._operator.log.info(
                "Mail %s of %d octets through %s: all %d recipients accepted (%s)",
                *(delivery.message_id, delivery.size, self._sent.server, len(delivery.accepted), delivery.reply),
            )
        except DeliveryError as error:
            delivery = self._after_failure(error, ledger)
        except BaseException as error:  # such as the end of the task's execution_timeout
            if ledger.in_flight:
                doubt = self._doubt(ledger, hook, envelope.sender, "the task was interrupted before the answer came")
                self._name(doubt, ledger)
                if self._operator.on_unknown == "fail":
                    raise AirflowFailException(str(doubt)) from error
            raise
        finally:
            self._stop_the_clock()
        return self._result(delivery, ledger)

    def _decide_on_doubt(self, ledger: Ledger, hook: SmtpInterfaceHook, sender: str) -> None:
        """Look at what an earlier try left open: it was ended after the final dot, before its answer was recorded."""
        doubt = self._doubt(ledger, hook, sender, "an earlier try ended before the answer was recorded")
        self._name(doubt, ledger)
        if self._operator.on_unknown == "fail":
            raise doubt

    def _name(self, doubt: DeliveryError, ledger: Ledger) -> None:
        """Say that a mail is in doubt, once and for all: to whoever reads the task's error, or its log."""
        ledger.tell()
        if self._operator.on_unknown == "resend":
            self._operator.log.warning("%s It is sent again (on_unknown).", doubt)

    def _doubt(self, ledger: Ledger, hook: SmtpInterfaceHook, sender: str, text: str) -> DeliveryError:
        why = Failure(stage=Stage.ACCEPTANCE, text=text, cause=Cause.LOST)
        self._sent.delivery = doubt = Delivery(
            message_id=ledger.message_id,
            sender=sender,
            accepted=tuple(ledger.accepted),
            unknown=dict.fromkeys(ledger.in_flight, why),
        )
        error = incomplete_error(doubt, where=hook.settings.where)
        assert error  # somebody is in flight
        return error

    def _after_failure(self, error: DeliveryError, ledger: Ledger) -> Delivery:
        """Record who was accepted all the same; then excuse the refusals, wait, or raise the error."""
        self._sent.delivery = delivery = error.delivery
        if earlier := named(dict.fromkeys(ledger.accepted)):
            error.args = (f"{error} Accepted in an earlier try: {earlier}.",)
        self._sent.problem = str(error)
        if delivery:
            ledger.record(delivery)
            only_refused = not (delivery.deferred or delivery.unknown)
            if self._operator.on_refused == "warn" and only_refused and ledger.accepted:
                ledger.finish(delivery)
                self._operator.log.warning("%s Ended green all the same (on_refused).", error)
                return delivery
        raise error

    def _stop_the_clock(self) -> None:
        """Let the task's ``execution_timeout`` run out unnoticed: what became of the mail is decided.

        Its time-out would take the place of a success or of an error that forbids a retry, and the mail be sent again.
        """
        if self._context.get("ti") is not None and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _lost_by_a_retry(self) -> str:
        """Say who has the mail, if Airflow has no store: a retry would know nothing of them and mail them again."""
        if self._context.get("task_state_store") is not None or not (accepted := named(dict.fromkeys(self._accepted))):
            return ""
        remedy = "" if self._operator.deferrable else "; deferrable=True goes on with the rest"
        return (
            "Not retried, because this Airflow keeps no record (3.3 does) of those who have it, and clearing the task "
            f"would mail them again: {accepted}{remedy}."
        )

    @property
    def _accepted(self) -> Mapping[str, str]:
        return self._sent.ledger.accepted if self._sent.ledger else self._waiting.accepted

    def _defer(self, error: TransientDeliveryError) -> None:
        """Hand the slot back and wait in the triggerer, unless the time is over."""
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        operator, ledger = self._operator, self._sent.ledger
        further = self._waiting.next(
            message_id=ledger.message_id if ledger else self._waiting.message_id,
            accepted=self._accepted,
            delays=operator.delays,
            max_wait=operator.max_wait,
        )
        if further is None:
            self._operator.log.error("Given up after %d attempts, max_wait is over.", self._waiting.attempt + 1)
            return
        waiting, delay = further
        self._operator.log.warning("%s Attempt %d follows in %s.", error, waiting.attempt + 1, delay)
        self._operator.defer(trigger=TimeDeltaTrigger(delay), method_name="resume", kwargs=waiting.as_kwargs())

    def _result(self, delivery: Delivery, ledger: Ledger) -> dict[str, object]:
        """Return everybody accepted in this generation, and in this try."""
        result = delivery.as_dict()
        refused = ledger.refused or result["refused"]
        accepted = {"accepted": list(ledger.accepted), "this_try": list(delivery.accepted), "refused": refused}
        return {**result, **accepted, "subject": self._operator.subject}

    def _compose(self) -> Email:
        operator = self._operator
        email = Email.compose(
            subject=operator.subject,
            body=operator.body,
            recipients=operator.recipients,
            is_html=operator.is_html,
            text=operator.text,
            cc=operator.cc,
            bcc=operator.bcc,
            sender=operator.sender,
            reply_to=operator.reply_to,
            attachments=(*self._actor_attachment(), *parse_attachments(operator.attachments, open_url=open_url)),
            headers=operator.headers,
        )
        return replace(email, text=text_of_html(email.body)) if email.is_html and email.text is None else email

    def _actor_attachment(self) -> Iterable[Attachment]:
        """Make the attachment of the actor's two inputs, content and name."""
        operator = self._operator
        if operator.attachment is None and operator.attachment_name is None:
            return
        if operator.attachment is None or not operator.attachment_name:
            missing = "attachment" if operator.attachment is None else "attachment_name"
            raise InvalidEmail(f"{missing}: is missing; attachment (content) and attachment_name go together")
        name = one_line(operator.attachment_name, field="attachment_name")
        if isinstance(operator.attachment, bytes):
            yield Attachment.from_bytes(operator.attachment, name=name)
        else:
            yield Attachment.from_text(operator.attachment, name=name)


def _message_id(context: Context, domain: str) -> str | None:
    """Return a Message-ID that stays the same over the retries of a task and changes when a human clears it."""
    ti = context.get("ti")  # None where execute() is called by hand
    if ti is None:
        return None
    name = "\0".join(map(str, (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries, domain)))
    return f"<{hashlib.sha256(name.encode()).hexdigest()[:32]}@{domain}>"

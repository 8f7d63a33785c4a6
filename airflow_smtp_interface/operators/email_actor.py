"""EmailActorOperator: a task that sends one mail."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jinja2.nativetypes
from airflow.sdk import BaseOperator

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook, open_url
from airflow_smtp_interface.mail.attachment import Attachment, parse_attachments
from airflow_smtp_interface.mail.errors import (
    DeliveryError,
    InterfaceInactive,
    InvalidEmail,
    MailError,
    TransientDeliveryError,
)
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.values import parse_bool
from airflow_smtp_interface.operators.exceptions import AirflowFailException, AirflowSkipException
from airflow_smtp_interface.operators.templates import render_attachments

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_smtp_interface.mail.addresses import AddressInput
    from airflow_smtp_interface.mail.attachment import AttachmentsInput
    from airflow_smtp_interface.mail.delivery import Delivery

_TEXTS = frozenset({"subject", "body", "text", "attachment", "attachment_name", "headers"})
"""Fields that are text whatever they look like, also where the Dag renders native objects."""


class EmailActorOperator(BaseOperator):
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
    :param on_inactive: ``skip`` skips the task if the connection is switched off.
    :return: as XCom, :meth:`.Delivery.as_dict` and the subject.
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
        on_inactive: Literal["fail", "skip"] = "fail",
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
        self.on_inactive = _choice("on_inactive", on_inactive, "fail", "skip")

    def execute(self, context: Context) -> dict[str, object]:
        """Compose the mail from the rendered fields and send it, once.

        :raises AirflowFailException: from an error that trying again cannot mend.
        :raises AirflowSkipException: if the connection is switched off and ``on_inactive`` says so.
        :raises TransientDeliveryError: if trying again can help and nobody has the mail yet.
        """
        try:
            with SmtpInterfaceHook(self.smtp_interface_conn_id) as hook:
                hook.settings.check_active()
                delivery = self._send(hook, context)
        except InterfaceInactive as error:
            if self.on_inactive == "skip":
                raise AirflowSkipException(str(error)) from error
            raise AirflowFailException(str(error)) from error
        except TransientDeliveryError as error:
            if error.delivery and error.delivery.accepted:
                # Airflow would try again for everybody, and those who have the mail would get it twice.
                raise AirflowFailException(f"{error} Not retried, because some recipients have it already.") from error
            raise
        except MailError as error:
            raise AirflowFailException(str(error)) from error
        return {**delivery.as_dict(), "subject": self.subject}

    def _send(self, hook: SmtpInterfaceHook, context: Context) -> Delivery:
        email = Email.compose(
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
        email = email.with_defaults(sender=hook.settings.sender, to=hook.settings.recipients)
        assert email.sender is not None  # with_defaults has seen to it
        try:
            return hook.send(replace(email, message_id=_message_id(context, email.sender.domain)))
        except DeliveryError as error:
            delivery = error.delivery
            if self.on_refused == "fail" or not delivery or not delivery.accepted:
                raise
            if delivery.deferred or delivery.unknown:
                raise
            self.log.warning("%s Ended green all the same (on_refused).", error)
            return delivery

    def _actor_attachment(self) -> Iterable[Attachment]:
        """Make the attachment of the actor's two inputs, content and name."""
        if self.attachment is None and self.attachment_name is None:
            return
        if self.attachment is None or not self.attachment_name:
            missing = "attachment" if self.attachment is None else "attachment_name"
            raise InvalidEmail(f"{missing}: is missing; attachment (content) and attachment_name go together")
        if isinstance(self.attachment, bytes):
            yield Attachment.from_bytes(self.attachment, name=self.attachment_name)
        else:
            yield Attachment.from_text(self.attachment, name=self.attachment_name)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render each field with the environment that fits it. Airflow calls this for mapped tasks too."""
        for field in template_fields:
            environment = jinja_env if parent is not self or field not in _TEXTS else self._text_environment(field)
            if parent is self and field == "attachments":
                render = partial(self.render_template, context=context, jinja_env=environment, seen_oids=seen_oids)
                self.attachments = render_attachments(self.attachments, render)
            else:
                super()._do_render_template_fields(parent, (field,), context, environment, seen_oids)

    def _text_environment(self, field: str) -> jinja2.Environment:
        """Return an environment that renders text: a native one makes the body ``1`` a number and escapes nothing."""
        dag = self.get_dag()
        environment = dag.get_template_env(force_sandboxed=True) if dag else self.get_template_env()
        value = getattr(self, field)
        return environment.overlay(
            autoescape=field == "body" and self.autoescape and self._is_html(),
            # Jinja drops the last line break and turns CRLF into LF, which would change the bytes of a file.
            keep_trailing_newline=field in ("body", "text", "attachment"),
            newline_sequence="\r\n" if isinstance(value, str) and "\r\n" in value else "\n",
        )

    def _is_html(self) -> bool:
        try:
            return parse_bool(self.is_html)
        except ValueError as error:
            raise AirflowFailException(f"is_html: {error}") from error

    def _render(self, template: jinja2.Template, context: Context, dag: Any = None) -> Any:
        """Let the environment of the template decide what it renders to, not the Dag."""
        if isinstance(template.environment, jinja2.nativetypes.NativeEnvironment):
            return super()._render(template, context, dag)
        return template.render(context)


def _choice(field: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{field}: {value!r} is none of {', '.join(choices)}")
    return value


def _message_id(context: Context, domain: str) -> str:
    """Return a Message-ID that stays the same over the retries of a task and changes when a human clears it."""
    ti = context["ti"]
    name = "\0".join(map(str, (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries, domain)))
    return f"<{hashlib.sha256(name.encode()).hexdigest()[:32]}@{domain}>"

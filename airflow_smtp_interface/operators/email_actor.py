"""EmailActorOperator: a task that sends one mail. What sends it is imported when it runs, not when a Dag is parsed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_smtp_interface.operators.links import SentEmailLink
from airflow_smtp_interface.operators.templates import RenderedTexts

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
    :param keep_sent: what the Email tab can show afterwards, kept as XCom ``email`` for everybody who may read the
        Dag's XComs: the mail without attachments (``full``), without its bodies too (``headers``), or nothing
        (``off``). None means what ``[smtp_interface] keep_sent`` of Airflow's configuration says, ``full`` by default.
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
    operator_extra_links = (SentEmailLink(),)
    delays: ClassVar[Sequence[timedelta]] = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 30, 60))
    """Before the first, second, … further attempt of a deferred task; the last from then on (RFC 5321 4.5.4.1)."""

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
        smtp_interface_conn_id: str = "smtp_interface_default",
        autoescape: bool = True,
        on_refused: Literal["fail", "warn"] = "fail",
        on_unknown: Literal["fail", "resend"] = "fail",
        on_inactive: Literal["fail", "skip"] = "fail",
        deferrable: bool = False,
        max_wait: timedelta = timedelta(hours=4),
        keep_sent: Literal["full", "headers", "off"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.subject = subject
        self.body = body
        self.recipients = _kept(recipients)
        self.is_html = is_html
        self.text = text
        self.sender = sender
        self.cc = _kept(cc)
        self.bcc = _kept(bcc)
        self.reply_to = _kept(reply_to)
        self.attachment = attachment
        self.attachment_name = attachment_name
        self.attachments = _kept(attachments)
        self.headers = headers
        self.smtp_interface_conn_id = smtp_interface_conn_id
        self.autoescape = autoescape
        self.on_refused = _choice("on_refused", on_refused, "fail", "warn")
        self.on_unknown = _choice("on_unknown", on_unknown, "fail", "resend")
        self.on_inactive = _choice("on_inactive", on_inactive, "fail", "skip")
        self.deferrable = _typed("deferrable", deferrable, bool, "True or False")
        self.max_wait = _typed("max_wait", max_wait, timedelta, "one such as timedelta(hours=4)")
        self.keep_sent = None if keep_sent is None else _choice("keep_sent", keep_sent, "full", "headers", "off")

    def execute(self, context: Context) -> dict[str, object]:
        """Compose the mail from the rendered fields and send it, once, to those who do not have it yet.

        :raises AirflowFailException: from an error that trying again cannot mend.
        :raises AirflowSkipException: if the connection is switched off and ``on_inactive`` says so.
        :raises TransientDeliveryError: if trying again can help.
        :raises OutcomeUnknown: if the answer was lost and ``on_unknown`` says that the mail is to be sent again.
        :raises TaskDeferred: if trying again can help and the task is ``deferrable``.
        """
        from airflow_smtp_interface.operators.attempt import Attempt
        from airflow_smtp_interface.operators.waiting import Waiting

        return Attempt(self, context, Waiting()).run()

    def resume(self, context: Context, event: object = None, **waiting: Any) -> dict[str, object]:
        """Go on after a wait, as :meth:`execute` does; Airflow has rendered the templates anew."""
        from airflow_smtp_interface.operators.attempt import Attempt
        from airflow_smtp_interface.operators.waiting import Waiting

        return Attempt(self, context, Waiting.from_kwargs(**waiting)).run()


def _choice(field: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{field}: {value!r} is none of {', '.join(choices)}")
    return value


def _typed(field: str, value: Any, kind: type, remedy: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{field}: {value!r} is {type(value).__name__}; pass {remedy}")
    return value


def _kept(several: Any) -> Any:
    """Keep several values for every try of a task that is not mapped, and in one order however often it is parsed."""
    if isinstance(several, (set, frozenset)):
        return sorted(several, key=str)
    return list(several) if isinstance(several, Iterator) else several

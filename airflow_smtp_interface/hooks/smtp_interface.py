"""Connection id -> settings -> session. What a mail leaves open, the connection fills in."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, ObjectStoragePath

from airflow_smtp_interface.mail.attachment import parse_attachments
from airflow_smtp_interface.mail.bulk import send_all
from airflow_smtp_interface.mail.check import check
from airflow_smtp_interface.mail.errors import DeliveryError, MailError, incomplete_error
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.mime import Content
from airflow_smtp_interface.mail.session import SmtpSession, connect
from airflow_smtp_interface.mail.settings import Security, SmtpSettings
from airflow_smtp_interface.mail.transaction import Item, deliver
from airflow_smtp_interface.provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any, Self

    from airflow_smtp_interface.mail.addresses import AddressInput
    from airflow_smtp_interface.mail.attachment import AttachmentsInput, StoredFile
    from airflow_smtp_interface.mail.delivery import Delivery
    from airflow_smtp_interface.mail.message import Envelope
    from airflow_smtp_interface.mail.transaction import BeforeEnd


class SmtpInterfaceHook(BaseHook):
    """Send mail through an SMTP interface.

    A context manager that connects on first use, keeps the connection for further mails, opens a new one where the
    server has closed it, and says QUIT at the end::

        with SmtpInterfaceHook() as hook:
            hook.send_email(subject="Done", body="All rows loaded.")

    :param smtp_interface_conn_id: id of an Airflow connection of type ``smtp_interface``.
    """

    conn_name_attr = "smtp_interface_conn_id"
    default_conn_name = "smtp_interface_default"
    conn_type = "smtp_interface"
    hook_name = "SMTP interface"

    def __init__(self, smtp_interface_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.smtp_interface_conn_id = smtp_interface_conn_id
        self._session: SmtpSession | None = None
        self._sent: Counter[str] = Counter()  # since the log last told of it

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields for Airflow 3.1; newer ones read ``conn-fields``."""
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import Optional, any_of

        kinds = {"string": StringField, "boolean": BooleanField, "integer": IntegerField, "number": IntegerField}
        widgets = {}
        for key, field in _connection_type()["conn-fields"].items():
            schema = field["schema"]
            validators = [any_of(schema["enum"])] if "enum" in schema else [Optional()]
            widgets[key] = kinds[schema["type"][0]](
                field["label"], validators=validators, description=field["description"], default=schema.get("default")
            )
        return widgets

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return what the form calls the standard fields, for Airflow 3.1."""
        behaviour = _connection_type()["ui-field-behaviour"]
        return {key.replace("-", "_"): value for key, value in behaviour.items()}

    @cached_property
    def settings(self) -> SmtpSettings:
        """The connection's fields.

        :raises InvalidSettings: listing every problem of the connection.
        """
        return SmtpSettings.from_connection(self.get_connection(self.smtp_interface_conn_id))

    def get_conn(self) -> SmtpSession:
        """Return a session with the server that is encrypted and logged in as the connection says.

        :return: an ``smtplib.SMTP``; the same one as long as it stands.
        :raises InterfaceInactive: if the connection is switched off.
        :raises DeliveryError: if connecting fails; it names the stage, the cause and the remedy.
        """
        if self._session is None or not self._session.is_usable():
            self.close()
            self.settings.check_active()
            self._warn_of_unverified()
            self._session = connect(self.settings)
        return self._session

    def close(self) -> None:
        """Say QUIT to the server, if there is a connection, and log how many mails were sent."""
        if self._session is not None:
            self._session.leave()
            self._session = None
        self._log_sent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def send(self, email: Email, *, before_end: BeforeEnd | None = None) -> Delivery:
        """Send one mail, once.

        :param email: what is to be sent; From and To are filled in from the connection where it leaves them open.
        :param before_end: called after the last piece of content and before the final dot.
        :return: everybody was accepted.
        :raises InvalidEmail: before any connection, if it cannot be sent as it is.
        :raises InvalidSettings: if the connection cannot be used, or is switched off.
        :raises DeliveryError: if not everybody was accepted; its ``delivery`` tells who was.
        """
        self.settings.check_active()
        email = self.addressed(email)
        try:
            delivery = self.deliver(email, email.envelope, before_end=before_end)
        except DeliveryError as error:
            if error.delivery:
                self._count(error.delivery)
            raise
        self._count(delivery)
        return delivery

    def deliver(self, email: Email, envelope: Envelope, *, before_end: BeforeEnd | None = None) -> Delivery:
        """Send one mail, once, to those whom an envelope names: all of its recipients, or those who are left.

        :param email: as :meth:`addressed` returns it.
        :param envelope: who the server is told the mail is for.
        :return: everybody in the envelope was accepted.
        :raises MailError: as :meth:`send` does.
        """
        settings = self.settings
        settings.check_allowed(envelope.recipients)
        content = Content(email)
        delivery = deliver(
            self.get_conn(),
            envelope,
            content,
            size=content.size,
            message_id=email.message_id or "",
            before_end=before_end,
        )
        if error := incomplete_error(delivery, where=settings.where):
            raise error
        return delivery

    def addressed(self, email: Email) -> Email:
        """Fill in From and To from the connection; in staging, put the mailbox there in the place of everybody.

        :raises InvalidEmail: if neither the mail nor the connection names a sender or a recipient.
        """
        settings = self.settings
        email = email.with_defaults(sender=settings.sender, to=settings.recipients)
        if not settings.redirect_to:
            return email
        self.log.warning(
            "Connection %r redirects all mail: %d recipients are replaced, %d of them Bcc",
            self.smtp_interface_conn_id,
            len(email.envelope.recipients),
            len(email.bcc),
        )
        return email.redirected(settings.redirect_to)

    def send_email(
        self,
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
    ) -> Delivery:
        """Compose a mail and send it, once. The parameters are those of :meth:`.Email.compose`.

        :param attachments: also URLs such as ``s3://conn_id@bucket/key``, opened by ``ObjectStoragePath``.
        :return: everybody was accepted.
        :raises MailError: as :meth:`send` does.
        """
        email = Email.compose(
            subject=subject,
            body=body,
            recipients=recipients,
            is_html=is_html,
            text=text,
            cc=cc,
            bcc=bcc,
            sender=sender,
            reply_to=reply_to,
            attachments=parse_attachments(attachments, open_url=open_url),
            headers=headers,
            message_id=message_id,
        )
        return self.send(email)

    def send_all(self, emails: Iterable[Email], *, connections: int = 3) -> Iterator[Delivery]:
        """Send many mails and yield what became of each, in the order given::

            with SmtpInterfaceHook() as hook:
                for delivery in hook.send_all(Email.compose(...) for row in rows):
                    ...

        Nothing is sent until the results are taken. Refusals and deferrals are in them, not exceptions. A lost
        connection is opened anew; a mail whose last answer was lost is reported as unknown and not sent again. Closing
        the generator early stops the intake, brings the mails under way to their end and logs the rest.

        :param emails: taken in lazily, a bounded number ahead; From and To are filled in from the connection.
        :param connections: sessions used side by side, 1 to 10; opened when there are mails for them.
        :raises InvalidEmail: where a mail cannot be sent as it is, after the results of those before it.
        :raises InvalidSettings: if the connection cannot be used, or is switched off.
        :raises DeliveryError: if no connection can be opened any more, after the results of all mails that were begun.
        """
        self.settings.check_active()
        self._warn_of_unverified()
        return self._counted(send_all(self.settings, map(self._item, emails), connections=connections))

    def _counted(self, deliveries: Iterator[Delivery]) -> Iterator[Delivery]:
        try:
            with closing(deliveries):  # type: ignore[type-var]  # a generator
                for delivery in deliveries:
                    self._count(delivery)
                    yield delivery
        finally:
            self._log_sent()

    def _count(self, delivery: Delivery) -> None:
        sent = self._sent
        sent["mails"] += 1
        for group in ("accepted", "refused", "deferred", "unknown"):
            sent[group] += len(getattr(delivery, group))

    def _log_sent(self) -> None:
        if self._sent:
            self.log.info(
                "Mails through %s: %d; recipients: %d accepted, %d refused, %d deferred, %d unknown",
                self.settings.address,
                *(self._sent[each] for each in ("mails", "accepted", "refused", "deferred", "unknown")),
            )
            self._sent.clear()

    def _item(self, email: Email) -> Item:
        email = self.addressed(email)
        envelope, content = email.envelope, Content(email)
        self.settings.check_allowed(envelope.recipients)
        return Item(envelope=envelope, content=content, size=content.size, message_id=email.message_id or "")

    def _warn_of_unverified(self) -> None:
        if not self.settings.verify_certificate and self.settings.security is not Security.NONE:
            self.log.warning(
                "Connection %r does not verify the server's certificate: whoever controls the network can read "
                "the mail and the password.",
                self.smtp_interface_conn_id,
            )

    def test_connection(self) -> tuple[bool, str]:
        """Go the whole way to the server without sending anything; see :func:`.check`.

        :return: whether it works, and what was found or what to do. The text does not show the connection's id:
            behind Airflow's button it is a random one.
        """
        try:
            finding = check(self.settings)
            works, text = finding.works, finding.text
        except MailError as error:
            works, text = False, str(error)
        except Exception as error:  # noqa: BLE001 whoever clicked the button shall see it, whatever it is
            text = f"The connection cannot be read ({error}). Port has to be 1 to 65535, and Extra JSON."
            works, text = False, text.replace(self.smtp_interface_conn_id, "…")
        named = f"connection {self.smtp_interface_conn_id!r}"
        if text.startswith(named):
            text = f"The connection{text.removeprefix(named)}"
        return works, text.replace(named, "the connection")


def open_url(url: str) -> StoredFile:
    """Find a file by URL, such as ``s3://conn_id@bucket/key``, through Airflow's object storage."""
    file: StoredFile = ObjectStoragePath(url)  # type: ignore[assignment]
    return file


def _connection_type() -> dict[str, Any]:
    info: dict[str, Any] = get_provider_info()
    connection_type: dict[str, Any] = info["connection-types"][0]
    return connection_type

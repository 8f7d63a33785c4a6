"""One mail over an open session: MAIL, RCPT, DATA, content, final dot (RFC 5321 section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Reply, Stage
from airflow_smtp_interface.mail.wire import Broken, dot_stuffed

if TYPE_CHECKING:
    from airflow_smtp_interface.mail.message import Envelope
    from airflow_smtp_interface.mail.session import SmtpSession

BeforeEnd = Callable[[], None]
"""Called after the last piece of content and before the final dot."""


def deliver(
    session: SmtpSession,
    envelope: Envelope,
    content: Iterable[bytes],
    *,
    size: int,
    message_id: str = "",
    before_end: BeforeEnd | None = None,
) -> Delivery:
    """Send one mail and say, recipient by recipient, what became of it. Nothing is ever sent again.

    :param session: open; it is closed wherever the server's state is no longer known.
    :param envelope: who the mail is from and for.
    :param content: header and body in any pieces, CRLF only; not dot-stuffed.
    :param size: its octets.
    :param message_id: goes into the result.
    :param before_end: called after the last piece of content and before the final dot. If it raises, the mail is
        given up and nobody gets it.
    :return: refusals and lost connections too; nothing the server or the network does is raised.
    """
    transaction = _Transaction(session, envelope, size)
    failure = transaction.offer() or transaction.send(content, before_end)
    return transaction.delivery(failure, message_id)


class _Transaction:
    """What is known so far of one mail's recipients."""

    def __init__(self, session: SmtpSession, envelope: Envelope, size: int) -> None:
        self._session = session
        self._envelope = envelope
        self._size = size
        self._failures: dict[str, Failure] = {}
        self._stage = Stage.SENDER
        self._end: Reply | None = None
        self._in_doubt = False  # between the final dot and a valid answer to it

    def offer(self) -> Failure | None:
        """Name sender and recipients, and ask to send the content.

        :return: why nobody will get the mail; None if the server waits for the content (354).
        """
        if failure := self._misfit():
            return failure
        try:
            failure = self._command(self._mail_from()) or self._name_recipients() or self._data()
        except Broken as broken:
            return self._lost(broken)
        if failure and self._session.sock:
            self._forget()
        return failure

    def send(self, content: Iterable[bytes], before_end: BeforeEnd | None) -> Failure | None:
        """Send the content and the final dot.

        :return: why those whom RCPT accepted did not get the mail, or may not have; None if they got it.
        """
        self._stage = Stage.CONTENT
        try:
            if failure := self._send_content(content):
                self._session.close()  # without the final dot nobody gets the mail
                return failure
            if before_end:
                before_end()
            self._session.send(b".\r\n")
            self._stage, self._in_doubt = Stage.ACCEPTANCE, True
            self._end = self._session.read_reply(self._session.settings.data_timeout)
        except Broken as broken:
            return self._lost(broken)
        except BaseException:
            self._session.close()
            raise
        self._in_doubt = not (self._end.is_positive or self._end.is_negative)
        return None if self._end.is_positive else self._refusal(self._end)

    def delivery(self, failure: Failure | None, message_id: str) -> Delivery:
        """Put every recipient into its group.

        :param failure: why those whom RCPT accepted did not get the mail; None if they did.
        """
        left = tuple(each for each in self._envelope.recipients if each not in self._failures)
        failed = dict(self._failures)
        if failure and not self._in_doubt:
            failed |= dict.fromkeys(left, failure)
        return Delivery(
            message_id=message_id,
            sender=self._envelope.sender,
            accepted=() if failure else left,
            refused={each: why for each, why in failed.items() if why.is_permanent},
            deferred={each: why for each, why in failed.items() if not why.is_permanent},
            unknown=dict.fromkeys(left, failure) if failure and self._in_doubt else {},
            reply=self._end or (failure.reply if failure else None),
            size=self._size,
        )

    def _misfit(self) -> Failure | None:
        """Find what the server has said it cannot take, before anything is sent."""
        limit = self._session.esmtp_features.get("size", "")
        if limit.isdigit() and 0 < int(limit) < self._size:  # RFC 1870 section 4: 0 means no fixed limit
            text = f"the mail has {self._size} octets, the server takes {limit}"
            return Failure(stage=Stage.SENDER, text=text, cause=Cause.TOO_LARGE)
        if self._envelope.utf8 and not self._session.has_extn("smtputf8"):
            named = [each for each in (self._envelope.sender, *self._envelope.recipients) if not each.isascii()]
            return Failure(stage=Stage.SENDER, text=", ".join(named), cause=Cause.NO_SMTPUTF8)
        return None

    def _mail_from(self) -> str:
        parameters = ""
        if self._session.has_extn("size"):
            parameters += f" SIZE={self._size}"
        if self._envelope.utf8:
            parameters += " SMTPUTF8" + (" BODY=8BITMIME" if self._session.has_extn("8bitmime") else "")
        return f"MAIL FROM:<{self._envelope.sender}>{parameters}"

    def _name_recipients(self) -> Failure | None:
        self._stage = Stage.RECIPIENT
        for recipient in self._envelope.recipients:
            failure = self._command(f"RCPT TO:<{recipient}>")
            if failure and not self._session.sock:
                return failure
            if failure:
                self._failures[recipient] = failure
        return failure if len(self._failures) == len(self._envelope.recipients) else None

    def _data(self) -> Failure | None:
        self._stage = Stage.DATA
        return self._command("DATA", expected=3)

    def _command(self, line: str, *, expected: int = 2) -> Failure | None:
        """Send a command.

        :return: None if the first digit of the reply is the expected one.
        """
        self._session.send(f"{line}\r\n")
        reply = self._session.read_reply()
        return None if reply.code // 100 == expected else self._refusal(reply)

    def _send_content(self, content: Iterable[bytes]) -> Failure | None:
        chunks = dot_stuffed(content)
        while True:
            try:
                chunk = next(chunks, None)
            except OSError as error:
                return Failure(stage=self._stage, text=str(error), cause=Cause.CONTENT_UNREADABLE)
            if self._session.has_spoken():  # before the final dot there is nothing to answer yet
                return self._refusal(self._session.read_reply())
            if chunk is None:
                return None
            self._session.send(chunk)

    def _refusal(self, reply: Reply) -> Failure:
        if reply.is_negative and reply.code != 421:
            return Failure(stage=self._stage, reply=reply, text=str(reply))
        # 421 (RFC 5321 3.8) or a reply that does not fit: what the server expects next is not known.
        self._session.close()
        cause = Cause.REPLY if reply.is_negative else Cause.ODD_REPLY
        return Failure(stage=self._stage, reply=reply, text=str(reply), cause=cause)

    def _lost(self, broken: Broken) -> Failure:
        if broken.reply and broken.reply.is_negative and not self._in_doubt:
            return Failure(stage=self._stage, reply=broken.reply, text=str(broken.reply))
        return Failure(stage=self._stage, text=broken.text, cause=broken.cause)

    def _forget(self) -> None:
        """Let the session be used for another mail."""
        with suppress(Broken):
            self._session.send(b"RSET\r\n")
            if not self._session.read_reply().is_positive:
                self._session.close()

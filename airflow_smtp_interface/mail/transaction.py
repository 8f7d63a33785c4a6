"""The one transaction machine: MAIL … final dot (RFC 5321 section 3.3) for one mail or many in a row.

Where the server offers PIPELINING (RFC 2920) an envelope is one write, and the end of one mail shares a write with the
envelope of the next, so that a mail in a row costs one round trip. Elsewhere each command waits for its reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.commands import RSET, Command, commands, groups
from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Reply, Stage
from airflow_smtp_interface.mail.wire import Broken, dot_stuffed

if TYPE_CHECKING:
    from airflow_smtp_interface.mail.message import Envelope
    from airflow_smtp_interface.mail.session import SmtpSession

BeforeEnd = Callable[[], None]
"""Called after the last piece of content and before the final dot."""

_DOT = b".\r\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One mail to be sent; the parameters are those of :func:`deliver`."""

    envelope: Envelope
    content: Iterable[bytes]
    size: int
    message_id: str = ""
    before_end: BeforeEnd | None = None


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
    item = Item(envelope=envelope, content=content, size=size, message_id=message_id, before_end=before_end)
    (delivery,) = deliver_all(session, [item])
    return delivery


def deliver_all(session: SmtpSession, items: Iterable[Item | None]) -> Iterator[Delivery]:
    """Send mails in a row over one session.

    The end of a mail is held back until the next item is there, because they share a write.

    :param session: open; after a loss it is closed.
    :param items: None says that no further mail is there yet: what is under way is brought to its end first.
    :return: one delivery for each item that was taken, in their order. Once the session is closed no further item is
        taken; of one whose envelope only was sent everybody is deferred.
    """
    before: _Mail | None = None  # its content is sent, its final dot is not
    dirty = False  # whether the server may still be within the envelope of an earlier mail
    try:
        for item in chain(items, [None]):
            mail = _Mail(session, item, reset=dirty) if item else None
            if before:
                yield before.end(followed_by=mail)
            before = None
            if mail and mail.offer() and mail.send_content():
                before, dirty = mail, False
            elif mail:
                dirty = dirty or mail.began
                yield mail.delivery()
            elif dirty:
                _reset(session)
                dirty = False
            if session.sock is None:
                return
    finally:
        if before:
            session.close()  # the caller has gone in the middle of a mail: without its final dot nobody gets it


def _reset(session: SmtpSession) -> None:
    """Let the session be used for another mail."""
    with suppress(Broken):
        session.send(RSET)
        if not session.read_reply().is_positive:
            session.close()


class _Mail:
    """One mail's way through a session, and what is known so far of its recipients."""

    def __init__(self, session: SmtpSession, item: Item, *, reset: bool) -> None:
        self._session = session
        self._item = item
        self._stage = Stage.SENDER
        self._refused: dict[str, Failure] = {}  # by RCPT
        self._taken = False  # whether RCPT has accepted somebody
        self._failure = self._misfit()  # of the whole mail
        self._end: Reply | None = None
        self._in_doubt = False  # between the final dot and a valid answer to it
        envelope, offers = item.envelope, session.has_extn
        wanted = () if self._failure else commands(envelope, size=item.size, offers=offers, reset=reset)
        self._groups = groups(wanted, together=session.pipelines)
        self._awaited: list[Command] = []
        self.began = False  # whether a command of its envelope was sent

    def offer(self) -> bool:
        """Name sender and recipients, and ask to send the content.

        :return: whether the server waits for the content of a mail that somebody gets.
        """
        try:
            while self._awaited or self._groups:
                if not self._awaited:
                    self._session.send(self.next_group())
                command = self._awaited.pop(0)
                self._stage = command.stage
                reply = self._session.read_reply()
                if command.stage is Stage.DATA:
                    return self._hear_data(reply)
                self._hear(command, reply)
        except Broken as broken:
            self._lose(broken)
        return False

    def next_group(self) -> bytes:
        """Take the next commands that share a write; their replies are awaited from now on."""
        self._awaited = self._groups.pop(0) if self._groups else []
        self.began = self.began or bool(self._awaited)
        return b"".join(command.line for command in self._awaited)

    def send_content(self) -> bool:
        """Send header and body, but not the final dot.

        :return: whether all of it was sent; otherwise the session is closed and nobody gets the mail.
        """
        self._stage = Stage.CONTENT
        chunks = dot_stuffed(self._item.content)
        try:
            while (chunk := self._next(chunks)) is not None:
                self._interrupt()
                self._session.send(chunk)
        except Broken as broken:
            self._lose(broken)
        except BaseException:
            self._session.close()
            raise
        return self._failure is None

    def end(self, *, followed_by: _Mail | None) -> Delivery:
        """Send the final dot, with the envelope of the next mail in the same write, and read the answer to it."""
        try:
            self._interrupt()
            if self._item.before_end:
                self._item.before_end()
            envelope = followed_by.next_group() if followed_by and self._session.pipelines else b""
            # A write that fails had no room even for a dot alone; of a longer one the dot may have gone out.
            self._in_doubt = bool(envelope)
            self._session.send(_DOT + envelope)
            self._stage, self._in_doubt = Stage.ACCEPTANCE, True
            self._end = self._session.read_reply(self._session.settings.data_timeout)
            self._in_doubt = not (self._end.is_positive or self._end.is_negative)
            if not self._end.is_positive:
                self._failure = self._refusal(self._end)
        except Broken as broken:
            self._lose(broken)
        except BaseException:
            self._session.close()
            raise
        return self.delivery()

    def delivery(self) -> Delivery:
        """Put every recipient into its group."""
        failure, left = self._failure, self._left()
        failed = dict(self._refused)
        if failure and not self._in_doubt:
            failed |= dict.fromkeys(left, failure)
        return Delivery(
            message_id=self._item.message_id,
            sender=self._item.envelope.sender,
            accepted=() if failure else left,
            refused={each: why for each, why in failed.items() if why.is_permanent},
            deferred={each: why for each, why in failed.items() if not why.is_permanent},
            unknown=dict.fromkeys(left, failure) if failure and self._in_doubt else {},
            reply=self._end or next((why.reply for why in (failure, *failed.values()) if why), None),
            size=self._item.size,
        )

    def _misfit(self) -> Failure | None:
        """Find what the server has said it cannot take, before anything is sent."""
        limit, envelope = self._session.size_limit, self._item.envelope
        if limit is not None and limit < self._item.size:
            text = f"the mail has {self._item.size} octets, the server takes {limit}"
            return Failure(stage=Stage.SENDER, text=text, cause=Cause.TOO_LARGE)
        if envelope.utf8 and not self._session.has_extn("smtputf8"):
            named = envelope.utf8_fields or ", ".join(each for each in envelope.recipients if not each.isascii())
            return Failure(stage=Stage.SENDER, text=named, cause=Cause.NO_SMTPUTF8)
        return None

    def _hear(self, command: Command, reply: Reply) -> None:
        """Take the reply to RSET, MAIL or RCPT."""
        if reply.is_positive:
            self._taken = self._taken or bool(command.recipient)
            return
        if command.line == RSET and reply.is_negative:  # nobody's fault: what the server expects next is not known
            self._session.close()
            self._failure = Failure(stage=command.stage, text=f"RSET: {reply}", cause=Cause.LOST)
            return
        failure = self._refusal(reply)
        if self._failure:
            return  # MAIL was refused: what was sent along with it is refused for that reason only
        if command.recipient and self._session.sock:
            self._refused[command.recipient] = failure
        else:
            self._failure = failure
        if self._failure or not self._left():
            self._groups.clear()

    def _hear_data(self, reply: Reply) -> bool:
        """Take the reply to DATA; say whether the content of a mail that somebody gets may follow."""
        wanted = self._failure is None and bool(self._left())
        if reply.code == 354 and wanted:
            return True
        if reply.code == 354 and self._taken:
            self._session.close()  # MAIL was refused and RCPT was not: a dot might send them an empty mail
            return False
        if reply.code == 354:
            # RFC 2920 section 3.1: the server waits for content although it has refused everybody.
            self._session.send(_DOT)
            reply = self._session.read_reply()
        failure = self._refusal(reply) if not reply.is_positive or wanted else None
        self._failure = self._failure or (failure if wanted else None)
        return False

    def _left(self) -> tuple[str, ...]:
        """Return those whom RCPT has not refused."""
        return tuple(each for each in self._item.envelope.recipients if each not in self._refused)

    def _next(self, chunks: Iterator[bytes]) -> bytes | None:
        try:
            return next(chunks, None)
        except OSError as error:
            self._failure = Failure(stage=self._stage, text=str(error), cause=Cause.CONTENT_UNREADABLE)
            self._session.close()  # without the final dot nobody gets the mail
            return None

    def _interrupt(self) -> None:
        """Stop if the server has said something: before the final dot there is nothing to answer yet."""
        if self._session.has_spoken():
            self._failure = self._refusal(self._session.read_reply())
            self._session.close()
            raise Broken(Cause.LOST, "the server broke off")

    def _refusal(self, reply: Reply) -> Failure:
        if reply.is_negative and reply.code != 421:
            return Failure(stage=self._stage, reply=reply, text=str(reply))
        # 421 (RFC 5321 3.8) or a reply that does not fit: what the server expects next is not known.
        self._session.close()
        if reply.is_negative:
            return Failure(stage=self._stage, reply=reply, text=str(reply))
        self._session.distrust_pipelining()
        return Failure(stage=self._stage, reply=reply, text=str(reply), cause=Cause.ODD_REPLY)

    def _lose(self, broken: Broken) -> None:
        """Take a lost connection as the reason, unless there is an earlier one."""
        if broken.cause is Cause.ODD_REPLY:
            self._session.distrust_pipelining()
        if self._failure:
            return
        if broken.reply and broken.reply.is_negative and not self._in_doubt:
            self._failure = Failure(stage=self._stage, reply=broken.reply, text=str(broken.reply))
        else:
            self._failure = Failure(stage=self._stage, text=broken.text, cause=broken.cause)

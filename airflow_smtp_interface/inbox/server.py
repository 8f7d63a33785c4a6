"""The inbox's mail server: aiosmtpd on a loopback port, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from email import message_from_bytes, policy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, AuthResult

if TYPE_CHECKING:
    import ssl
    from email.message import EmailMessage
    from typing import Self

    from aiosmtpd.smtp import Envelope, Session


@dataclass(frozen=True, kw_only=True)
class ReceivedMail:
    """One mail as the server received it.

    :param sender: the reverse-path of MAIL FROM.
    :param recipients: the forward-paths of RCPT TO.
    :param content: header and body, byte for byte, dot-stuffing undone.
    :param user: who had logged in.
    :param tls: whether the connection was encrypted.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    user: str | None = None
    tls: bool = False

    @cached_property
    def message(self) -> EmailMessage:
        """The content, parsed."""
        return message_from_bytes(self.content, policy=policy.default)


class Inbox:
    """A mail server that accepts every mail and every login and keeps the mails in memory.

    A context manager::

        with Inbox() as inbox:
            ...  # send to inbox.host, inbox.port
            print(inbox.mails[-1].message["Subject"])

    :param host: a loopback address to listen on.
    :param port: 0 takes a free one.
    :param ssl_context: for TLS from the first byte.
    :param options: further arguments of ``aiosmtpd.smtp.SMTP``.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, ssl_context: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        self.host = host
        self.port = port
        self.mails: list[ReceivedMail] = []
        self._ssl_context = ssl_context
        self._options = {
            "enable_SMTPUTF8": True,
            "auth_require_tls": False,
            "authenticator": _welcome,
            "ident": "inbox",
            "hostname": "localhost",
            "data_size_limit": None,
            **options,
        }

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="inbox", daemon=True)
        self._thread.start()
        try:
            self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except OSError:
            self._end()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep a mail; aiosmtpd calls it after the final dot."""
        content = envelope.original_content
        assert isinstance(content, bytes)
        self.mails.append(
            ReceivedMail(
                sender=str(envelope.mail_from),
                recipients=tuple(map(str, envelope.rcpt_tos)),
                content=content,
                user=session.auth_data,
                tls=session.ssl is not None or self._ssl_context is not None,
            )
        )
        return f"250 2.0.0 OK: mail {len(self.mails)}"

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(
            lambda: SMTP(self, loop=self._loop, **self._options), self.host, self.port, ssl=self._ssl_context
        )

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _welcome(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    """Let everybody in."""
    return AuthResult(success=True, auth_data=data.login.decode("utf-8", "replace"))

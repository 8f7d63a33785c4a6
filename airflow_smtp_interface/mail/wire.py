"""Octets to and from the server: replies within a deadline, dot-stuffed content."""

from __future__ import annotations

import re
import select
import smtplib
import ssl
from time import monotonic
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.delivery import Cause, Reply

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator


_MAX_LINE = 8192  # RFC 5321 4.5.3.1.5 allows 512; some servers say more
_MAX_LINES = 1000
_MAX_REPLY_TEXT = 1000
_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
NO_SECRET = re.compile(rb"(?!)")
HIDDEN = b"***"


class Broken(smtplib.SMTPServerDisconnected):
    """The connection can no longer be used.

    :param cause: what happened to it.
    :param text: the socket's words, or what the server sent.
    :param reply: what the server said before it hung up.
    """

    def __init__(self, cause: Cause, text: str, reply: Reply | None = None) -> None:
        super().__init__(f"{cause}: {text}")
        self.cause = cause
        self.text = text
        self.reply = reply


class ReplyReader:
    """Reads replies from a connected socket; what comes behind one is kept for the next.

    :param secret: what no error shows, should the server repeat it.
    """

    def __init__(self, sock: socket.socket, *, secret: re.Pattern[bytes] = NO_SECRET) -> None:
        self._sock = sock
        self._secret = secret
        self._unread = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def reply(self, seconds: float) -> tuple[int, bytes]:
        """Read one reply of any number of lines (RFC 5321 section 4.2.1).

        :param seconds: until its last byte must be here; a dripping server cannot stretch it.
        :return: the code and the text, its lines joined by LF as smtplib does.
        :raises Broken: if the time is over, the connection ends, or it is no reply.
        """
        deadline = monotonic() + seconds
        code = b""
        texts: list[bytes] = []
        while len(texts) < _MAX_LINES:
            line = self._line(deadline, seconds)
            match = _REPLY_LINE.fullmatch(line)
            if not match or match[1] != (code or match[1]):
                raise Broken(Cause.ODD_REPLY, self._shown(line))
            code = match[1]
            texts.append((match[3] or b"").strip())
            if match[2] != b"-":
                return int(code), b"\n".join(texts)
        raise Broken(Cause.ODD_REPLY, f"a reply of more than {_MAX_LINES} lines")

    @property
    def unread(self) -> bytes:
        """What has come and was not asked for yet."""
        return bytes(self._unread)

    def has_spoken(self) -> bool:
        """Whether the server has said something unasked, or has hung up. Never waits."""
        if not self._unread:
            if not (self._poll.poll(0) or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending())):
                return False  # a tenth of the time that asking by recv() takes
            try:
                self._receive(0)
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            except (OSError, EOFError):
                return True
        return True

    def _line(self, deadline: float, seconds: float) -> bytes:
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > _MAX_LINE:
                raise Broken(Cause.ODD_REPLY, f"a line of more than {_MAX_LINE} octets: {self._shown(self._unread)}")
            left = deadline - monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._receive(left)
            except TimeoutError:
                raise Broken(Cause.TIMED_OUT, f"no whole reply within {round(seconds, 2):g} s") from None
            except EOFError:
                said = f" after {self._shown(self._unread)}" if self._unread else ""
                raise Broken(Cause.LOST, f"the server closed the connection{said}") from None
            except OSError as error:
                raise Broken(Cause.LOST, str(error)) from error
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line.removesuffix(b"\r")

    def _receive(self, seconds: float) -> None:
        self._sock.settimeout(seconds)
        octets = self._sock.recv(65536)
        if not octets:
            raise EOFError
        self._unread += octets

    def _shown(self, octets: bytes | bytearray) -> str:
        return repr(self._secret.sub(HIDDEN, bytes(octets))[:200])[1:]


def reply_of(code: int, text: bytes) -> Reply:
    """Return a reply as it is shown: one line, control characters escaped."""
    return Reply(code, printable(text))


def printable(text: bytes) -> str:
    """Return a server's words in one line, control characters escaped, cut where they are very long."""
    words = text.decode("utf-8", "backslashreplace").replace("\n", " ")
    if words.isprintable():
        return words[:_MAX_REPLY_TEXT]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return shown[:_MAX_REPLY_TEXT]


def dot_stuffed(content: Iterable[bytes]) -> Iterator[bytes]:
    """Double the dot at the start of a line (RFC 5321 section 4.5.2), wherever the chunks are cut.

    :param content: header and body in any pieces, lines ended by CRLF.
    :return: the same in other pieces, its last line ended by CRLF; the final dot is not among them.
    """
    at_start, last = True, b""
    for chunk in content:
        if not chunk:
            continue
        if at_start and chunk.startswith(b"."):
            yield b"."
        yield chunk.replace(b"\n.", b"\n..") if b"\n." in chunk else chunk
        at_start, last = chunk.endswith(b"\n"), chunk[-1:]
    if last != b"\n":
        yield b"\r\n"

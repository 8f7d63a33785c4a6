"""One conversation with the mail server: connect, TLS, login, health. ``smtplib.SMTP`` is underneath."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.causes import Problem, cause_of
from airflow_smtp_interface.mail.errors import (
    Cause,
    DeliveryError,
    Stage,
    TransientDeliveryError,
    delivery_error,
)
from airflow_smtp_interface.mail.login import log_in, secret_of
from airflow_smtp_interface.mail.settings import Pipelining, Security
from airflow_smtp_interface.mail.tls import Trust, start_tls, tls_context
from airflow_smtp_interface.mail.wire import HIDDEN, Broken, ReplyReader, reply_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_smtp_interface.mail.delivery import Reply
    from airflow_smtp_interface.mail.settings import SmtpSettings

_IDLE_BEFORE_PROBE = 10.0  # seconds; firewalls forget idle connections without a word
_PROBE_SECONDS = 1.0  # for a TLS server's answer, where the greeting does not come
_QUIT_SECONDS = 0.4  # to send it, should the server have stopped reading
_WRITE_OCTETS = 131_072
_SIZE_LIMIT = re.compile(r"0*[1-9][0-9]{0,19}")  # RFC 1870 section 4: up to 20 digits, and 0 means no fixed limit
# Servers that offered PIPELINING and gave a reply that did not fit; a later session must not find out anew.
DISTRUSTED: set[tuple[str, int]] = set()


class SmtpSession(smtplib.SMTP):
    """An ``smtplib.SMTP`` that is connected, encrypted and logged in as its settings say. :func:`connect` makes one.

    Every reply has to be complete within the settings' ``timeout``.

    :param settings: where to connect to, and how.
    :param deadline: the moment, by ``time.monotonic()``, after which nothing is waited for; None means no such moment.
    :param trust: whom to trust; by default whom the settings say.
    """

    def __init__(self, settings: SmtpSettings, *, deadline: float | None = None, trust: Trust | None = None) -> None:
        # A local_hostname, even an empty one, keeps smtplib from looking up this machine's own name.
        super().__init__(local_hostname=settings.local_hostname or "", timeout=settings.timeout)
        self.settings = settings
        self.speaks_smtp = False  # whether the server has ever answered EHLO or HELO as one does
        self.mechanism: str | None = None
        self.mails = 0  # begun over this session; kept by whoever sends many
        self._deadline = deadline
        self._trust = trust or Trust(ca_certificate=settings.ca_certificate, verify=settings.verify_certificate)
        self._secret = secret_of(settings)
        self._reader: ReplyReader | None = None
        self._last_used = monotonic()

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is in force."""
        return isinstance(self.sock, ssl.SSLSocket)

    @property
    def pipelines(self) -> bool:
        """Whether commands may share a write: offered by the present EHLO, not switched off, not found wanting."""
        wanted = self.settings.pipelining is Pipelining.AUTO and self.has_extn("pipelining")
        return wanted and (self.settings.host, self.settings.port) not in DISTRUSTED

    @property
    def size_limit(self) -> int | None:
        """The octets that a mail may have; None where the server fixes no limit (RFC 1870 section 4)."""
        limit = self.esmtp_features.get("size", "")
        return int(limit) if _SIZE_LIMIT.fullmatch(limit) else None

    def distrust_pipelining(self) -> None:
        """Speak to this server one command at a time from now on, in this process."""
        if self.pipelines:
            DISTRUSTED.add((self.settings.host, self.settings.port))

    def open(self) -> None:
        """Connect, start TLS and log in; once, without trying again.

        :raises DeliveryError: naming the stage, the cause and the remedy. The connection is closed then.
        """
        if self.settings.security is not Security.NONE:
            self._trust.begin()
        try:
            with self._stage(Stage.CONNECT):
                self._greet()
            if self.settings.security is not Security.NONE and not self.is_encrypted:
                with self._stage(Stage.TLS):
                    self.starttls()
                with self._stage(Stage.CONNECT):
                    self._say_hello()
            if self.settings.user:
                with self._stage(Stage.AUTH):
                    self.mechanism = log_in(self)
        except BaseException:
            self.close()
            raise

    def is_usable(self) -> bool:
        """Whether the connection still stands: the server has not hung up, and answers after a long pause."""
        if self.sock is None or self._reader is None or self._reader.has_spoken():
            return False
        if monotonic() - self._last_used > _IDLE_BEFORE_PROBE:
            try:
                return self.noop()[0] == 250
            except Broken:
                return False
        return True

    def leave(self) -> None:
        """Say QUIT and close. Its reply is not waited for: whatever it were, it would change nothing."""
        with suppress(OSError):
            if self.sock:
                self.sock.settimeout(_QUIT_SECONDS)
                self.sock.sendall(b"QUIT\r\n")
        self.close()

    def __exit__(self, *_: object) -> None:
        self.leave()

    def read_reply(self, seconds: float | None = None) -> Reply:
        """Read one reply.

        :param seconds: until it must be complete; the settings' ``timeout`` by default.
        :raises Broken: if it does not come or is none. The connection is closed then.
        """
        return reply_of(*self._read(self.settings.timeout if seconds is None else seconds))

    def ask(self, command: str, *, stage: Stage) -> Reply:
        """Send one command and read the reply to it.

        :param command: without its CRLF.
        :param stage: for the error.
        :raises DeliveryError: if the connection is lost.
        """
        with self._stage(stage):
            return self.hidden(*self.docmd(command))

    def hidden(self, code: int, text: bytes) -> Reply:
        """Return a reply as smtplib gives it, without the password, which some servers repeat."""
        return reply_of(code, self._secret.sub(HIDDEN, text))

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply as smtplib does, but within ``timeout`` from its first byte to its last."""
        return self._read(self.settings.timeout)

    def send(self, s: str | bytes) -> None:  # type: ignore[override]
        """Send octets, each piece of 128 KiB within ``timeout``.

        :raises Broken: if the connection does not take them. It is closed then.
        """
        octets = memoryview(s.encode() if isinstance(s, str) else s)
        for start in range(0, len(octets), _WRITE_OCTETS):
            self._write(octets[start : start + _WRITE_OCTETS])

    def has_spoken(self) -> bool:
        """Whether the server has said something unasked, or has hung up."""
        return self._reader is None or self._reader.has_spoken()

    def starttls(self, *, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:  # type: ignore[override]
        """Turn the connection into a TLS one (RFC 3207) and forget what was said in clear.

        :param context: by default the one that the settings ask for.
        :raises smtplib.SMTPException: if the server does not offer it, refuses it, or speaks on in clear.
        """
        if not self.has_extn("starttls"):
            raise Problem(Cause.TLS_NOT_OFFERED)
        code, text = self.docmd("STARTTLS")
        if code != 220:
            raise Problem(Cause.REPLY, reply_of(code, text))
        if self.has_spoken() and self._reader and self._reader.unread:
            raise Problem(Cause.TLS_INJECTED)
        try:
            self._secure(context or self._trust.context())
        except ssl.SSLError as error:
            if cause_of(error, Stage.TLS)[0] is Cause.TLS_TO_PLAIN_PORT:
                raise Problem(Cause.TLS_INJECTED, detail=str(error)) from error
            raise
        self.helo_resp = self.ehlo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False
        return code, text

    def close(self) -> None:
        """Close the connection, without QUIT."""
        self._reader = None
        super().close()

    def _write(self, octets: memoryview) -> None:
        if self.sock is None:
            raise Broken(Cause.LOST, "the connection is closed")
        seconds = self._left(self.settings.timeout)
        try:
            self.sock.settimeout(seconds)
            self.sock.sendall(octets)
        except TimeoutError:
            self.close()
            raise Broken(Cause.TIMED_OUT, "the server stopped reading") from None
        except OSError as error:
            last_words = self._last_words()
            self.close()
            raise Broken(Cause.LOST, str(error), last_words) from error

    def _last_words(self) -> Reply | None:
        """Read what the server said before it hung up: it may name the cause."""
        try:
            return self.hidden(*self._reader.reply(0.1)) if self._reader else None
        except Broken:
            return None

    def _read(self, seconds: float) -> tuple[int, bytes]:
        if self._reader is None:
            if self.sock is None:
                raise Broken(Cause.LOST, "the connection is closed")
            self._reader = ReplyReader(self.sock, secret=self._secret)  # smtplib's own connect() has opened it
        try:
            reply = self._reader.reply(self._left(seconds))
        except Broken:
            self.close()
            raise
        self._last_used = monotonic()
        return reply

    def _left(self, seconds: float) -> float:
        """Return how long to wait: as long as is given, but not beyond the deadline.

        :raises Broken: if the deadline is over. The connection is closed then.
        """
        if self._deadline is None:
            return seconds
        left = self._deadline - monotonic()
        if left <= 0:
            self.close()
            raise Broken(Cause.TIMED_OUT, "no time is left")
        return min(seconds, left)

    def _greet(self) -> None:
        settings = self.settings
        self.sock = socket.create_connection((settings.host, settings.port), self._left(settings.timeout))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = ReplyReader(self.sock, secret=self._secret)
        if settings.tls_from_start:
            with self._stage(Stage.TLS):
                self._secure(self._trust.context())
        greeting = self._greeting()
        if greeting.code != 220:
            raise Problem(Cause.REPLY if greeting.is_negative else Cause.ODD_REPLY, greeting)
        if not settings.local_hostname:
            self.local_hostname = _own_literal(self.sock)
        self._say_hello()

    def _greeting(self) -> Reply:
        """Read the greeting. A server that stays silent may be one that waits for TLS: find out."""
        if self.is_encrypted:
            return self.read_reply()
        seconds = self._left(self.settings.timeout)
        probe = min(_PROBE_SECONDS, seconds / 4)
        assert self._reader is not None
        try:
            return reply_of(*self._reader.reply(seconds - probe))
        except Broken as broken:
            if broken.cause is Cause.TIMED_OUT and not self._reader.has_spoken() and self._answers_tls(probe):
                raise Problem(Cause.PLAIN_TO_TLS_PORT) from None
            raise

    def _answers_tls(self, seconds: float) -> bool:
        sock, self.sock = self.sock, None
        assert sock is not None
        try:
            context = tls_context(ca_certificate=None, verify=False, check_name=False)
            start_tls(sock, context, host=self.settings.host, seconds=seconds).close()
        except OSError:
            return False
        return True

    def _say_hello(self) -> None:
        code, text = self.ehlo()
        if 500 <= code < 600:  # RFC 5321 3.2: older servers know HELO only
            code, text = self.helo()
        if code != 250:
            raise Problem(Cause.REPLY, reply_of(code, text))
        self.speaks_smtp = True

    def _secure(self, context: ssl.SSLContext) -> None:
        assert self.sock is not None
        seconds = self._left(self.settings.timeout)
        sock, self.sock = self.sock, None  # start_tls owns it until the handshake is done
        self.sock = start_tls(sock, context, host=self.settings.host, seconds=seconds)
        self._reader = ReplyReader(self.sock, secret=self._secret)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[None]:
        """Name what went wrong in here."""
        try:
            yield
        except DeliveryError:
            raise  # an inner stage has named it
        except Problem as problem:
            raise self._error(stage, problem.cause, problem.detail, problem.reply) from None
        except (OSError, UnicodeError) as error:  # smtplib's errors are OSErrors
            cause, detail = cause_of(error, stage)
            raise self._error(stage, cause, detail, getattr(error, "reply", None)) from error

    def _error(self, stage: Stage, cause: Cause, detail: str, reply: Reply | None = None) -> DeliveryError:
        return delivery_error(stage=stage, cause=cause, where=self.settings.where, detail=detail, reply=reply)


def connect(settings: SmtpSettings) -> SmtpSession:
    """Connect to the settings' server, start TLS and log in, up to ``connect_attempts`` times with growing pauses.

    :raises DeliveryError: a permanent error at once; otherwise the first transient one, which is nearest to the cause.
    """
    import tenacity  # comes with Airflow; needed here only

    session = SmtpSession(settings)
    first: list[TransientDeliveryError] = []

    def attempt() -> None:
        try:
            session.open()
        except TransientDeliveryError as error:
            first.append(error)
            raise

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(settings.connect_attempts),
        wait=tenacity.wait_exponential(multiplier=0.25, max=10) + tenacity.wait_random(0, 0.25),
        retry=tenacity.retry_if_exception_type(TransientDeliveryError),
        reraise=True,
    )
    try:
        retrying(attempt)
    except TransientDeliveryError:
        if len(first) > 1:
            first[0].add_note(f"tried {len(first)} times; this is the first failure")
        raise first[0] from first[0].__cause__
    return session


def _own_literal(sock: socket.socket) -> str:
    address = sock.getsockname()[0].partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

"""Test Connection: the whole way to the mail server, as far as RCPT, without sending a mail."""

from __future__ import annotations

import re
import socket
import ssl
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from threading import Thread
from time import monotonic, time
from typing import TYPE_CHECKING, NamedTuple

from airflow_smtp_interface.mail.addresses import addr_spec
from airflow_smtp_interface.mail.causes import cause_of
from airflow_smtp_interface.mail.commands import mail_from
from airflow_smtp_interface.mail.delivery import Reply
from airflow_smtp_interface.mail.errors import Cause, DeliveryError, MailError, Stage, delivery_error, remedy
from airflow_smtp_interface.mail.session import SmtpSession
from airflow_smtp_interface.mail.tls import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from airflow_smtp_interface.mail.settings import SmtpSettings

_SECONDS = 10.0  # somebody is waiting in front of the button
_SPARE = 0.5  # of them, for saying QUIT and what was found
_INSTANT = 0.05
_OUT_OF_TIME = f"This test waits for {_SECONDS:g} s in all"
_SHOWN_RECIPIENTS = 20
_SHOWN_NAMES = 5
_SHOWN_LETTERS = 200  # of each reply to RCPT and of each name in a certificate
# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH; Python has no names for them.
_WRONG_HOST = (62, 64)
_QUOTING = frozenset({Cause.REPLY, Cause.ODD_REPLY, Cause.LOST})  # they show what came over the connection
_NOT_QUOTED = (
    "What it may have said is not shown, because it has not answered EHLO as a mail server does; the error of a task "
    "shows it. Check Host and Port."
)


class Finding(NamedTuple):
    """What was found on the way to a mail server.

    :param works: whether it takes mail from the interface's From for the interface's To, as far as these are set.
    :param text: one paragraph for a human, without the password; of a server that is not SMTP, without its words.
    :param sender_accepted: whether MAIL FROM succeeded.
    """

    works: bool
    text: str
    sender_accepted: bool = False


def check(settings: SmtpSettings) -> Finding:
    """Connect, start TLS, log in, and offer a mail from the interface's From to its To, which is then not sent.

    It takes 10 s at most, whatever the settings' ``timeout`` says. Nothing is tried a second time.
    """
    walk = _Walk(settings, deadline=monotonic() + _SECONDS - _SPARE)
    try:
        settings.check_active()
        return _within(_SECONDS, walk.finding)
    except TimeoutError:
        return Finding(False, str(walk.out_of_time()))
    except MailError as error:
        return Finding(False, str(error))


def _within(seconds: float, work: Callable[[], Finding]) -> Finding:
    """Do a work in a thread, because no look-up of a name can be bounded; give up waiting for it when time is over."""
    future: Future[Finding] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 the waiting thread raises it
            future.set_exception(error)

    Thread(target=run, name="smtp-interface-check", daemon=True).start()
    return future.result(seconds)


class _Walk:
    """One walk to the server, and what was found on it so far."""

    def __init__(self, settings: SmtpSettings, *, deadline: float) -> None:
        self._settings = settings
        self._deadline = deadline
        self._session = SmtpSession(settings, deadline=deadline)
        self._found: list[str] = []
        self._has_address = False
        self._sender_accepted = False

    def finding(self) -> Finding:
        """Go as far as it goes."""
        try:
            self._look_up()
            self._session.open()
            self._found += self._opened()
            works = self._offer()
        except MailError as error:
            text = self._explained(error) if isinstance(error, DeliveryError) else f"{error}."
            before = " ".join(["Before that:", *self._found]) if self._found else ""
            return Finding(False, f"{text} {before}".rstrip(), self._sender_accepted)
        finally:
            self._session.leave()
        return Finding(works, " ".join(self._found), self._sender_accepted)

    def out_of_time(self) -> DeliveryError:
        """Name what cannot be bounded: looking up the name, and trying one address of the host after the other."""
        cause = Cause.TIMED_OUT if self._has_address else Cause.NAME_SERVER_DOWN
        return self._error(Stage.CONNECT, cause, detail=f"within {_SECONDS:g} s")

    def _look_up(self) -> None:
        """Look the name up before the session does, to know a slow name server from a slow mail server."""
        try:
            socket.getaddrinfo(self._settings.host, self._settings.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise self._error(Stage.CONNECT, *cause_of(error, Stage.CONNECT)) from error
        self._has_address = True

    def _opened(self) -> list[str]:
        session, settings = self._session, self._settings
        limit = session.size_limit
        return [
            f"{settings.address} answers.",
            _encryption(session.sock),
            f"Logged in as {settings.shown_user} by {session.mechanism}."
            if settings.user
            else "No login, because no User is set.",
            f"Takes mails of up to {limit} octets." if limit else "Announces no limit of size.",
        ]

    def _offer(self) -> bool:
        """Name sender and recipients to the server, and take them back."""
        settings = self._settings
        if not settings.sender:
            self._found.append("No From is set: each mail has to bring its own sender, so no address was tried.")
            return True
        sender = addr_spec(settings.sender)
        recipients = list(dict.fromkeys(map(addr_spec, settings.redirect_to or settings.recipients)))
        self._require_utf8(sender)
        utf8 = not all(each.isascii() for each in (sender, *recipients))
        reply = self._ask(Stage.SENDER, mail_from(sender, utf8=utf8, offers=self._session.has_extn))
        if not reply.is_positive:
            raise self._error(Stage.SENDER, Cause.REPLY, detail=sender, reply=reply)
        self._sender_accepted = True
        self._found.append(f"Sender {sender} accepted.")
        if not settings.recipients:
            self._found.append("No default To is set: each mail has to bring its own recipients.")
        if settings.redirect_to:
            self._found.append(f"All mail is redirected to {', '.join(recipients[:_SHOWN_RECIPIENTS])}.")
        settings.check_allowed(recipients)
        self._require_utf8(*recipients)
        works = self._offer_to(recipients)
        with suppress(DeliveryError):
            self._ask(Stage.RECIPIENT, "RSET")
        return works

    def _offer_to(self, recipients: list[str]) -> bool:
        replies: dict[str, Reply] = {}
        for recipient in recipients:
            try:
                replies[recipient] = self._ask(Stage.RECIPIENT, f"RCPT TO:<{recipient}>")
            except DeliveryError as error:
                if not self._is_out_of_time(error):
                    raise
                break
        if recipients:
            self._found.append(_verdicts(replies, unanswered=len(recipients) - len(replies)))
        failed = sorted((each for each in replies.values() if not each.is_positive), reverse=True)  # 5yz before 4yz
        if failed:
            self._found.append(remedy(stage=Stage.RECIPIENT, reply=failed[0]))
        return not failed and bool(replies or not recipients)

    def _is_out_of_time(self, error: DeliveryError) -> bool:
        """Whether it was this test that gave up, and not the settings' ``timeout``."""
        return error.cause is Cause.TIMED_OUT and monotonic() > self._deadline - _INSTANT

    def _require_utf8(self, *addresses: str) -> None:
        named = ", ".join(each for each in addresses if not each.isascii())
        if named and not self._session.has_extn("smtputf8"):
            raise self._error(Stage.SENDER, Cause.NO_SMTPUTF8, detail=named)

    def _ask(self, stage: Stage, command: str) -> Reply:
        reply = self._session.ask(command, stage=stage)
        if reply.code == 421:  # RFC 5321 section 3.8: the server hangs up
            raise self._error(stage, Cause.LOST, reply=reply)
        if not (reply.is_positive or reply.is_negative):
            raise self._error(stage, Cause.ODD_REPLY, reply=reply)
        return reply

    def _explained(self, error: DeliveryError) -> str:
        """Say what failed, with the names in a certificate of another host, without the words of another service."""
        if error.cause in _QUOTING and not self._session.speaks_smtp:
            reply = Reply(error.reply.code, "") if error.reply else None
            return f"{self._error(error.stage, error.cause, reply=reply)} {_NOT_QUOTED}"
        failed = error.__cause__
        if isinstance(failed, ssl.SSLCertVerificationError) and failed.verify_code in _WRONG_HOST:
            detail = "; ".join(filter(None, (cause_of(failed, error.stage)[1], self._other_host())))
            return str(self._error(error.stage, error.cause, detail=detail))
        return f"{error} {_OUT_OF_TIME}." if self._is_out_of_time(error) else str(error)

    def _other_host(self) -> str:
        """Return the names in a mail server's certificate, over a connection of its own: a failed one has none."""
        settings = replace(self._settings, user=None, password=None)
        trust = Trust(ca_certificate=settings.ca_certificate, verify=True, check_name=False)
        with SmtpSession(settings, deadline=self._deadline, trust=trust) as session:
            try:
                session.open()
            except DeliveryError as error:
                return "there was no time to read the names in it" if self._is_out_of_time(error) else ""
            assert isinstance(session.sock, ssl.SSLSocket)
            return _names(session.sock.getpeercert() or {})

    def _error(self, stage: Stage, cause: Cause, detail: str = "", *, reply: Reply | None = None) -> DeliveryError:
        return delivery_error(stage=stage, cause=cause, where=self._settings.where, detail=detail, reply=reply)


def _encryption(sock: socket.socket | None) -> str:
    if not isinstance(sock, ssl.SSLSocket):
        return "Not encrypted: anybody on the way can read the mail."
    ends = (sock.getpeercert() or {}).get("notAfter")  # empty if it was not verified
    if not isinstance(ends, str):
        return f"Encrypted with {sock.version()}; the certificate is not verified."
    days = int((ssl.cert_time_to_seconds(ends) - time()) / 86400)
    return f"Encrypted with {sock.version()}; the certificate ends in {days} {'day' if days == 1 else 'days'}."


def _names(certificate: Mapping[str, Any]) -> str:
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    shown = ", ".join(re.sub(r"[^ -~]", "?", name[:_SHOWN_LETTERS]) for name in names[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"the certificate is for {shown}{more}" if names else "the certificate names no host"


def _verdicts(replies: Mapping[str, Reply], *, unanswered: int) -> str:
    """Say who is accepted and who is not, the latter first."""
    told = sorted(replies.items(), key=lambda each: each[1].is_positive)
    shown = [
        f"{recipient} {_verdict(reply)}" + ("" if reply.is_positive else f" ({str(reply)[:_SHOWN_LETTERS]})")
        for recipient, reply in told[:_SHOWN_RECIPIENTS]
    ]
    rest = Counter(_verdict(reply) for _, reply in told[_SHOWN_RECIPIENTS:])
    shown += [f"{count} more {verdict}" for verdict, count in rest.items()]
    shown += [f"{unanswered} without an answer. {_OUT_OF_TIME}"] if unanswered else []
    return f"Recipients: {'; '.join(shown)}."


def _verdict(reply: Reply) -> str:
    return "accepted" if reply.is_positive else "deferred" if reply.is_transient else "refused"

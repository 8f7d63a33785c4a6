"""The login (RFC 4954): its mechanisms, what each answers to the server's challenges, and what is never shown."""

from __future__ import annotations

import hmac
import ipaddress
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.causes import Problem
from airflow_smtp_interface.mail.delivery import Cause, Reply
from airflow_smtp_interface.mail.wire import NO_SECRET, printable

if TYPE_CHECKING:
    import socket

    from airflow_smtp_interface.mail.session import SmtpSession
    from airflow_smtp_interface.mail.settings import SmtpSettings

_TELLING = 8  # characters of base64: six octets of a password

Answer = Callable[[bytes], str]
"""From the server's challenge to the client's response, neither of them in base64."""


def b64(text: str) -> str:
    """Return UTF-8 text as SASL carries it; user names and passwords may be of any script (RFC 4616)."""
    return b64encode(text.encode()).decode()


def _plain(user: str, password: str) -> list[Answer]:
    return [lambda _: f"\0{user}\0{password}"]  # RFC 4616


def _login(user: str, password: str) -> list[Answer]:
    return [lambda _: user, lambda _: password]


def _cram_md5(user: str, password: str) -> list[Answer]:
    return [lambda challenge: f"{user} {hmac.new(password.encode(), challenge, 'md5').hexdigest()}"]  # RFC 2195


# In the order of preference over TLS: PLAIN needs the fewest round trips. In clear it is the other way round.
MECHANISMS: dict[str, Callable[[str, str], list[Answer]]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "CRAM-MD5": _cram_md5,
}


def log_in(session: SmtpSession) -> str:
    """Log in as the settings say.

    :return: the mechanism.
    :raises Problem: if the server refuses, or the link is not encrypted and may not carry a password.
    """
    settings = session.settings
    user, password = settings.user or "", settings.password or ""
    if not (session.is_encrypted or settings.cleartext_login or _is_loopback(session.sock)):
        raise Problem(Cause.CLEARTEXT_LOGIN)
    if not session.has_extn("auth"):
        raise Problem(Cause.AUTH_NOT_OFFERED)
    offered = session.esmtp_features["auth"].upper().split()
    preferred = MECHANISMS if session.is_encrypted else reversed(MECHANISMS)
    mechanism = next((mechanism for mechanism in preferred if mechanism in offered), None)
    if mechanism is None:
        raise Problem(Cause.AUTH_MECHANISM, detail=f"it offers {printable(' '.join(offered).encode())}")
    reply = _exchange(session, mechanism, MECHANISMS[mechanism](user, password))
    if reply.code != 235:
        cause = Cause.REPLY if reply.is_negative else Cause.ODD_REPLY
        raise Problem(cause, reply, detail=f"User {settings.shown_user}")
    return mechanism


def _exchange(session: SmtpSession, mechanism: str, answers: list[Answer]) -> Reply:
    """Run one SASL exchange (RFC 4954); the first answer of PLAIN goes along with the command."""
    if mechanism == "PLAIN":
        code, text = session.docmd("AUTH", f"PLAIN {b64(answers.pop()(b''))}")
    else:
        code, text = session.docmd("AUTH", mechanism)
    for answer in answers:
        if code != 334:
            break
        try:
            challenge = b64decode(text)
        except ValueError:
            challenge = b""  # LOGIN's prompts are for humans, and some servers send them as they are
        code, text = session.docmd(b64(answer(challenge)))
    return session.hidden(code, text)


def secret_of(settings: SmtpSettings) -> re.Pattern[bytes]:
    """Return a pattern for the password and for what carries it to the server, also where that is cut or wrapped."""
    if not settings.password:
        return NO_SECRET
    user, password = settings.user or "", settings.password
    plain, alone = b64(f"\0{user}\0{password}"), b64(password).rstrip("=")
    # Every four characters carry three octets: so many are the same whatever the password is.
    known = plain[: len(f"\0{user}\0".encode()) // 3 * 4]
    beginnings = [known, alone[:_TELLING]]
    patterns = [f"{re.escape(each)}[A-Za-z0-9+/=]*(?:\n[A-Za-z0-9+/=]+)?" for each in beginnings]
    return re.compile("|".join([*patterns, re.escape(password)]).encode(), re.IGNORECASE)


def _is_loopback(sock: socket.socket | None) -> bool:
    return sock is not None and ipaddress.ip_address(sock.getpeername()[0].partition("%")[0]).is_loopback

"""The login mechanisms: what each answers to the server's challenges (RFC 4954)."""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Callable

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

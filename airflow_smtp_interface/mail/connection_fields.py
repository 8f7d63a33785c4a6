"""The fields of an Airflow connection -> SmtpSettings, with every problem reported at once."""

from __future__ import annotations

import difflib
import json
import re
import ssl
import textwrap
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.addresses import addr_spec, ascii_domain, parse_address, parse_addresses
from airflow_smtp_interface.mail.errors import InvalidSettings
from airflow_smtp_interface.mail.settings import ConnectionLike, Pipelining, Security, SmtpSettings
from airflow_smtp_interface.mail.tls import tls_context
from airflow_smtp_interface.mail.values import parse_bool, parse_count, parse_seconds, rendered_collection

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.headerregistry import Address
    from enum import StrEnum

_PORTS = {Security.AUTO: 587, Security.STARTTLS: 587, Security.TLS: 465, Security.NONE: 25}
_UNSENDABLE_SECRET = re.compile(r"[\0\r\n\ud800-\udfff]")
# The form of Airflow 3.1 has one line for a certificate, in which a pasted one loses its line breaks.
_PEM_IN_ONE_LINE = re.compile(r"(-----BEGIN [A-Z0-9 ]+-----) *([A-Za-z0-9+/= ]+?) *(-----END [A-Z0-9 ]+-----) *")
_SCOPE = re.compile(r"%[A-Za-z0-9_.\-]+$")


def read_connection(connection: ConnectionLike) -> SmtpSettings:
    """Read a connection.

    :raises InvalidSettings: listing every problem.
    """
    return _Reader(connection).settings()


class _Reader:
    """Reads one connection and collects what is wrong with it."""

    def __init__(self, connection: ConnectionLike) -> None:
        self._connection = connection
        self._problems: list[str] = []

    def settings(self) -> SmtpSettings:
        values = self._extras()
        values["host"] = self._host(needed=bool(values.get("active", True)))
        values["port"] = self._port(Security(str(values.get("security", Security.AUTO))))
        values["user"], values["password"] = self._login()
        values.setdefault("sender", _address_or_none(values["user"]))
        if self._connection.schema:
            self._problems.append(f"Schema: {self._connection.schema!r} is not used; clear it (the path of a URI)")
        if self._problems:
            problems = "".join(f"\n- {problem}" for problem in self._problems)
            raise InvalidSettings(f"connection {self._connection.conn_id!r} cannot be used:{problems}")
        return SmtpSettings(name=self._connection.conn_id or "", **values)  # type: ignore[arg-type]

    def _extras(self) -> dict[str, object]:
        values: dict[str, object] = {}
        for key, value in self._raw_extras().items():
            if key not in _EXTRAS:
                near = difflib.get_close_matches(key, _EXTRAS, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(_EXTRAS)}"
                self._problems.append(f"{key}: there is no such field; {hint}")
            elif value not in (None, "", []):
                attribute, parse = _EXTRAS[key]
                try:
                    values[attribute] = parse(value)
                except ValueError as error:
                    self._problems.append(f"{key}: {str(error).removeprefix(f'{key}: ')}")
        return values

    def _raw_extras(self) -> dict[str, object]:
        try:
            extras = json.loads(self._connection.extra or "{}")
        except ValueError as error:
            self._problems.append(f"Extra: is not JSON ({error})")
            return {}
        if not isinstance(extras, dict):
            self._problems.append('Extra: is no JSON object; write {"to": "alice@example.org"}')
            return {}
        return extras

    def _host(self, *, needed: bool) -> str:
        host = self._connection.host or ""
        try:
            if host:
                return _parse_host(host)
            if needed:
                raise ValueError("is empty; write the mail server's name")
        except ValueError as error:
            self._problems.append(f"Host: {error}")
        return host

    def _port(self, security: Security) -> int:
        port = self._connection.port
        if port is None:
            return _PORTS[security]
        if not 1 <= port <= 65535:
            self._problems.append(f"Port: {port} is not between 1 and 65535; 587, 465 and 25 are usual")
        return port

    def _login(self) -> tuple[str | None, str | None]:
        user, password = self._connection.login or None, self._connection.password or None
        if user and not password:
            self._problems.append("Password: is empty, but User is set; fill in Password, or clear User")
        if password and not user:
            self._problems.append("User: is empty, but Password is set; fill in User, or clear Password")
        for label, secret in (("User", user), ("Password", password)):
            if secret and _UNSENDABLE_SECRET.search(secret):
                self._problems.append(
                    f"{label}: holds a line break, NUL or lone surrogate; remove it. A secret read from a file may end "
                    "with a line break"
                )
        return user, password


def _parse_host(host: str) -> str:
    if "://" in host:
        raise ValueError(f"{host!r} is a URL; write the mail server's name alone")
    bare = host.removeprefix("[").removesuffix("]")
    if bare.count(":") > 1:
        ascii_domain(f"[IPv6:{_SCOPE.sub('', bare)}]")
        return bare
    if ":" in host:
        raise ValueError(f"{host!r} holds a port; write it into Port")
    try:
        return ascii_domain(host.removesuffix("."))
    except ValueError:
        raise ValueError(f"{host!r} is not a host name; write one such as smtp.example.com") from None


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is {type(value).__name__}, not text")
    return value


def _parse_certificate(value: object) -> str:
    text = _PEM_IN_ONE_LINE.sub(
        lambda match: f"{match[1]}\n{textwrap.fill(match[2].replace(' ', ''), 64)}\n{match[3]}\n", _parse_text(value)
    )
    try:
        tls_context(ca_certificate=text, verify=True, check_name=True)
    except (ssl.SSLError, TypeError):  # TypeError: not even ASCII
        raise ValueError("holds no PEM certificate; paste it with its BEGIN and END lines") from None
    return text


def _parse_ehlo_name(value: object) -> str:
    return ascii_domain(_parse_text(value))


def _parse_choice(choices: type[StrEnum]) -> Callable[[object], StrEnum]:
    def parse(value: object) -> StrEnum:
        try:
            return choices(str(value).strip().lower())
        except ValueError:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}") from None

    return parse


def _parse_addresses_of(field: str) -> Callable[[object], tuple[Address, ...]]:
    return lambda value: parse_addresses(value, field=field)  # type: ignore[arg-type]


def _parse_sender(value: object) -> Address:
    return parse_address(value, field="from")  # type: ignore[arg-type]


def _parse_allowed(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = rendered_collection(value) or [each for each in re.split(r"[,;\s]+", value) if each]
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is {type(value).__name__}; write addresses and @domains")
    if not value:
        raise ValueError("holds no address; write addresses and @domains, or clear it to allow everybody")
    return tuple(_parse_allowed_one(str(each)) for each in value)


def _parse_allowed_one(text: str) -> str:
    if text.startswith("@"):
        return f"@{ascii_domain(text[1:])}".casefold()
    return addr_spec(parse_address(text, field="allowed_recipients")).casefold()


def _address_or_none(user: object) -> Address | None:
    try:
        return parse_address(user, field="User")  # type: ignore[arg-type]
    except ValueError:
        return None


_EXTRAS: dict[str, tuple[str, Callable[[object], object]]] = {
    "to": ("recipients", _parse_addresses_of("to")),
    "from": ("sender", _parse_sender),
    "active": ("active", parse_bool),
    "security": ("security", _parse_choice(Security)),
    "timeout": ("timeout", parse_seconds),
    "data_timeout": ("data_timeout", parse_seconds),
    "connect_attempts": ("connect_attempts", parse_count),
    "ca_certificate": ("ca_certificate", _parse_certificate),
    "verify_certificate": ("verify_certificate", parse_bool),
    "cleartext_login": ("cleartext_login", parse_bool),
    "allowed_recipients": ("allowed_recipients", _parse_allowed),
    "redirect_to": ("redirect_to", _parse_addresses_of("redirect_to")),
    "local_hostname": ("local_hostname", _parse_ehlo_name),
    "pipelining": ("pipelining", _parse_choice(Pipelining)),
    "messages_per_connection": ("messages_per_connection", parse_count),
    "messages_per_minute": ("messages_per_minute", parse_count),
}

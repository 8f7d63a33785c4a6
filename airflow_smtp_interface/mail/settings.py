"""How to reach the mail server, and who may be written to: the fields of the connection, read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from airflow_smtp_interface.mail.errors import InterfaceInactive, RecipientNotAllowed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.headerregistry import Address


class Security(StrEnum):
    """How the way to the server is encrypted."""

    AUTO = "auto"
    """TLS from the first byte on port 465; on any other port STARTTLS, and no mail without it."""
    STARTTLS = "starttls"
    """Plain text that becomes TLS before login and mail; no mail if the server does not offer it (RFC 3207)."""
    TLS = "tls"
    """TLS from the first byte (RFC 8314)."""
    NONE = "none"
    """No encryption: anybody on the way can read the mail. A password is not sent unless *Cleartext login* is on."""


class Pipelining(StrEnum):
    """Whether commands are sent in groups (RFC 2920)."""

    AUTO = "auto"
    """Where the server offers it."""
    OFF = "off"
    """Never: for servers that offer it and cannot."""


class ConnectionLike(Protocol):
    """What is read of an Airflow connection."""

    @property
    def conn_id(self) -> str | None: ...  # noqa: D102 the fields of Airflow's form
    @property
    def host(self) -> str | None: ...  # noqa: D102
    @property
    def login(self) -> str | None: ...  # noqa: D102
    @property
    def password(self) -> str | None: ...  # noqa: D102
    @property
    def schema(self) -> str | None: ...  # noqa: D102
    @property
    def port(self) -> int | None: ...  # noqa: D102
    @property
    def extra(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class SmtpSettings:
    """An SMTP interface: one mail server, the login there, and the defaults for what is sent through it.

    :param host: name or address of the mail server.
    :param name: what the connection is called, for error texts.
    :param port: 1 to 65535.
    :param user: login name; None means no login.
    :param password: its password, UTF-8 (RFC 4616).
    :param security: how the way to the server is encrypted.
    :param sender: the default From.
    :param recipients: the default To.
    :param active: off means that nothing is sent.
    :param timeout: seconds for any one reply, from its first to its last byte.
    :param data_timeout: seconds for the reply to the final dot (RFC 5321 section 4.5.3.2.6).
    :param connect_attempts: tries to connect and log in, on fresh connections.
    :param ca_certificate: PEM certificates trusted besides the system's.
    :param verify_certificate: off accepts any certificate of any host.
    :param cleartext_login: whether the password may cross an unencrypted network.
    :param allowed_recipients: addresses and ``@domains``; empty means everybody.
    :param redirect_to: who gets every mail instead of its recipients; empty means no redirect.
    :param local_hostname: the EHLO name; the literal of the socket's own address by default.
    :param pipelining: whether commands are sent in groups.
    :param messages_per_connection: mails after which a new connection is opened; None means no limit.
    :param messages_per_minute: mails sent in a minute at most; None means no limit.
    """

    host: str
    name: str = ""
    port: int = 587
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    security: Security = Security.AUTO
    sender: Address | None = None
    recipients: tuple[Address, ...] = ()
    active: bool = True
    timeout: float = 30.0
    data_timeout: float = 600.0
    connect_attempts: int = 3
    ca_certificate: str | None = None
    verify_certificate: bool = True
    cleartext_login: bool = False
    allowed_recipients: tuple[str, ...] = ()
    redirect_to: tuple[Address, ...] = ()
    local_hostname: str | None = None
    pipelining: Pipelining = Pipelining.AUTO
    messages_per_connection: int | None = None
    messages_per_minute: int | None = None

    @classmethod
    def from_connection(cls, connection: ConnectionLike) -> SmtpSettings:
        """Read the fields of a connection; see ``provider_info.py`` for the form's.

        :param connection: extras may be JSON values (from the form) or text (from a URI).
        :raises InvalidSettings: listing every problem of the connection at once.
        """
        from airflow_smtp_interface.mail.connection_fields import read_connection

        return read_connection(connection)

    @property
    def address(self) -> str:
        """Host and port, for texts."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def shown_user(self) -> str:
        """The login name, for texts; hidden where it is the password too, as with providers that give out one token."""
        return "***" if self.user == self.password else repr(self.user)

    @property
    def where(self) -> str:
        """The connection and its server, for error texts."""
        return f"connection {self.name!r} ({self.address})"

    @property
    def tls_from_start(self) -> bool:
        """Whether the first byte is TLS already."""
        return self.security is Security.TLS or (self.security is Security.AUTO and self.port == 465)

    def check_active(self) -> None:
        """Refuse to send through an interface that is switched off.

        :raises InterfaceInactive: naming the connection.
        """
        if not self.active:
            raise InterfaceInactive(
                f"connection {self.name!r} is switched off (Active): nothing is sent through it; "
                "switch Active on to send"
            )

    def check_allowed(self, recipients: Iterable[str]) -> None:
        """Refuse recipients that the connection does not allow.

        :param recipients: the forward-paths of the final envelope.
        :raises RecipientNotAllowed: naming them.
        """
        allowed = frozenset(self.allowed_recipients)
        outside = [each for each in recipients if not {each.casefold(), _at_domain(each)} & allowed]
        if allowed and outside:
            raise RecipientNotAllowed(
                f"recipients: {', '.join(outside)} not among the Allowed recipients of connection {self.name!r} "
                f"({', '.join(self.allowed_recipients)}); nothing was sent. Add them there, or write to others"
            )


def _at_domain(address: str) -> str:
    return "@" + address.rpartition("@")[2].casefold()

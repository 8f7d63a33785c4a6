"""What can go wrong, whether trying again can help, and what to do about it.

::

    MailError
    ├── InvalidEmail (ValueError)            the author's words: trying again cannot help
    │   └── InvalidAddress
    │       └── RecipientNotAllowed
    ├── InvalidSettings (ValueError)         the connection's fields: trying again cannot help
    │   └── InterfaceInactive
    └── DeliveryError                        carries stage, reply, delivery (who got it, who did not)
        ├── TransientDeliveryError           trying again can help
        ├── PermanentDeliveryError           trying again cannot help
        │   └── AddressNotSupported          also an InvalidAddress: the server takes ASCII addresses only
        └── OutcomeUnknown                   the answer to the final dot was lost: only a human knows
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Reply, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AddressNotSupported",
    "Cause",
    "DeliveryError",
    "InterfaceInactive",
    "InvalidAddress",
    "InvalidEmail",
    "InvalidSettings",
    "MailError",
    "OutcomeUnknown",
    "PermanentDeliveryError",
    "RecipientNotAllowed",
    "Stage",
    "TransientDeliveryError",
    "delivery_error",
    "incomplete_error",
    "named",
    "remedy",
]

_NAMED_AT_MOST = 50


class MailError(Exception):
    """Anything that keeps a mail from being delivered."""


class InvalidEmail(MailError, ValueError):
    """What the author wrote cannot be sent; trying again cannot help."""


class InvalidAddress(InvalidEmail):
    """A text is not an address that mail can be sent to."""


class RecipientNotAllowed(InvalidAddress):
    """The connection's *Allowed recipients* do not hold a recipient of the mail."""


class InvalidSettings(MailError, ValueError):
    """The connection's fields cannot be used; the text lists every problem."""


class InterfaceInactive(InvalidSettings):
    """The connection is switched off (*Active*): nothing was sent."""


class DeliveryError(MailError):
    """The mail did not reach everybody.

    :param message: what failed, at which stage, with the server's words, and what to do.
    :param stage: where it failed.
    :param cause: what kind of failure it was.
    :param reply: what the server said, if it said anything.
    :param delivery: who got the mail and who did not; None where no mail was begun.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: Stage,
        cause: Cause = Cause.REPLY,
        reply: Reply | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.cause = cause
        self.reply = reply
        self.delivery = delivery

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments; ours are keyword-only.
        make = partial(type(self), stage=self.stage, cause=self.cause, reply=self.reply, delivery=self.delivery)
        return make, self.args


class TransientDeliveryError(DeliveryError):
    """A 4yz reply, a time-out or a connection lost before the end: trying again can help."""


class PermanentDeliveryError(DeliveryError):
    """A 5yz reply, a refused login, an untrusted certificate or a missing extension: trying again cannot help."""


class AddressNotSupported(PermanentDeliveryError, InvalidAddress):
    """An address has a non-ASCII local part and the server does not offer SMTPUTF8 (RFC 6531)."""


class OutcomeUnknown(DeliveryError):
    """The answer to the final dot was lost: the mail may have been delivered."""


class _Problem(NamedTuple):
    kind: type[DeliveryError] | None  # None: the first digit of the reply decides
    sentence: str
    remedy: str


_CHECK_PORT = "Check Host and Port of the connection, and that the mail server is running."
_LATER = "Trying again later can help."
_ASK = "If the server's words do not say why, ask its postmaster."
_TLS_FIRST = "Port 465 speaks TLS from the first byte: set Security to tls (or auto with port 465)."

# The one place that says what a failure is called, which class it has and what to do.
_PROBLEMS: Mapping[tuple[Stage | None, Cause], _Problem] = {
    (Stage.CONNECT, Cause.REPLY): _Problem(
        None, "the server turned the client away", "It may not take mail from this host; ask its postmaster."
    ),
    (Stage.CONNECT, Cause.NAME_NOT_FOUND): _Problem(
        PermanentDeliveryError, "the host name was not found", "Check the spelling of Host in the connection."
    ),
    (Stage.CONNECT, Cause.NAME_SERVER_DOWN): _Problem(
        TransientDeliveryError, "the host name could not be looked up: no answer from the name server", _LATER
    ),
    (Stage.CONNECT, Cause.REFUSED): _Problem(
        TransientDeliveryError, "the connection was refused: nothing listens on that port", _CHECK_PORT
    ),
    (Stage.CONNECT, Cause.UNREACHABLE): _Problem(TransientDeliveryError, "the server cannot be reached", _CHECK_PORT),
    (Stage.CONNECT, Cause.TIMED_OUT): _Problem(
        TransientDeliveryError,
        "the server did not answer in time",
        f"{_CHECK_PORT} A firewall may drop the connection. {_TLS_FIRST}",
    ),
    (Stage.CONNECT, Cause.PLAIN_TO_TLS_PORT): _Problem(
        PermanentDeliveryError, "the port speaks TLS from the first byte, but plain text was spoken to it", _TLS_FIRST
    ),
    (Stage.TLS, Cause.TLS_TO_PLAIN_PORT): _Problem(
        PermanentDeliveryError,
        "the port does not speak TLS from the first byte",
        "Set Security to starttls (ports 587 and 25), or Port to 465.",
    ),
    (Stage.TLS, Cause.TLS_NOT_OFFERED): _Problem(
        PermanentDeliveryError,
        "the server does not offer STARTTLS, so the mail would cross the network unencrypted",
        "Use the server's TLS port (Security tls, port 465), or set Security to none if the way to it is trusted.",
    ),
    (Stage.TLS, Cause.REPLY): _Problem(
        None, "the server offered STARTTLS and then refused it", f"Try its TLS port (Security tls, port 465). {_ASK}"
    ),
    (Stage.TLS, Cause.TLS_INJECTED): _Problem(
        PermanentDeliveryError,
        "plain text followed the server's reply to STARTTLS: somebody on the way may be tampering with the connection",
        "Ask whoever runs the network and the mail server.",
    ),
    (Stage.TLS, Cause.TLS_FAILED): _Problem(TransientDeliveryError, "the TLS handshake was broken off", _LATER),
    (Stage.TLS, Cause.TLS_MISMATCH): _Problem(
        PermanentDeliveryError,
        "client and server have no TLS version or cipher in common",
        "The server has to support TLS 1.2 or newer.",
    ),
    (Stage.TLS, Cause.CERTIFICATE): _Problem(
        PermanentDeliveryError,
        "the server's certificate is not trusted",
        "Set Host to a name that the certificate holds, put the PEM of a private CA into CA certificate, "
        "or have the certificate renewed.",
    ),
    (Stage.AUTH, Cause.REPLY): _Problem(
        None,
        "the login was refused",
        "Check User and Password of the connection (many providers want an app password).",
    ),
    (Stage.AUTH, Cause.CLEARTEXT_LOGIN): _Problem(
        PermanentDeliveryError,
        "the password was not sent, because the link is not encrypted",
        "Set Security to starttls or tls; Cleartext login allows it where the way to the server is trusted.",
    ),
    (Stage.AUTH, Cause.AUTH_NOT_OFFERED): _Problem(
        PermanentDeliveryError,
        "the server offers no login, but User is set",
        "Use the port for mail submission (587 or 465), or clear User and Password.",
    ),
    (Stage.AUTH, Cause.AUTH_MECHANISM): _Problem(
        PermanentDeliveryError,
        "the server offers none of the login mechanisms PLAIN, LOGIN and CRAM-MD5",
        "Ask the provider for a password login (an app password).",
    ),
    (Stage.SENDER, Cause.REPLY): _Problem(
        None, "the server refused the sender", "Check From and, if the server wants a login, User and Password."
    ),
    (Stage.SENDER, Cause.TOO_LARGE): _Problem(
        PermanentDeliveryError, "the mail is larger than the server takes", "Send a link instead of the attachment."
    ),
    (Stage.SENDER, Cause.NO_SMTPUTF8): _Problem(
        AddressNotSupported,
        "an address has a non-ASCII local part and the server does not offer SMTPUTF8 (RFC 6531)",
        "Use an address whose part before the @ is ASCII.",
    ),
    (Stage.RECIPIENT, Cause.REPLY): _Problem(
        None,
        "the server refused recipients",
        "Check their addresses and, if the server wants a login, User and Password.",
    ),
    (Stage.DATA, Cause.REPLY): _Problem(None, "the server refused the mail before its content", _ASK),
    (Stage.CONTENT, Cause.REPLY): _Problem(None, "the server broke off while the content was sent", _ASK),
    (Stage.CONTENT, Cause.CONTENT_UNREADABLE): _Problem(
        TransientDeliveryError,
        "the content could not be read to its end, so the mail was given up before the final dot",
        "Let the task start when the file is finished.",
    ),
    (Stage.ACCEPTANCE, Cause.REPLY): _Problem(
        None, "the server refused the mail after its content", f"Change the mail as it says. {_ASK}"
    ),
    (None, Cause.TIMED_OUT): _Problem(TransientDeliveryError, "the server did not answer in time", _LATER),
    (None, Cause.LOST): _Problem(TransientDeliveryError, "the connection was lost", _LATER),
    (None, Cause.ODD_REPLY): _Problem(
        TransientDeliveryError, "the server gave a reply that does not fit", "Check that Port is one for SMTP."
    ),
}
_MAY_HAVE_BEEN_DELIVERED = _Problem(
    OutcomeUnknown,
    "the answer to the final dot was lost, so the mail may have been delivered",
    "Look for its Message-ID in the server's log or the recipient's mailbox before you send it again.",
)


def delivery_error(
    *, stage: Stage, cause: Cause, where: str, detail: str = "", reply: Reply | None = None
) -> DeliveryError:
    """Say what failed before a mail was begun.

    :param stage: how far the conversation had come.
    :param cause: what went wrong there.
    :param where: the connection and its server, for the text.
    :param detail: the socket's or TLS library's words, if they add something.
    :param reply: what the server said.
    :return: an error of the class that the table gives.
    """
    problem = _problem(stage, cause)
    kind = problem.kind or _kind_of(reply)
    words = ": ".join(str(each) for each in (detail, reply) if each)
    return kind(_text(where, stage, problem, words, reply), stage=stage, cause=cause, reply=reply)


def incomplete_error(delivery: Delivery, *, where: str) -> DeliveryError | None:
    """Say who did not get a mail and why.

    Unknown outweighs deferred, deferred outweighs refused: the class answers whether trying again can help.

    :param delivery: what became of the mail.
    :param where: the connection and its server, for the text.
    :return: None if everybody was accepted.
    """
    if delivery.complete:
        return None
    failures = delivery.unknown or delivery.deferred or delivery.refused
    worst = next(iter(failures.values()))
    problem = _MAY_HAVE_BEEN_DELIVERED if delivery.unknown else _problem(worst.stage, worst.cause)
    kind = problem.kind or _kind_of(worst.reply)
    lines = [_text(where, worst.stage, problem, str(worst), worst.reply), f"Message-ID {delivery.message_id}."]
    groups = {"unknown": delivery.unknown, "deferred": delivery.deferred, "refused": delivery.refused}
    lines += [f"{name.capitalize()}: {named(group)}." for name, group in groups.items() if group]
    lines.append(f"Accepted: {named(dict.fromkeys(delivery.accepted)) or 'nobody'}.")
    return kind(" ".join(lines), stage=worst.stage, cause=worst.cause, reply=worst.reply, delivery=delivery)


def remedy(*, stage: Stage, cause: Cause = Cause.REPLY, reply: Reply | None = None) -> str:
    """Say what to do about a failure; the parameters are those of :func:`delivery_error`."""
    return _remedy(_problem(stage, cause), reply)


def _problem(stage: Stage, cause: Cause) -> _Problem:
    return _PROBLEMS.get((stage, cause)) or _PROBLEMS[None, cause]


def _remedy(problem: _Problem, reply: Reply | None) -> str:
    return _LATER if reply and reply.is_transient and not problem.kind else problem.remedy


def _kind_of(reply: Reply | None) -> type[DeliveryError]:
    return PermanentDeliveryError if reply and reply.is_permanent else TransientDeliveryError


_DOING = {
    Stage.CONNECT: "connecting",
    Stage.TLS: "starting TLS",
    Stage.AUTH: "logging in",
    Stage.SENDER: "MAIL FROM",
    Stage.RECIPIENT: "RCPT TO",
    Stage.DATA: "DATA",
    Stage.CONTENT: "sending the content",
    Stage.ACCEPTANCE: "the reply to the final dot",
}


def _text(where: str, stage: Stage, problem: _Problem, words: str, reply: Reply | None) -> str:
    said = f" ({words})" if words else ""
    return f"{where}, {_DOING[stage]}: {problem.sentence}{said}. {_remedy(problem, reply)}".rstrip()


def named(recipients: Mapping[str, Failure | None]) -> str:
    """Name recipients, and what each failed by, if it did; of a great many, some and how many more."""
    shown = [f"{address} ({failure})" if failure else address for address, failure in recipients.items()]
    more = len(shown) - _NAMED_AT_MOST
    return ", ".join(shown[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")

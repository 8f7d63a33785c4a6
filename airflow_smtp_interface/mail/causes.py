"""What a server's answer, or an exception of socket, ssl or smtplib, means."""

from __future__ import annotations

import smtplib
import socket
import ssl
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.delivery import Cause, Stage
from airflow_smtp_interface.mail.wire import Broken

if TYPE_CHECKING:
    from airflow_smtp_interface.mail.delivery import Reply

_MISMATCHES = ("PROTOCOL", "CIPHER", "ALERT_HANDSHAKE_FAILURE", "PROTOCOL_VERSION")


class Problem(smtplib.SMTPException):
    """What the server's answer means, on its way to the stage that names it."""

    def __init__(self, cause: Cause, reply: Reply | None = None, *, detail: str = "") -> None:
        super().__init__(str(reply or cause))
        self.cause = cause
        self.reply = reply
        self.detail = detail


def cause_of(error: Exception, stage: Stage) -> tuple[Cause, str]:
    """Tell what an exception of socket, ssl or smtplib means at a stage."""
    text = str(error)
    match error:
        case Broken():
            return Cause.REPLY if error.reply else error.cause, error.text
        case ssl.SSLCertVerificationError():
            return Cause.CERTIFICATE, (error.verify_message or text).rstrip(".")
        case ssl.SSLError():
            return _cause_of_tls_error(error), text
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return Cause.NAME_SERVER_DOWN, text
        case socket.gaierror() | UnicodeError():  # UnicodeError: a label of more than 63 octets
            return Cause.NAME_NOT_FOUND, text
        case TimeoutError():
            return Cause.TIMED_OUT, text
        case ConnectionRefusedError() if stage is Stage.CONNECT:
            return Cause.REFUSED, text
        case _ if stage is Stage.TLS:
            return Cause.TLS_FAILED, text
        case _ if stage is Stage.CONNECT:
            return Cause.UNREACHABLE, text
        case _:
            return Cause.LOST, text


def _cause_of_tls_error(error: ssl.SSLError) -> Cause:
    reason = "" if isinstance(error, ssl.SSLEOFError) else error.reason or ""
    if any(each in reason for each in ("WRONG_VERSION", "RECORD_LAYER")):
        return Cause.TLS_TO_PLAIN_PORT
    return Cause.TLS_MISMATCH if any(each in reason for each in _MISMATCHES) else Cause.TLS_FAILED

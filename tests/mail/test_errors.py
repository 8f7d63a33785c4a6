"""Every failure has a class, a sentence and a remedy."""

from __future__ import annotations

import smtplib
import socket
import ssl

import pytest

from airflow_smtp_interface.mail.causes import cause_of
from airflow_smtp_interface.mail.delivery import Reply
from airflow_smtp_interface.mail.errors import Cause, Stage, delivery_error, remedy
from airflow_smtp_interface.mail.wire import Broken

TRANSPORT = [
    OSError(107, "Transport endpoint is not connected"),
    ConnectionResetError(104, "Connection reset by peer"),
    ConnectionRefusedError(111, "Connection refused"),
    TimeoutError("timed out"),
    socket.gaierror(socket.EAI_AGAIN, "try again"),
    socket.gaierror(socket.EAI_NONAME, "unknown"),
    UnicodeError("label too long"),
    ssl.SSLEOFError(8, "EOF"),
    smtplib.SMTPException("odd"),
    *(Broken(cause, "words") for cause in (Cause.LOST, Cause.TIMED_OUT, Cause.ODD_REPLY)),
]
LOOKING_UP, HANDSHAKE = (socket.gaierror, UnicodeError), ssl.SSLError


@pytest.mark.parametrize("stage", Stage)
def test_whatever_the_transport_raises_has_a_sentence_and_a_remedy(stage: Stage) -> None:
    elsewhere = () if stage is Stage.CONNECT else LOOKING_UP
    elsewhere += () if stage is Stage.TLS else (HANDSHAKE,)
    for error in TRANSPORT:
        if isinstance(error, elsewhere):
            continue
        cause, detail = cause_of(error, stage)
        text = str(delivery_error(stage=stage, cause=cause, where="connection 'x'", detail=detail))
        assert text.startswith("connection 'x', ")
        assert remedy(stage=stage, cause=cause), text


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("code", [421, 450, 554])
def test_whatever_the_server_refuses_has_a_remedy(stage: Stage, code: int) -> None:
    reply = Reply(code, "its words")
    text = str(delivery_error(stage=stage, cause=Cause.REPLY, where="connection 'x'", reply=reply))
    assert f"({code} its words). " in text
    assert text.endswith(remedy(stage=stage, reply=reply))
    assert remedy(stage=stage, reply=reply).endswith(".")

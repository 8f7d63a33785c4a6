"""What needs no server: the CPU to compose and serialise one mail, and the time an import takes. Prints seconds."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import senders  # the folder of this program is on the path

MAILS = 2000


def ours() -> Callable[[], bytes]:
    """Return what composes a mail and makes its octets: the hook's way, without a server."""
    from airflow_smtp_interface.mail.message import Email
    from airflow_smtp_interface.mail.mime import Content

    mail: dict[str, Any] = {"subject": senders.SUBJECT, "body": senders.HTML, "is_html": True, "text": senders.TEXT}
    to, sender = "alice0@example.org", senders.FROM

    def compose() -> bytes:
        email = Email.compose(**mail, recipients=to, sender=sender)
        return b"".join(Content(email.with_defaults(sender=None, to=())))

    return compose


def stdlib() -> Callable[[], bytes]:
    """Return what does it with ``EmailMessage``."""
    from email import policy

    job = {"recipients": 1, "attachment": None}
    return lambda: bytes(senders.message(job).as_bytes(policy=policy.SMTP))


def cpu(compose: Callable[[], bytes]) -> float:
    """Return the CPU seconds of one mail, after some to warm up."""
    for _ in range(100):
        compose()
    start = time.process_time()
    for _ in range(MAILS):
        compose()
    return (time.process_time() - start) / MAILS


def import_time(module: str) -> float:
    """Return the seconds that a module takes on top of what every Dag file has imported."""
    from airflow.sdk import DAG, BaseHook, BaseOperator  # noqa: F401 airflow.sdk imports them on first use

    start = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1] == "import":
        print("FIGURES", import_time(sys.argv[2]))
    else:
        print("FIGURES", cpu(globals()[sys.argv[1]]()))

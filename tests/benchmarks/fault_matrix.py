"""The fault matrix on three senders: ours, the official provider and smtplib as it comes.

Each cell is judged by what its sender said and what the server kept. Cells about fields that only our connection has
(*Connect attempts*, *Data timeout*, *Pipelining*) are left out.
"""

from __future__ import annotations

import json
import os
import platform
import re
import smtplib
import ssl
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from enum import StrEnum
from pathlib import Path

HOME = tempfile.TemporaryDirectory(prefix="airflow-bench-")
AUTHORITY_PEM = Path(HOME.name, "authority.pem")
os.environ.update(
    {
        "AIRFLOW_HOME": HOME.name,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "SSL_CERT_FILE": str(AUTHORITY_PEM),  # what the official provider and smtplib trust
    }
)

from airflow.providers.smtp.hooks.smtp import SmtpHook  # noqa: E402 Airflow reads its home when it is imported

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook  # noqa: E402
from airflow_smtp_interface.mail.settings import Security  # noqa: E402
from tests.faults.cells import BOTH, CELLS, PASSWORD, USER, Cell  # noqa: E402
from tests.peers.fault_server import Authority, FaultServer  # noqa: E402

TIMEOUT = 1  # seconds; the official provider takes whole ones only
LIMIT = 8.0  # seconds: the official provider's six attempts to connect take six
AT_ONCE = 4


class Verdict(StrEnum):
    """What a sender did in one cell; the first that fits."""

    RIGHT = "right"
    HANG = "hang"
    DUPLICATE = "duplicate"
    LOST = "lost silently"
    WRONG = "wrong"
    HIDDEN = "cause hidden"


@dataclass(kw_only=True)
class Outcome:
    """What a sender said; ``ended`` is False as long as it says nothing."""

    ended: bool = False
    error: BaseException | None = None

    @property
    def text(self) -> str:
        """The error with all that it was raised from, as a task's log shows it."""
        texts, error = [], self.error
        while error:
            texts.append(str(error))
            error = error.__cause__ or error.__context__
        return " ".join(texts)


def define(cell: Cell, server: FaultServer, conn_type: str, extra: dict[str, object]) -> str:
    """Define an Airflow connection and return its id."""
    conn_id = f"{conn_type}_{server.port}"
    login = {"login": USER, "password": PASSWORD} if cell.login else {}
    connection = {"conn_type": conn_type, "host": server.host, "port": server.port, **login, "extra": extra}
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)
    return conn_id


def ours(cell: Cell, server: FaultServer, path: Path | None) -> None:
    """Send with our hook."""
    timeouts = {"timeout": TIMEOUT, "data_timeout": TIMEOUT, "connect_attempts": 1}
    extra = {"security": cell.way, "from": "me@x.org", **timeouts, **cell.extra}
    with SmtpInterfaceHook(define(cell, server, "smtp_interface", extra)) as hook:
        attachments = [str(path)] if path else None
        hook.send_email(subject="Quarterly", body="Figures", recipients=BOTH, attachments=attachments)


def official(cell: Cell, server: FaultServer, path: Path | None) -> None:
    """Send with the official provider's hook."""
    extra = {
        "from_email": "me@x.org",
        "timeout": TIMEOUT,
        "disable_ssl": cell.way is not Security.TLS,
        "disable_tls": cell.way is not Security.STARTTLS,
        "ssl_context": "default" if cell.extra.get("verify_certificate", True) else "none",
    }
    with SmtpHook(define(cell, server, "smtp", extra)) as hook:
        files = [str(path)] if path else None
        hook.send_email_smtp(to=list(BOTH), subject="Quarterly", html_content="Figures", files=files)


def bare(cell: Cell, server: FaultServer, path: Path | None) -> None:
    """Send with smtplib as its documentation shows it."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "me@x.org", ", ".join(BOTH), "Quarterly"
    message.set_content("Figures")
    if path:
        message.add_attachment(path.read_bytes(), maintype="application", subtype="octet-stream", filename="big.bin")
    context = ssl.create_default_context()
    if not cell.extra.get("verify_certificate", True):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT, context=context)
        if cell.way is Security.TLS
        else smtplib.SMTP(server.host, server.port, timeout=TIMEOUT)
    ) as smtp:
        if cell.way is Security.STARTTLS:
            smtp.starttls(context=context)
        if cell.login:
            smtp.login(USER, PASSWORD)
        smtp.send_message(message)


SENDERS: dict[str, Callable[[Cell, FaultServer, Path | None], None]] = {
    "ours, hook.send_email": ours,
    "official provider, SmtpHook.send_email_smtp": official,
    "smtplib + EmailMessage": bare,
}


def attachment_of(octets: int) -> Path:
    """Return the path of a file of this size."""
    return Path(HOME.name, f"{octets}.bin")


def run(cell: Cell, send: Callable[..., None], authority: Authority) -> tuple[Verdict, str]:
    """Let a sender do one cell, for ``LIMIT`` seconds at most."""
    outcome = Outcome()
    path = attachment_of(cell.attachment) if cell.attachment else None
    with cell.start(authority) as server:
        if not cell.listens:
            server.__exit__()

        def attempt() -> None:
            try:
                send(cell, server, path)
            except Exception as error:  # noqa: BLE001 whatever it raises is what it says
                outcome.error = error
            outcome.ended = True

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(LIMIT)
        verdict = Verdict.HANG if not outcome.ended else None
        said = f"{type(outcome.error).__name__}: {outcome.text}" if outcome.error else "no error"
        server.settle()
    return verdict or judge(cell, outcome, server), f"{said} {dict(server.copies)}"


def judge(cell: Cell, outcome: Outcome, server: FaultServer) -> Verdict:
    """Compare what was said with what the server kept."""
    copies = server.copies
    over_tls = [mail.tls for mail in server.committed] + [auth.tls for auth in server.auths]
    in_clear = cell.way is not Security.NONE and not all(over_tls)
    if any(number > 1 for number in copies.values()):
        return Verdict.DUPLICATE
    if in_clear:
        return Verdict.WRONG
    if outcome.error is None:
        # To go on in spite of an odd reply is right where it ends well.
        untrusted = cell.flaw and cell.error
        return Verdict.LOST if set(copies) != set(BOTH) else Verdict.WRONG if untrusted else Verdict.RIGHT
    if cell.error is None or copies != cell.copies:
        return Verdict.WRONG
    return Verdict.RIGHT if re.search(cell.words, outcome.text) else Verdict.HIDDEN


def main() -> None:
    """Print a markdown table, then our cells that are not right; with ``-v`` those of all senders."""
    authority = Authority()
    AUTHORITY_PEM.write_text(authority.pem)
    cells = [cell for cell in CELLS if not cell.only_ours]
    for octets in {cell.attachment for cell in cells}:
        attachment_of(octets).write_bytes(bytes(octets))
    results: dict[str, list[tuple[Cell, Verdict, str]]] = {}
    for sender, send in SENDERS.items():

        def one(cell: Cell, send: Callable[..., None] = send) -> tuple[Cell, Verdict, str]:
            return cell, *run(cell, send, authority)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            small = list(pool.map(one, (cell for cell in cells if not cell.attachment)))
        results[sender] = small + [one(cell) for cell in cells if cell.attachment]

    machine = f"CPython {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {len(cells)} cells, time-out {TIMEOUT} s\n")
    print(f"| sender | {' | '.join(Verdict)} |\n|---|{'---|' * len(Verdict)}")
    for sender, rows in results.items():
        counts = Counter(verdict for _, verdict, _ in rows)
        print(f"| {sender} | {' | '.join(str(counts[verdict]) for verdict in Verdict)} |")
    for sender in results if "-v" in sys.argv else list(results)[:1]:
        rows = [row for row in results[sender] if row[1] is not Verdict.RIGHT]
        print(f"\nNot right, {sender}: {len(rows)}")
        for cell, verdict, said in rows:
            print(f"- {verdict}: {cell.name}: {said}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # senders that hang would keep the interpreter alive

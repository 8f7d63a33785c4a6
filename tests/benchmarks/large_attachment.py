"""One mail with a 100 MB attachment: wall time, CPU and peak memory over the sender's own imports.

Each sender runs in a fresh process, in shuffled order, several rounds; figures are medians with their range.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROUNDS = 5
OCTETS = 100_000_000

_MEASURE = """
import json, os, resource, sys, time
port, path = int(sys.argv[1]), sys.argv[2]
{imports}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, wall, cpu = peak(), time.perf_counter(), time.process_time()
{send}
print("FIGURES", json.dumps([time.perf_counter() - wall, time.process_time() - cpu, peak() - before]))
"""

SENDERS = {
    "ours, hook.send_email": (
        """
from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
os.environ["AIRFLOW_CONN_MAIL"] = f"smtp-interface://127.0.0.1:{port}/?security=none&from=me%40x.org"
hook = SmtpInterfaceHook("mail")
hook.settings
""",
        """
with hook:
    hook.send_email(subject="s", body="b", recipients="a@x.org", attachments=[path])
""",
    ),
    "official provider, SmtpHook.send_email_smtp": (
        """
from airflow.providers.smtp.hooks.smtp import SmtpHook
os.environ["AIRFLOW_CONN_MAIL"] = f"smtp://127.0.0.1:{port}/?disable_ssl=true&disable_tls=true&from_email=me%40x.org"
hook = SmtpHook("mail", auth_type="basic")
hook.get_connection("mail")
""",
        """
with hook:
    hook.send_email_smtp(to="a@x.org", subject="s", html_content="b", files=[path])
""",
    ),
    "smtplib + EmailMessage": (
        """
import smtplib
from email.message import EmailMessage
from pathlib import Path
""",
        """
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "me@x.org", "a@x.org", "s"
message.set_content("b")
message.add_attachment(Path(path).read_bytes(), maintype="application", subtype="octet-stream", filename="big.bin")
with smtplib.SMTP("127.0.0.1", port) as smtp:
    smtp.send_message(message)
""",
    ),
}


def measure(sender: str, port: str, path: str, home: str) -> list[float]:
    """Return wall seconds, CPU seconds and megabytes of one sender in a fresh process."""
    imports, send = SENDERS[sender]
    program = _MEASURE.format(imports=imports, send=send)
    environment = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    run = subprocess.run(
        [sys.executable, "-c", program, port, path], env=environment, check=True, capture_output=True, text=True
    )
    figures: list[float] = json.loads(run.stdout.rpartition("FIGURES ")[2])
    return figures


def main() -> None:
    """Print a markdown table."""
    results: dict[str, list[list[float]]] = {sender: [] for sender in SENDERS}
    sink = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.sink"], stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "big.bin")
        path.write_bytes(os.urandom(OCTETS))
        assert sink.stdout
        port = sink.stdout.readline().strip()
        try:
            for _ in range(ROUNDS):
                for sender in random.sample(list(SENDERS), len(SENDERS)):
                    results[sender].append(measure(sender, port, str(path), home))
        finally:
            sink.terminate()
    machine = f"CPython {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {ROUNDS} rounds\n")
    print("| sender | wall s | CPU s | memory MB | CPU against the official provider |\n|---|---|---|---|---|")
    official = statistics.median(figures[1] for figures in results["official provider, SmtpHook.send_email_smtp"])
    for sender, rounds in results.items():
        cells = [
            f"{statistics.median(column):.2f} ({min(column):.2f}–{max(column):.2f})"
            for column in zip(*rounds, strict=True)
        ]
        ratio = official / statistics.median(figures[1] for figures in rounds)
        print(f"| {sender} | {' | '.join(cells)} | {ratio:.1f} × faster |")


if __name__ == "__main__":
    main()

"""One job of one sender in a fresh process, and many of them in shuffled order."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.benchmarks import senders
from tests.benchmarks.network import Network
from tests.benchmarks.peers import HERE, Homes, Sender

LIMIT = 300  # seconds for one job
_DISTORTING = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one job cost: seconds, megabytes, and what the sink counted."""

    wall: float
    cpu: float
    memory: float
    mails: int
    trips: int  # turn-arounds, and one for each TCP connection


@dataclass(frozen=True, kw_only=True)
class Sink:
    """A running sink."""

    process: subprocess.Popen[str]
    port: int

    def counts(self) -> dict[str, int]:
        """Return what it has counted since the last time."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counts: dict[str, int] = json.loads(self.process.stdout.readline())
        return counts


class Runs:
    """Runs jobs; keeps what they need in a folder."""

    def __init__(self, homes: Homes, folder: Path) -> None:
        self.homes = homes
        self._files = {name: str(folder / f"{name}.pem") for name in ("authority", "certificate", "key")}
        # Senders keep their byte code, as installed packages do, and buffer what they print.
        ours = {name: value for name, value in os.environ.items() if name not in _DISTORTING}
        self._environment = {
            **ours,
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "SSL_CERT_FILE": self._files["authority"],
            "NODE_EXTRA_CA_CERTS": self._files["authority"],
            "NODE_PATH": str(homes.node_path),
        }

    @contextmanager
    def sink(self, net: Network, *, tls: bool = False) -> Iterator[Sink]:
        """Start a sink at the server's end; with ``tls`` it offers STARTTLS and a login."""
        if tls:
            authority = trustme.CA()
            certificate = authority.issue_cert(net.host)
            authority.cert_pem.write_to_path(self._files["authority"])
            certificate.cert_chain_pems[0].write_to_path(self._files["certificate"])
            certificate.private_key_pem.write_to_path(self._files["key"])
        files = [self._files["certificate"], self._files["key"]] if tls else []
        words = [*net.server, sys.executable, "-P", str(HERE / "counting_sink.py"), net.host, *files]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                yield Sink(process=process, port=int(process.stdout.readline()))
            finally:
                process.terminate()

    def run(
        self,
        sender: Sender,
        net: Network,
        sink: Sink,
        *,
        mails: int = 1,
        to: int = 1,
        login: bool = False,
        attachment: Path | None = None,
    ) -> Figures:
        """Let a sender do one job.

        :param to: recipients of each mail.
        :raises RuntimeError: if it fails, or the sink has not got what it had to get.
        """
        job = {"host": net.host, "port": sink.port, "mails": mails, "recipients": to, "login": login}
        job |= {"attachment": str(attachment) if attachment else None, "connections": sender.connections}
        if sender.home == "node":
            job |= {"from": senders.FROM, "to": senders.recipients(job), "subject": senders.SUBJECT}
            job |= {"html": senders.HTML, "text": senders.TEXT, "user": senders.USER, "pass": senders.PASSWORD}
        printed = self.program([*net.client, *self.homes.command(sender), json.dumps(job)])
        counts = sink.counts()
        if counts.get("mails") != mails or counts.get("recipients") != mails * to:
            raise RuntimeError(f"{sender.name}: {mails} mails for {to} were to be sent, the sink has {counts}")
        figures = json.loads(printed.rpartition("FIGURES ")[2])
        return Figures(**figures, mails=mails, trips=counts["turns"] + counts["connections"])

    def program(self, words: list[str]) -> str:
        """Return what a program prints."""
        run = subprocess.run(words, env=self._environment, capture_output=True, text=True, timeout=LIMIT, check=False)
        if run.returncode:
            raise RuntimeError(f"{' '.join(words[:4])} …: {run.stderr[-2000:]}")
        return run.stdout


def shuffled(cells: list[Sender], rounds: int, measure: Callable[[Sender], Figures]) -> dict[str, list[Figures]]:
    """Measure each sender once a round, in a new order each time."""
    results: dict[str, list[Figures]] = {sender.name: [] for sender in cells}
    for number in range(rounds):
        for sender in random.sample(cells, len(cells)):
            print(f"  round {number + 1}: {sender.name}", file=sys.stderr)
            results[sender.name].append(measure(sender))
    return results


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: list[float], digits: int = 2) -> str:
    """Return the median with the range."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

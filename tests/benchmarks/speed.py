"""How fast, beside its peers: mails a second, round trips, CPU and memory. ``--quick`` takes fewer rounds and sizes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.network import network
from tests.benchmarks.peers import HERE, OFFICIAL, Homes, Sender
from tests.benchmarks.runs import Figures, Runs, median, shuffled, spread, table

PLOT = HERE / "mails_per_second.png"
PLOTTED = 50
BIG = ["ours", "official", "stdlib", "nodemailer"]  # the programs that the tables of attachments compare


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    :param mails: of a lock-step sender, by round-trip time in ms.
    :param megabytes: sizes of attachments.
    :param growth: numbers of mails.
    """

    rounds: int
    mails: dict[int, int]
    megabytes: tuple[int, ...]
    growth: tuple[int, ...]


FULL = Plan(rounds=3, mails={0: 1000, 10: 40, 50: 25}, megabytes=(25, 100), growth=(100, 1_000, 10_000, 100_000))
QUICK = Plan(rounds=1, mails={0: 300, 50: 10}, megabytes=(25,), growth=(100, 1_000, 10_000))


class Speed:
    """Measures and prints one section after the other."""

    def __init__(self, runs: Runs, plan: Plan) -> None:
        self._runs = runs
        self._plan = plan
        self._senders = runs.homes.senders
        self._single = [sender for sender in self._senders if sender.connections == 1]

    def small_mails(self, rtt: int, lock_step: int) -> None:
        """Print mails a second and round trips a mail."""

        def measure(sender: Sender) -> Figures:
            return self._runs.run(sender, net, sink, mails=max(2, int(lock_step * (sender.pace if rtt else 1))))

        with network(rtt) as net, self._runs.sink(net) as sink:
            results = shuffled(self._senders, self._plan.rounds, measure)
        rates = {name: [each.mails / each.wall for each in figures] for name, figures in results.items()}
        rows = []
        for name, figures in results.items():
            trips = spread([each.trips / each.mails for each in figures])
            cpu = spread([1000 * each.cpu / each.mails for each in figures])
            ratio = f"{median(rates[name]) / median(rates[OFFICIAL]):.1f} ×"
            rows.append([name, str(figures[0].mails), spread(rates[name], 1), ratio, trips, cpu])
        head = ["sender", "mails", "mails/s", "to the official hook", "round trips a mail", "CPU ms a mail"]
        section(f"Small HTML mails, one recipient each, round trips of {rtt} ms", table(head, rows))
        if rtt == PLOTTED and "peers" in self._runs.homes.python:
            words = [self._runs.homes.python["peers"], "-P", str(HERE / "plot.py"), str(PLOT)]
            subprocess.run(words, input=json.dumps(rates), text=True, check=True)

    def many_recipients(self, rtt: int) -> None:
        """Print the time of one mail to 100 recipients, with connecting."""
        with network(rtt) as net, self._runs.sink(net) as sink:
            once = [sender for sender in self._single if sender.program not in ("ours_bulk", "official_anew")]
            results = shuffled(once, self._plan.rounds, lambda sender: self._runs.run(sender, net, sink, to=100))
        official = median([each.wall for each in results[OFFICIAL]])
        rows = []
        for name, figures in results.items():
            walls = [each.wall for each in figures]
            ratio = f"{official / median(walls):.1f} × faster"
            rows.append([name, spread(walls), ratio, spread([float(each.trips) for each in figures], 0)])
        title = f"One mail to 100 recipients, round trips of {rtt} ms, with connecting"
        section(title, table(["sender", "wall s", "to the official hook", "round trips"], rows))

    def set_up(self, rtt: int) -> None:
        """Print the round trips until one mail is sent over a new, encrypted connection."""
        once = [sender for sender in self._single if sender.program not in ("ours_bulk", "official_anew")]
        with network(rtt) as net, self._runs.sink(net, tls=True) as sink:
            results = shuffled(once, self._plan.rounds, lambda sender: self._runs.run(sender, net, sink, login=True))
        rows = []
        for name, figures in results.items():
            counted = spread([float(each.trips) for each in figures], 0)
            timed = [spread([each.wall * 1000 / rtt for each in figures], 1)] if rtt else []
            rows.append([name, counted, *timed, spread([1000 * each.cpu for each in figures], 1)])
        timed_head = [f"wall in round trips of {rtt} ms"] if rtt else []
        head = ["sender", "round trips counted", *timed_head, "CPU ms"]
        section("Connect, STARTTLS, AUTH PLAIN, one mail, QUIT", table(head, rows))

    def attachment(self, megabytes: int, folder: Path) -> None:
        """Print wall, CPU and memory of one mail with an attachment."""
        path = folder / "big.bin"
        path.write_bytes(os.urandom(megabytes * 1_000_000))
        big = [sender for sender in self._single if sender.program in BIG]
        with network(0) as net, self._runs.sink(net) as sink:
            results = shuffled(
                big, self._plan.rounds, lambda sender: self._runs.run(sender, net, sink, attachment=path)
            )
        official = median([each.cpu for each in results[OFFICIAL]])
        rows = []
        for name, figures in results.items():
            columns = [[getattr(each, field) for each in figures] for field in ("wall", "cpu", "memory")]
            ratio = f"{official / median(columns[1]):.1f} × less"
            rows.append([name, *map(spread, columns), ratio])
        head = ["sender", "wall s", "CPU s", "memory MB", "CPU to the official hook"]
        section(f"One mail with an attachment of {megabytes} MB, loopback", table(head, rows))

    def growth(self) -> None:
        """Print memory and CPU a mail of ``send_all``."""
        bulk = next(sender for sender in self._senders if sender.program == "ours_bulk")
        rows = []
        with network(0) as net, self._runs.sink(net) as sink:
            for mails in self._plan.growth:
                figures = self._runs.run(replace(bulk, connections=3), net, sink, mails=mails)
                cpu = f"{1000 * figures.cpu / mails:.3f}"
                rows.append([f"{mails:,}", f"{figures.memory:.2f}", cpu, f"{figures.mails / figures.wall:.0f}"])
        head = ["mails", "memory MB", "CPU ms a mail", "mails/s"]
        section("Growth: `send_all` from a generator, 3 connections, loopback", table(head, rows))

    def in_process(self) -> None:
        """Print what needs no server."""
        names = {"ours": "ours", "stdlib": "EmailMessage, `as_bytes`"}
        rows = [
            [name, spread([1e6 * self._seconds(word) for _ in range(self._plan.rounds)], 0)]
            for word, name in names.items()
        ]
        section("CPU to compose and serialise one small HTML mail", table(["", "µs"], rows))
        modules = ["airflow_smtp_interface.operators.email_actor", "airflow.providers.smtp.operators.smtp"]
        rows = []
        for module in modules:
            self._seconds("import", module)  # so that there is byte code
            times = [1000 * self._seconds("import", module) for _ in range(self._plan.rounds + 2)]
            rows.append([f"`{module}`", spread(times, 1)])
        section("Import on top of `airflow.sdk` with its operator and hook", table(["module", "ms"], rows))

    def _seconds(self, *words: str) -> float:
        printed = self._runs.program([sys.executable, str(HERE / "in_process.py"), *words])
        return float(printed.rpartition("FIGURES ")[2])


def section(title: str, text: str) -> None:
    """Print one section."""
    print(f"\n### {title}\n\n{text}", flush=True)


def delays(wanted: list[int]) -> list[int]:
    """Leave out the round-trip times that cannot be had here."""
    try:
        with network(1):
            return wanted
    except OSError as error:
        print(f"Round trips of 0 ms only: {error}", file=sys.stderr)
        return [0]


def main() -> None:
    """Print markdown tables and draw one plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes, under three minutes")
    plan = QUICK if parser.parse_args().quick else FULL
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mail-bench-") as home:
        folder = Path(home)
        speed = Speed(Runs(Homes(folder), folder), plan)
        machine = f"CPython {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
        print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {plan.rounds} rounds", flush=True)
        rtts = delays(list(plan.mails))
        for rtt in rtts:
            speed.small_mails(rtt, plan.mails[rtt])
        speed.many_recipients(rtts[-1])
        speed.set_up(rtts[-1])
        for megabytes in plan.megabytes:
            speed.attachment(megabytes, folder)
        speed.growth()
        speed.in_process()
    print(f"took {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

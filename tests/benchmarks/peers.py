"""Which senders there are, and the environments that those need which are no dependency of the project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NODEMAILER = "nodemailer@10.6.0"
OFFICIAL = "official hook, one `with`"


@dataclass(frozen=True, kw_only=True)
class Sender:
    """One sender.

    :param name: its row in the tables.
    :param program: its function in ``senders.py``, or ``nodemailer``.
    :param home: what it is installed in: ``project``, ``peers`` or ``node``.
    :param connections: how many it may open.
    :param pace: how many mails it sends in about the time that a lock-step sender needs for one.
    """

    name: str
    program: str
    home: str
    connections: int = 1
    pace: float = 1


SENDERS = [
    Sender(name="ours, `send_email`", program="ours", home="project", pace=2),
    Sender(name="ours, `send_all`, 1 connection", program="ours_bulk", home="project", pace=4),
    Sender(name="ours, `send_all`, 3 connections", program="ours_bulk", home="project", connections=3, pace=12),
    Sender(name="ours, `send_all`, 5 connections", program="ours_bulk", home="project", connections=5, pace=20),
    Sender(name=OFFICIAL, program="official", home="project"),
    Sender(name="official hook, one connection a mail", program="official_anew", home="project", pace=0.4),
    Sender(name="smtplib + EmailMessage", program="stdlib", home="peers"),
    Sender(name="aiosmtplib", program="aio", home="peers"),
    Sender(name="redmail", program="redmail", home="peers"),
    Sender(name="Django", program="django", home="peers"),
    Sender(name="Nodemailer, 1 connection", program="nodemailer", home="node", pace=2),
    Sender(name="Nodemailer, 5 connections", program="nodemailer", home="node", connections=5, pace=10),
]


class Homes:
    """Where the senders are installed: ``python`` by home, and ``node_path`` for Nodemailer."""

    def __init__(self, folder: Path) -> None:
        self.python = {"project": sys.executable}
        self.node_path: Path | None = None
        self._install_peers(folder / "peers")
        self._install_node(folder / "node")

    @property
    def senders(self) -> list[Sender]:
        """Those that can run here."""
        return [
            sender for sender in SENDERS if sender.home in self.python or (sender.home == "node" and self.node_path)
        ]

    def command(self, sender: Sender) -> list[str]:
        """Return the command line of a sender, without its job."""
        if sender.home == "node":
            return ["node", str(HERE / "nodemailer.cjs"), sender.program]
        return [self.python[sender.home], "-P", str(HERE / "senders.py"), sender.program]

    def _install_peers(self, venv: Path) -> None:
        uv = Path(sys.executable).with_name("uv")
        python = venv / "bin" / "python"
        words = ["pip", "install", "-q", "--python", str(python), "-r", str(HERE / "peers.txt")]
        if _run(str(uv), "venv", "-q", "--python", sys.executable, str(venv)) and _run(str(uv), *words):
            self.python["peers"] = str(python)
        else:
            print("The Python peers are left out: they could not be installed.", file=sys.stderr)

    def _install_node(self, folder: Path) -> None:
        if not shutil.which("node") or not shutil.which("npm"):
            print("Nodemailer is left out: there is no Node with npm.", file=sys.stderr)
        elif _run("npm", "install", "--silent", "--no-save", "--prefix", str(folder), NODEMAILER):
            self.node_path = folder / "node_modules"
        else:
            print("Nodemailer is left out: it could not be installed.", file=sys.stderr)


def _run(*words: str) -> bool:
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode:
        print(run.stderr.strip(), file=sys.stderr)
    return run.returncode == 0

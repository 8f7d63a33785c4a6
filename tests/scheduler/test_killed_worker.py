"""A task's process is killed for real, under a scheduler with LocalExecutor, and Airflow's own retry follows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from airflow_smtp_interface.viewer.message import ShownMessage
from tests.peers.fault_server import Committed, Fault, FaultServer
from tests.peers.ports import free_port
from tests.scheduler.killed_dags import MAILS

pytestmark = pytest.mark.scheduler

HANG = {
    "killed_while_connecting": Fault(stage="connect", action="hang", times=1),
    "killed_in_the_envelope": Fault(stage="rcpt", action="hang", times=1),
    "killed_after_the_dot": Fault(stage="body", action="hang", commit=True, times=1),
    "killed_after_the_dot_resend": Fault(stage="body", action="hang", commit=True, times=1),
    "killed_after_the_record": Fault(stage="noop", action="250 never asked"),
    "greylisted": Fault(stage="rcpt", address="b@x.org", action="450 4.7.1 greylisted", times=1),
}


class Airflow:
    """A whole Airflow in a temporary home: api-server, scheduler, Dag processor and triggerer."""

    def __init__(self, home: Path, connections: dict[str, FaultServer]) -> None:
        self.home = home
        port = free_port()
        extra = {"security": "none", "from": "me@x.org", "timeout": 300, "data_timeout": 300, "connect_attempts": 1}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": os.urandom(32).hex(),
            "AIRFLOW__API_AUTH__JWT_SECRET": os.urandom(64).hex(),
            **{
                f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(
                    {"conn_type": "smtp_interface", "host": server.host, "port": server.port, "extra": extra}
                )
                for conn_id, server in connections.items()
            },
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Airflow:
        self._start("db", "migrate").wait()
        self._start("api-server")
        self._start("scheduler", "--skip-serve-logs")
        self._start("dag-processor")
        self._start("triggerer", "--skip-serve-logs")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def task(self, dag_id: str) -> tuple[str | None, int]:
        """Return state and try number of a Dag's only task."""
        with closing(sqlite3.connect(self.home / "airflow.db", timeout=30)) as database:
            row = database.execute("select state, try_number from task_instance where dag_id = ?", (dag_id,)).fetchone()
        return row or (None, 0)

    def result(self, dag_id: str, key: str = "return_value") -> dict[str, object]:
        """Return an XCom of a Dag's only task."""
        with closing(sqlite3.connect(self.home / "airflow.db", timeout=30)) as database:
            query = "select value from xcom where dag_id = ? and key = ?"
            (value,) = database.execute(query, (dag_id, key)).fetchone()
        return json.loads(value)

    def shown(self, dag_id: str) -> dict[str, str]:
        """Return what the Email tab shows of each recipient."""
        mail = ShownMessage.from_dict(self.result(dag_id, "email"))
        return {recipient.address: recipient.outcome.value for recipient in mail.recipients}

    def log(self, dag_id: str) -> str:
        """Return the logs of all tries."""
        return "".join(path.read_text() for path in sorted((self.home / "logs" / f"dag_id={dag_id}").rglob("*.log")))

    def clear(self, dag_id: str) -> None:
        """Clear a Dag's tasks, as a human does."""
        assert self._start("tasks", "clear", "--yes", dag_id).wait() == 0

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        output = (self.home / f"{command[0]}.out").open("wb")
        with output:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process


def wait_for(what: str, is_so: Callable[[], object], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.2)


def kill_client_of(server: FaultServer) -> None:
    """Kill the process that is connected to a server."""
    for process in psutil.process_iter():
        try:
            peers = [each.raddr.port for each in process.net_connections("tcp") if each.raddr]
        except psutil.Error:
            continue
        if server.port in peers and process.pid != os.getpid():
            process.kill()
            return
    raise AssertionError(f"nobody is connected to port {server.port}")


def kill_task_of(airflow: Airflow, dag_id: str) -> None:
    """Kill the process of a task that sleeps; its connection is closed already, but the database knows its pid."""
    with closing(sqlite3.connect(airflow.home / "airflow.db", timeout=30)) as database:
        (pid,) = database.execute("select pid from task_instance where dag_id = ?", (dag_id,)).fetchone()
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, FaultServer]]:
    with ExitStack() as stack:
        yield {dag_id: stack.enter_context(FaultServer(plan=[HANG[dag_id]])) for dag_id in MAILS}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, servers: dict[str, FaultServer]) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    shutil.copy(Path(__file__).with_name("killed_dags.py"), home / "dags")
    with Airflow(home, servers) as running:
        yield running


def ends(airflow: Airflow, dag_id: str) -> tuple[str | None, int]:
    wait_for(f"{dag_id} has ended: {airflow.task(dag_id)}", lambda: airflow.task(dag_id)[0] in ("success", "failed"))
    return airflow.task(dag_id)


def copies(server: FaultServer) -> list[tuple[str, ...]]:
    return [mail.recipients for mail in server.committed]


def message_id(mail: Committed) -> bytes:
    (line,) = [line for line in mail.content.splitlines() if line.startswith(b"Message-ID")]
    return line


BOTH = ("a@x.org", "b@x.org")


@pytest.mark.parametrize(("dag_id", "said"), [("killed_while_connecting", None), ("killed_in_the_envelope", "RCPT")])
def test_killed_before_the_content_the_retry_sends_once(
    airflow: Airflow, servers: dict[str, FaultServer], dag_id: str, said: str | None
) -> None:
    server = servers[dag_id]
    wait_for("the task hangs", lambda: any(c.startswith(said) for c in server.commands) if said else server.connections)
    kill_client_of(server)
    assert ends(airflow, dag_id) == ("success", 2)
    assert copies(server) == [BOTH]
    assert airflow.result(dag_id)["accepted"] == list(BOTH)


def test_a_greylisted_mail_waits_in_a_real_triggerer(airflow: Airflow, servers: dict[str, FaultServer]) -> None:
    assert ends(airflow, "greylisted") == ("success", 1)
    assert copies(servers["greylisted"]) == [("a@x.org",), ("b@x.org",)]
    assert airflow.result("greylisted")["accepted"] == list(BOTH)
    assert airflow.shown("greylisted") == dict.fromkeys(BOTH, "accepted")


def test_a_human_who_clears_a_finished_mail_sends_it_to_everybody_again(
    airflow: Airflow, servers: dict[str, FaultServer]
) -> None:
    server = servers["greylisted"]
    assert ends(airflow, "greylisted") == ("success", 1)
    airflow.clear("greylisted")
    wait_for("the cleared task has ended", lambda: airflow.task("greylisted") == ("success", 2))
    assert copies(server) == [("a@x.org",), ("b@x.org",), BOTH]
    first, second, third = map(message_id, server.committed)
    assert first == second != third


def test_killed_after_the_final_dot_the_mail_is_in_doubt_named_and_not_sent_again(
    airflow: Airflow, servers: dict[str, FaultServer]
) -> None:
    server = servers["killed_after_the_dot"]
    wait_for("the mail is committed", lambda: server.committed)
    kill_client_of(server)
    assert ends(airflow, "killed_after_the_dot") == ("failed", 2)
    assert copies(server) == [BOTH]
    log = airflow.log("killed_after_the_dot")
    assert "may have been delivered" in log
    assert "an earlier try ended before the answer was recorded" in log
    assert airflow.shown("killed_after_the_dot") == dict.fromkeys(BOTH, "unknown")

    airflow.clear("killed_after_the_dot")  # a human has looked, and decides that it is sent again
    wait_for("the cleared task has ended", lambda: airflow.task("killed_after_the_dot") == ("success", 3))
    assert copies(server) == [BOTH, BOTH]
    assert len(set(map(message_id, server.committed))) == 1
    assert "goes on with the rest" in airflow.log("killed_after_the_dot")


def test_killed_after_the_final_dot_the_mail_is_sent_again_if_the_author_says_so(
    airflow: Airflow, servers: dict[str, FaultServer]
) -> None:
    server = servers["killed_after_the_dot_resend"]
    wait_for("the mail is committed", lambda: server.committed)
    kill_client_of(server)
    assert ends(airflow, "killed_after_the_dot_resend") == ("success", 2)
    assert copies(server) == [BOTH, BOTH]
    assert len(set(map(message_id, server.committed))) == 1


def test_killed_after_the_answer_is_recorded_the_mail_is_not_sent_again(
    airflow: Airflow, servers: dict[str, FaultServer]
) -> None:
    dag_id = "killed_after_the_record"
    wait_for("the answer is recorded", (airflow.home / "dags" / "recorded").exists)
    kill_task_of(airflow, dag_id)
    assert ends(airflow, dag_id) == ("success", 2)
    assert copies(servers[dag_id]) == [BOTH]
    assert airflow.result(dag_id)["already_sent"] is True

"""A real Airflow to visit: a temporary home with an api-server on a loopback port, its users and its Dag runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import httpx

from tests.peers.ports import free_port

AIRFLOW_VERSION = tuple(map(int, version("apache-airflow-core").split(".")[:2]))
"""Such as ``(3, 3)``; read from the metadata, because importing Airflow would write into a home."""

START_SECONDS = 180
RUN_SECONDS = 300


class AirflowSite:
    """A migrated Airflow whose api-server answers until the end of the ``with`` block.

    :param home: an empty folder.
    :param dags: the folder of Dag files.
    :param users: name -> role: ``admin``, ``op``, ``user``, ``viewer``, or empty for no rights at all; a user's
        password is the name. None lets everybody in as admin.
    :param settings: further environment variables, such as ``AIRFLOW__SMTP_INTERFACE__KEEP_SENT``.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**_clean_environment(), **_settings(home, dags, port, users), **(settings or {})}
        self._users = users or {}
        self._passwords = home / "passwords.json"
        self._log = home / "api-server.out"
        self._server: subprocess.Popen[bytes] | None = None
        self.token = cache(self._token)

    def __enter__(self) -> AirflowSite:
        self._passwords.write_text(json.dumps({name: name for name in self._users}))
        self.command("db", "migrate", seconds=START_SECONDS)
        with self._log.open("wb") as output:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "airflow", "api-server"],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def log(self) -> str:
        """The end of what the api-server has printed."""
        return self._log.read_text(errors="replace")[-4000:]

    def command(self, *words: str, seconds: float) -> str:
        """Run ``airflow`` with some words in this home and return what it printed."""
        run = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"airflow {' '.join(words)} ended with {run.returncode}:\n{run.stdout[-6000:]}"
        return run.stdout

    def run_dag(self, dag_id: str, *, logical_date: str = "2026-05-04T06:00:00+00:00") -> str:
        """Run a Dag to its end, all of its tasks in one process; fail if it fails.

        :param logical_date: a second run of the same date replaces the first.
        :return: the run's id; it holds colons and a plus sign.
        """
        self.command("dags", "test", dag_id, logical_date, seconds=RUN_SECONDS)
        runs = self.request("GET", f"/api/v2/dags/{dag_id}/dagRuns?order_by=-id&limit=1").json()["dag_runs"]
        assert [run["state"] for run in runs] == ["success"], runs
        return str(runs[0]["dag_run_id"])

    def task_url(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, tab: str = "") -> str:
        """Return the address of a task instance's page.

        :param tab: the last part of the address, such as ``xcom`` or ``plugin/sent-email``.
        """
        mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
        page = f"{self.url}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/tasks/{quote(task_id)}{mapped}"
        return f"{page}/{tab}" if tab else page

    def request(self, method: str, path: str, *, user: str | None = "admin", body: object = None) -> httpx.Response:
        """Ask the server as a user would with a program.

        :param path: such as ``/api/v2/connections``.
        :param user: whose token goes with it; None sends none.
        """
        headers = {"Authorization": f"Bearer {self.token(user)}"} if user else {}
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as client:
            return client.request(method, path, headers=headers, json=body)

    def _token(self, user: str) -> str:
        """Log in; :attr:`token` remembers it."""
        login = {"username": user, "password": user}
        answer = self.request("POST", "/auth/token", user=None, body=login).raise_for_status()
        return str(answer.json()["access_token"])

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._server
            assert self._server.poll() is None, f"the api-server has ended:\n{self.log}"
            assert time.monotonic() < deadline, f"no answer in {START_SECONDS} s:\n{self.log}"
            try:
                if self.request("GET", "/api/v2/monitor/health", user=None).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.2)

    def _stop(self) -> None:
        if self._server is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._server.poll() is None:
                os.killpg(self._server.pid, number)
            try:
                self._server.wait(15)
                return
            except subprocess.TimeoutExpired:
                continue


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}


def _settings(home: Path, dags: Path, port: int, users: Mapping[str, str] | None) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__FERNET_KEY": b64encode(os.urandom(32), b"-_").decode(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(users is None),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in (users or {}).items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": os.urandom(32).hex(),
        "AIRFLOW__API_AUTH__JWT_SECRET": os.urandom(64).hex(),
    }

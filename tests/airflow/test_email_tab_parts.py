"""What Airflow needs to know of the Email tab before anybody opens it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG

from airflow_smtp_interface.operators.email_actor import EmailActorOperator
from airflow_smtp_interface.operators.links import SentEmailLink
from airflow_smtp_interface.plugins import SmtpInterfacePlugin
from airflow_smtp_interface.provider_info import get_provider_info

KEY = {"dag_id": "a", "run_id": "manual__2026-05-04T06:00:00+00:00 50%", "task_id": "group.mail", "map_index": -1}
PAGE = "/dags/a/runs/manual__2026-05-04T06%3A00%3A00%2B00%3A00%2050%25/tasks/group.mail"


@pytest.mark.parametrize("base", ["", "https://airflow.example.com/team/"])
@pytest.mark.parametrize(("map_index", "mapped"), [(-1, ""), (3, "/mapped/3")])
def test_the_link_leads_to_the_tab_of_its_task_instance(
    monkeypatch: pytest.MonkeyPatch, base: str, map_index: int, mapped: str
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    key = SimpleNamespace(**{**KEY, "map_index": map_index})
    link = SentEmailLink().get_link(None, ti_key=key)
    assert link == f"{base.rstrip('/')}{PAGE}{mapped}/plugin/sent-email"


def test_each_task_that_sends_mail_has_the_link() -> None:
    with DAG("dag"):
        task = EmailActorOperator(task_id="mail", subject="s", body="b")
    assert [link.name for link in task.operator_extra_links] == ["Sent email"]
    assert get_provider_info()["extra-links"] == [f"{SentEmailLink.__module__}.{SentEmailLink.__name__}"]


PLUGIN = """
import sys
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
before = set(sys.modules)
from airflow_smtp_interface.plugins import SmtpInterfacePlugin
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert new <= {"airflow_smtp_interface"}, new
print(SmtpInterfacePlugin.external_views[0]["url_route"])
"""


def test_scheduler_and_workers_import_no_web_framework_for_the_tab() -> None:
    run = subprocess.run([sys.executable, "-c", PLUGIN], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["sent-email"]


def test_the_tabs_address_is_relative_because_a_proxy_may_put_airflow_below_a_path() -> None:
    assert SmtpInterfacePlugin.external_views[0]["href"].startswith("smtp_interface/sent?")


def test_an_xcom_of_anybodys_is_not_deserialized() -> None:
    from airflow_smtp_interface.plugins.email_tab import _record

    value = {"__classname__": "airflow.no.such.Class", "__version__": 1, "__data__": {}}
    assert _record(SimpleNamespace(value=value)) is value


def test_airflow_finds_the_plugin() -> None:
    command = [sys.executable, "-m", "airflow", "plugins", "--output", "json"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "smtp_interface" in run.stdout

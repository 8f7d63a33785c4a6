"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
from airflow_smtp_interface.inbox import Inbox
from airflow_smtp_interface.mail.connection_fields import _EXTRAS
from airflow_smtp_interface.mail.message import Email
from tests.airflow.running import run_dag

README = Path(__file__).parents[2] / "README.md"


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_dag_runs_and_its_mail_arrives(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_REPORT_RECIPIENTS", "a@example.com")
    names: dict[str, object] = {}
    exec(code("python")[0], names)
    run = run_dag(names["dag"])  # type: ignore[arg-type]
    assert str(run.state) == "success"
    (mail,) = inbox.mails
    assert mail.recipients == ("a@example.com",)
    assert b"values are escaped: &lt;b&gt; &amp; co" in mail.content


def test_the_hook_is_used_as_shown(inbox: Inbox) -> None:
    exec(code("python")[1], {"SmtpInterfaceHook": SmtpInterfaceHook, "Email": Email})
    assert sorted(mail.message["Subject"] for mail in inbox.mails) == ["Done", "one", "two"]


def test_the_connection_is_read_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [line for block in code("bash") for line in block.splitlines() if line.startswith("export")]
    name, _, uri = line.removeprefix("export ").partition("=")
    monkeypatch.setenv(name, uri.strip("'"))
    settings = SmtpInterfaceHook().settings
    assert (settings.host, settings.port, settings.user, settings.password) == (
        *("smtp.example.com", 587),
        *("user", "p@ss"),
    )


def test_the_readme_names_every_field_of_the_connection() -> None:
    assert not [key for key in _EXTRAS if f"`{key}`" not in README.read_text()]

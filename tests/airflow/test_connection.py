"""The connection type: Airflow finds it, draws its form, and reads it from wherever connections are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.sdk import BaseHook

from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook
from airflow_smtp_interface.mail.addresses import addr_spec
from airflow_smtp_interface.mail.connection_fields import _EXTRAS
from airflow_smtp_interface.mail.errors import InvalidSettings
from airflow_smtp_interface.mail.settings import Pipelining, Security, SmtpSettings
from airflow_smtp_interface.provider_info import get_provider_info

INFO: dict[str, Any] = get_provider_info()
TYPE = INFO["connection-types"][0]
AIRFLOW = Path(airflow.__file__).parent


def test_provider_info_is_what_airflows_schemas_ask_for() -> None:
    jsonschema.validate(INFO, json.loads((AIRFLOW / "provider_info.schema.json").read_text()))
    authoring = json.loads((AIRFLOW / "provider.yaml.schema.json").read_text())
    jsonschema.validate(INFO["connection-types"], authoring["properties"]["connection-types"])


def test_the_forms_fields_are_the_settings() -> None:
    assert list(TYPE["conn-fields"]) == list(_EXTRAS)
    defaults = {field.name: field.default for field in fields(SmtpSettings)}
    for key, field in TYPE["conn-fields"].items():
        default = defaults[_EXTRAS[key][0]]
        assert field["schema"].get("default") == (default if default not in (None, ()) else None), key
        assert "null" in field["schema"]["type"], f"{key} would get a red star"
    assert TYPE["conn-fields"]["security"]["schema"]["enum"] == list(Security)
    assert TYPE["conn-fields"]["pipelining"]["schema"]["enum"] == list(Pipelining)


def test_airflow_finds_the_hook_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", "smtp-interface://host")
    hook = BaseHook.get_hook("mail")
    assert isinstance(hook, SmtpInterfaceHook)
    assert hook.smtp_interface_conn_id == "mail"


FORM = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
(form,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "smtp_interface"]
print("FORM", json.dumps(form.model_dump()))
"""


def test_airflows_api_serves_the_form() -> None:
    # A process of its own, as the api-server is: Airflow 3.1 mocks wtforms for it before anything reads the hooks.
    run = subprocess.run([sys.executable, "-c", FORM], check=True, capture_output=True, text=True)
    form = json.loads(run.stdout.rpartition("FORM ")[2])
    assert list(form["extra_fields"]) == list(TYPE["conn-fields"])
    for key, field in form["extra_fields"].items():
        expected = TYPE["conn-fields"][key]
        assert field["schema"]["title"] == expected["label"]
        assert field["value"] == expected["schema"].get("default")
        assert field["description"] == expected["description"]
        assert field["schema"].get("enum") == expected["schema"].get("enum")
    assert form["standard_fields"]["login"]["title"] == "User"
    assert form["standard_fields"]["url_schema"]["hidden"]


def from_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> SmtpSettings:
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", text)
    return SmtpInterfaceHook("mail").settings


def check(settings: SmtpSettings) -> None:
    assert (settings.host, settings.port, settings.user, settings.password) == ("host", 587, "user", "p@ss")
    assert [addr_spec(each) for each in settings.recipients] == ["a@x.org", "b@x.org"]
    assert addr_spec(settings.sender) == "me@x.org"  # type: ignore[arg-type]
    assert (settings.active, settings.timeout, settings.name) == (False, 2.5, "mail")


def test_a_connection_is_read_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"to": ["a@x.org", "b@x.org"], "from": "me@x.org", "active": False, "timeout": 2.5, "redirect_to": None}
    connection = {"conn_type": "smtp_interface", "host": "host", "port": 587, "login": "user", "password": "p@ss"}
    check(from_environment(monkeypatch, json.dumps({**connection, "extra": extra})))


def test_a_connection_is_read_from_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "smtp-interface://user:p%40ss@host:587/?to=a%40x.org%2C+b%40x.org&from=me%40x.org&active=false&timeout=2.5"
    check(from_environment(monkeypatch, uri))


def test_a_connection_is_read_from_airflow_connections_add() -> None:
    command = [sys.executable, "-m", "airflow", "connections", "add", "mail", "--conn-type", "smtp_interface"]
    options = {"host": "host", "port": "587", "login": "user", "password": "p@ss"}
    extra = {"to": "a@x.org; b@x.org", "from": "me@x.org", "active": False, "timeout": 2.5}
    for name, value in {**options, "extra": json.dumps(extra)}.items():
        command += [f"--conn-{name}", value]
    subprocess.run(command, check=True, capture_output=True)
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        stored = session.query(Connection).filter_by(conn_id="mail").one()
        check(SmtpSettings.from_connection(stored))


def test_a_misspelt_field_is_an_error_not_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match=r"connection 'mail' cannot be used:\n- activ: .* did you mean active\?"):
        from_environment(monkeypatch, "smtp-interface://host/?activ=false")

"""The connection form, drawn by a real Airflow: what it shows, what it stores, and what its test button answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from playwright.sync_api import expect

from airflow_smtp_interface.inbox import Inbox
from airflow_smtp_interface.provider_info import get_provider_info
from tests.browser.airflow_site import AIRFLOW_VERSION, AirflowSite
from tests.browser.connection_form import EXTRA, STANDARD, ConnectionForm, Field, press_test
from tests.peers.fault_server import Authority, FaultServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

FIELDS: dict[str, Any] = get_provider_info()["connection-types"][0]["conn-fields"]  # type: ignore[index]
PASSWORD = "correct horse battery"
HAS_LINES = AIRFLOW_VERSION >= (3, 2)
"""Airflow 3.1 knows no multiline field from a hook."""


@pytest.fixture(autouse=True)
def connections(site: AirflowSite) -> Iterator[None]:
    """There are none before a test, and none after it."""

    def delete() -> None:
        for each in site.request("GET", "/api/v2/connections").json()["connections"]:
            site.request("DELETE", f"/api/v2/connections/{each['connection_id']}").raise_for_status()

    delete()
    yield
    delete()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """A mail server that lets in only who knows the password."""

    def check(server: object, session: object, envelope: object, mechanism: str, data: LoginPassword) -> AuthResult:
        return AuthResult(success=data == LoginPassword(b"reports", PASSWORD.encode()), handled=False, auth_data=data)

    with Inbox(authenticator=check) as server:
        yield server


def store(site: AirflowSite, server: Inbox | FaultServer, *, password: str = PASSWORD) -> None:
    """Store a connection without the form."""
    extra = {"to": "alice@example.com", "from": "reports@example.com", "security": "none", "connect_attempts": 1}
    connection = {"connection_id": "smtp_interface_default", "conn_type": "smtp_interface", "extra": json.dumps(extra)}
    address = {"host": server.host, "port": server.port, "login": "reports", "password": password}
    site.request("POST", "/api/v2/connections", body={**connection, **address}).raise_for_status()


def expected(field: dict[str, Any]) -> Field:
    schema = field["schema"]
    kind = {"string": "text", "boolean": "switch", "number": "number", "integer": "number"}[schema["type"][0]]
    default = schema.get("default", "")
    if "enum" in schema:
        kind = "select"
    elif schema.get("format") == "multiline" and HAS_LINES:
        kind = "lines"
    value = {True: "on", False: "off"}[default] if kind == "switch" else str(default)
    return Field(label=field["label"], help=field["description"], kind=kind, value=value)


def test_the_form_draws_every_field_in_order_with_label_help_and_default(page: Page) -> None:
    drawn = ConnectionForm.add(page, "smtp_interface_default").fields(EXTRA)
    assert drawn == [expected(field) for field in FIELDS.values()]
    assert [field.label for field in drawn[:4]] == ["To", "From", "Active", "Security"]


def test_the_selects_offer_their_choices(page: Page) -> None:
    form = ConnectionForm.add(page, "smtp_interface_default")
    form.open_section(EXTRA)
    selects = [field for field in FIELDS.values() if "enum" in field["schema"]]
    assert [field["label"] for field in selects] == ["Security", "Pipelining"]
    for field in selects:
        assert form.choose(field["label"], field["schema"]["default"]) == field["schema"]["enum"]


def test_the_standard_fields_are_those_of_a_mail_server(page: Page) -> None:
    form = ConnectionForm.add(page, "smtp_interface_default")
    assert [(field.label, field.kind, field.placeholder) for field in form.fields(STANDARD)] == [
        ("Description", "lines", ""),
        ("Host", "text", "smtp.example.com"),
        ("User", "text", "user@example.com"),
        ("Password", "text", ""),
        ("Port", "number", "587 (STARTTLS), 465 (TLS), 25 (none)"),
    ]


def test_the_password_is_dots(page: Page) -> None:
    form = ConnectionForm.add(page, "smtp_interface_default")
    form.fill(STANDARD, {"password": PASSWORD})
    expect(form.dialog.locator("[name=password]")).to_have_attribute("type", "password")


def fill_in(form: ConnectionForm, *, host: str, port: int) -> None:
    form.fill(STANDARD, {"host": host, "login": "reports", "password": PASSWORD, "port": str(port)})
    form.fill(EXTRA, {"element_to": "alice@example.com, bob@example.com", "element_from": "reports@example.com"})


STORED: dict[str, Any] = {
    **{key: field["schema"].get("default") for key, field in FIELDS.items()},
    "to": "alice@example.com, bob@example.com",
    "from": "reports@example.com",
    "security": "starttls",
}


def test_what_is_filled_in_is_stored_typed_and_the_password_is_masked(
    page: Page, site: AirflowSite, take_picture: Callable[..., Path]
) -> None:
    form = ConnectionForm.add(page, "smtp_interface_default")
    fill_in(form, host="smtp.example.com", port=587)
    take_picture(page, "connection-form", top=form.dialog, bottom=form.field("Security"))
    form.choose("Security", "starttls")
    form.save()

    answer = site.request("GET", "/api/v2/connections/smtp_interface_default")
    stored = answer.json()
    assert json.loads(stored["extra"]) == STORED
    assert [stored[name] for name in ("conn_type", "host", "port", "login", "password", "schema")] == [
        *("smtp_interface", "smtp.example.com", 587, "reports", "***", None)
    ]
    assert PASSWORD not in answer.text


def test_a_stored_connection_opens_as_it_was_filled_in(page: Page) -> None:
    form = ConnectionForm.add(page, "smtp_interface_default")
    fill_in(form, host="smtp.example.com", port=587)
    form.field("Active").locator("[data-part=control]").click()
    form.choose("Security", "tls")
    filled = [form.fields(STANDARD), form.fields(EXTRA)]
    form.save()

    form = ConnectionForm.edit(page, "smtp_interface_default")
    standard, extra = form.fields(STANDARD), form.fields(EXTRA)
    assert [field.value for field in standard] == ["", "smtp.example.com", "reports", "***", "587"]
    assert [field.label for field in standard] == [field.label for field in filled[0]]
    assert extra == filled[1]
    assert [field.value for field in extra[:4]] == [
        "alice@example.com, bob@example.com",
        "reports@example.com",
        "off",
        "tls",
    ]


def test_test_connection_logs_in_with_the_stored_password_and_does_not_show_it(
    page: Page, site: AirflowSite, inbox: Inbox, take_picture: Callable[..., Path]
) -> None:
    store(site, inbox)
    page.set_viewport_size({"width": 1000, "height": 460})
    message = press_test(page, "smtp_interface_default")
    expect(message).to_contain_text("Successful")
    expect(message).to_contain_text(f"{inbox.host}:{inbox.port}")
    take_picture(page, "test-connection")
    assert PASSWORD not in page.content()


def test_a_pasted_ca_certificate_is_trusted(page: Page) -> None:
    authority = Authority()
    with FaultServer(tls=authority.context()) as server:
        form = ConnectionForm.add(page, "smtp_interface_default")
        form.fill(STANDARD, {"host": "localhost", "port": str(server.port)})
        form.fill(EXTRA, {"element_ca_certificate": authority.pem})  # Airflow 3.1 loses its line breaks
        form.save()
        message = press_test(page, "smtp_interface_default")
        expect(message).to_contain_text("Successful")


def test_a_refused_login_is_shown_without_the_password_that_the_server_repeats(page: Page, site: AirflowSite) -> None:
    with FaultServer(auth=("PLAIN",), auth_before_tls=True, users={"reports": "another"}) as server:
        store(site, server)
        message = press_test(page, "smtp_interface_default")
        expect(message).to_contain_text("Failed")
        expect(message).to_contain_text(f"{server.host}:{server.port}")
    assert [each.password for each in server.auths] == [PASSWORD]
    assert PASSWORD not in page.content()


def test_a_dag_mails_through_the_connection_that_was_filled_in_by_hand_and_the_tab_shows_its_mail(
    page: Page, site: AirflowSite, inbox: Inbox
) -> None:
    form = ConnectionForm.add(page, "by_hand")
    fill_in(form, host=inbox.host, port=inbox.port)
    form.choose("Security", "none")
    form.save()
    expect(press_test(page, "by_hand")).to_contain_text("Successful")

    run_id = site.run_dag("mail_through_the_form")
    (mail,) = inbox.mails
    assert mail.sender == "reports@example.com"
    assert mail.recipients == ("alice@example.com", "bob@example.com")
    assert mail.message["Subject"] == "Report of 2026-05-04"

    page.goto(site.task_url("mail_through_the_form", run_id, "send"))
    page.get_by_role("link", name="Email", exact=True).click()
    tab = page.frame_locator("iframe[src*='smtp_interface']")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Report of 2026-05-04")
    for recipient in mail.recipients:
        expect(tab.get_by_role("row", name=recipient)).to_contain_text("accepted")
    expect(tab.get_by_text("All rows were loaded.")).to_be_visible()
    expect(tab.get_by_text("***")).to_be_visible()  # the password, which the author has put into the mail
    assert PASSWORD in mail.message.get_content()
    assert PASSWORD not in tab.locator("html").inner_html()

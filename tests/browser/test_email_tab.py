"""The Email tab, seen in Chromium: what a task sent, for who may see it, the mail's HTML inert in its frame."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Frame, FrameLocator, Page, expect

from airflow_smtp_interface.inbox import Inbox
from tests.browser.accessibility import violations
from tests.browser.airflow_site import AirflowSite
from tests.browser.visit import Visit
from tests.peers.fault_server import Fault, FaultServer

pytestmark = pytest.mark.browser

TAB = "plugin/sent-email"
PHONE = {"width": 390, "height": 844}


class Elsewhere(ThreadingHTTPServer):
    """A web server that a mail's HTML points to; it notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Elsewhere

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server_elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def elsewhere(server_elsewhere: Elsewhere) -> Elsewhere:
    """Nothing has been asked of it yet in this test."""
    server_elsewhere.asked.clear()
    return server_elsewhere


@pytest.fixture(scope="module")
def run_id(site: AirflowSite, server_elsewhere: Elsewhere) -> Iterator[str]:
    """A finished run of the Dag, with its mails in an inbox."""
    variable = {"key": "elsewhere", "value": server_elsewhere.url}
    site.request("POST", "/api/v2/variables", body=variable).raise_for_status()
    with (
        Inbox() as inbox,
        FaultServer(plan=[Fault(stage="rcpt", address="gone@example.com", action="550 5.1.1 gone")]) as faulty,
    ):
        for conn_id, server in (("by_hand", inbox), ("faulty", faulty)):
            connection = {
                "connection_id": conn_id,
                "conn_type": "smtp_interface",
                "host": server.host,
                "port": server.port,
            }
            extra = '{"security": "none", "from": "Reports <reports@example.com>", "to": "team@example.com"}'
            site.request("POST", "/api/v2/connections", body={**connection, "extra": extra}).raise_for_status()
        yield site.run_dag("mails")
        assert len(inbox.mails) == 5


@pytest.fixture
def show(site: AirflowSite, page: Page, run_id: str) -> Callable[..., FrameLocator]:
    """Open a task's Email tab and return what is in it."""

    def open_tab(task_id: str, *, map_index: int = -1, run: str = run_id) -> FrameLocator:
        page.goto(site.task_url("mails", run, task_id, map_index=map_index))
        page.get_by_role("link", name="Email", exact=True).click()
        return page.frame_locator("iframe[src*='smtp_interface']")

    return open_tab


def frame_of(page: Page) -> Frame:
    """Return our page's frame."""
    (frame,) = [frame for frame in page.frames if "/smtp_interface/sent" in frame.url]
    return frame


def ours(visit: Visit) -> list[str]:
    """Return what the console says of our pages, without what the policy keeps the mail's HTML from."""
    kept_out = re.compile(r"Content Security Policy|sandboxed|violates the following|ERR_BLOCKED_BY_CSP", re.IGNORECASE)
    return [text for url, text in visit.complaints if "smtp_interface" in url and not kept_out.search(text)]


def test_the_tab_shows_what_the_task_sent(
    show: Callable[..., FrameLocator], admin: Visit, take_picture: Callable[..., Path]
) -> None:
    tab = show("report")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Sales of 2026-05-04")
    for words in ("Reports <reports@example.com>", "Ann Müller <ann@example.com>", "audit@example.com"):
        expect(tab.locator("dl")).to_contain_text(words)
    expect(tab.get_by_role("row")).to_have_count(5)
    for address in ("ann@example.com", "sales@example.com", "audit@example.com", "archive@example.com"):
        expect(tab.get_by_role("row", name=address)).to_contain_text("accepted")
        expect(tab.get_by_role("row", name=address)).to_contain_text("250 2.0.0 OK")
    expect(tab.get_by_text("sales-2026-05-04.csv")).to_be_visible()
    body = tab.frame_locator("iframe")
    expect(body.get_by_role("heading")).to_have_text("Sales of 2026-05-04")
    take_picture(admin.page, "email-tab")
    tab.get_by_text("Headers", exact=True).click()
    expect(tab.get_by_text("Auto-Submitted: auto-generated")).to_be_visible()
    assert ours(admin) == []


def test_a_mail_with_scripts_and_remote_parts_stays_inert(
    show: Callable[..., FrameLocator], admin: Visit, elsewhere: Elsewhere
) -> None:
    tab = show("hostile")
    expect(tab.get_by_role("heading", level=1)).to_have_text("<script>alert(1)</script>")
    body = tab.frame_locator("iframe")
    expect(body.get_by_role("heading")).to_have_text("Inert")
    body.get_by_role("button", name="Press").click()
    body.get_by_role("link", name="Follow").click()
    body.get_by_role("link", name="Leave").click()
    body.get_by_role("link", name="Stay").click()
    admin.page.wait_for_timeout(1000)
    assert elsewhere.asked == []
    assert "taken over" not in admin.page.title()
    assert admin.page.url.endswith(TAB)
    expect(body.get_by_text("event handler ran")).to_have_count(0)
    expect(body.get_by_role("heading")).to_have_text("Inert")


def test_remote_images_and_nothing_else_are_loaded_when_the_reader_asks_for_them(
    show: Callable[..., FrameLocator], admin: Visit, elsewhere: Elsewhere
) -> None:
    tab = show("hostile")
    tab.get_by_role("link", name="Load remote images").click()
    expect(tab.get_by_role("link", name="Load remote images")).to_have_count(0)
    expect(tab.frame_locator("iframe").get_by_role("heading")).to_have_text("Inert")
    for _ in range(100):
        if len(elsewhere.asked) >= 2:
            break
        admin.page.wait_for_timeout(100)
    admin.page.wait_for_timeout(1000)  # for what must not come
    assert sorted(elsewhere.asked) == ["/background.png", "/pixel.png"]


def test_each_mapped_task_instance_shows_its_own_mail(show: Callable[..., FrameLocator]) -> None:
    for map_index, subject in enumerate(("For Ann", "For Bob")):
        tab = show("each", map_index=map_index)
        expect(tab.get_by_role("heading", level=1)).to_have_text(subject)


def test_a_failed_task_shows_who_has_the_mail_and_why_not_everybody(show: Callable[..., FrameLocator]) -> None:
    tab = show("refused")
    expect(tab.get_by_role("alert")).to_contain_text("550 5.1.1 gone")
    expect(tab.get_by_role("row", name="ann@example.com")).to_contain_text("accepted")
    expect(tab.get_by_role("row", name="gone@example.com")).to_contain_text("refused")


def test_bodies_that_were_not_kept_are_not_shown(show: Callable[..., FrameLocator]) -> None:
    tab = show("private")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Private")
    expect(tab.get_by_text("are not kept")).to_be_visible()
    expect(tab.get_by_text("Hidden words")).to_have_count(0)


@pytest.mark.parametrize("task_id", ["no_mail", "somebody_elses"])
def test_a_task_without_mail_says_how_to_send_one(
    show: Callable[..., FrameLocator], task_id: str, admin: Visit
) -> None:
    tab = show(task_id)
    expect(tab.get_by_role("heading", level=1)).to_have_text("No mail here")
    expect(tab.get_by_text("EmailActorOperator(")).to_be_visible()
    assert violations(frame_of(admin.page)) == []


def test_the_extra_link_leads_to_the_tab(site: AirflowSite, page: Page, run_id: str) -> None:
    page.goto(site.task_url("mails", run_id, "report", tab="details"))
    link = page.get_by_role("link", name="Sent email")
    assert link.get_attribute("href") == site.task_url("mails", run_id, "report", tab=TAB)
    page.goto(str(link.get_attribute("href")))
    tab = page.frame_locator("iframe[src*='smtp_interface']")
    expect(tab.get_by_role("heading", level=1)).to_contain_text("Sales of 2026-05-04")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_as_light_or_dark_as_airflow(
    show: Callable[..., FrameLocator], page: Page, scheme: str, take_picture: Callable[..., Path]
) -> None:
    page.add_init_script(f"localStorage.setItem('theme', '{scheme}')")
    tab = show("report")
    expect(tab.get_by_role("heading", level=1)).to_be_visible()
    expect(tab.frame_locator("iframe").get_by_role("heading")).to_be_visible()
    background = tab.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 29, 45)"}[scheme]
    assert violations(frame_of(page)) == []
    if scheme == "dark":
        take_picture(page, "email-tab-dark")


@pytest.mark.parametrize("task_id", ["hostile", "report"])
def test_the_page_fits_a_phone(
    site: AirflowSite, page: Page, run_id: str, take_picture: Callable[..., Path], task_id: str
) -> None:
    page.set_viewport_size(PHONE)
    query = f"dag_id=mails&run_id={run_id.replace('+', '%2B')}&task_id={task_id}&map_index={{MAP_INDEX}}"
    page.goto(f"{site.url}/smtp_interface/sent?{query}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert violations(page) == []
    if task_id == "report":
        take_picture(page, "email-tab-phone")


@pytest.mark.parametrize("name", ["with a space", "50%25 + more", "100% a+b", "a%41 & c=d"])
def test_run_ids_may_hold_spaces_and_signs(site: AirflowSite, page: Page, run_id: str, name: str) -> None:
    with renamed_run(site, run_id, name):
        page.goto(site.task_url("mails", name, "report", tab=TAB))
        tab = page.frame_locator("iframe[src*='smtp_interface']")
        expect(tab.get_by_role("heading", level=1)).to_contain_text("Sales of 2026-05-04")


def test_a_run_that_was_deleted_meanwhile_is_said_to_be_gone(site: AirflowSite, page: Page, run_id: str) -> None:
    page.goto(f"{site.url}/smtp_interface/sent?dag_id=mails&run_id=deleted&task_id=report&map_index=-1")
    expect(page.get_by_role("heading", level=1)).to_have_text("No such task instance")


@contextmanager
def renamed_run(site: AirflowSite, old: str, new: str) -> Iterator[None]:
    """Let a run have another id for a while; Airflow's own ways to make a run keep to a pattern."""

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(site.home / "airflow.db", timeout=30)) as database, database:
            for table in ("dag_run", "task_instance", "xcom"):
                database.execute(f"update {table} set run_id = ? where run_id = ?", (new, old))

    rename(old, new)
    try:
        yield
    finally:
        rename(new, old)


PLACES = [
    "sent?dag_id=mails&run_id={run}&task_id=report&map_index=-1",
    "sent?dag_id=unheard_of&run_id=x&task_id=report",
    "sent",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("user", "status"), [(None, 401), ("nobody", 403)])
def test_who_may_not_read_the_xcoms_learns_nothing(
    site: AirflowSite, run_id: str, place: str, user: str | None, status: int
) -> None:
    answer = site.request("GET", f"/smtp_interface/{place.format(run=run_id.replace('+', '%2B'))}", user=user)
    assert answer.status_code == status
    assert "Sales" not in answer.text
    assert "text/html" not in answer.headers["Content-Type"]


def test_an_admin_may_read_it(site: AirflowSite, run_id: str) -> None:
    answer = site.request("GET", f"/smtp_interface/{PLACES[0].format(run=run_id.replace('+', '%2B'))}")
    assert answer.status_code == 200
    assert "Sales of 2026-05-04" in answer.text


@pytest.mark.parametrize("path", ["docs", "openapi.json", "redoc", "", "static/x"])
def test_the_application_has_no_other_pages(site: AirflowSite, path: str) -> None:
    assert site.request("GET", f"/smtp_interface/{path}").status_code == 404


def test_of_a_dag_named_twice_the_one_that_was_allowed_is_shown(site: AirflowSite, run_id: str) -> None:
    run = run_id.replace("+", "%2B")
    answer = site.request("GET", f"/smtp_interface/sent?dag_id=mails&dag_id=unheard_of&run_id={run}&task_id=report")
    assert "Sales" not in answer.text

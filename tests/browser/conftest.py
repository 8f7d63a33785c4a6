"""Debian's Chromium before a real Airflow, and a folder for the pictures that are taken on the way."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # only `make test-browser` installs it
else:
    from tests.browser.airflow_site import AIRFLOW_VERSION, AirflowSite
    from tests.browser.visit import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Locator, Page

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
PATIENCE = 30_000
README_VERSION = (3, 3)
LARGEST_PICTURE = 150_000
MARGIN = 16


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowSite]:
    """An Airflow with the Dags of this folder and three users: admin, viewer, and nobody, who may do nothing."""
    users = {"admin": "admin", "viewer": "viewer", "nobody": ""}
    with AirflowSite(tmp_path_factory.mktemp("airflow"), dags=HERE / "dags", users=users) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, for all tests."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser, site: AirflowSite) -> Iterator[Callable[[str], Visit]]:
    """Log in as one of the site's users, in a window of their own."""
    visits: list[Visit] = []

    def log_in(user: str) -> Visit:
        visits.append(Visit(browser, site.url, token=site.token(user)))
        return visits[-1]

    yield log_in
    for each in visits:
        each.close()


@pytest.fixture
def admin(visit: Callable[[str], Visit]) -> Visit:
    """An admin's visit."""
    return visit("admin")


@pytest.fixture
def page(admin: Visit) -> Page:
    """An admin's window."""
    return admin.page


@pytest.fixture(scope="session")
def take_picture() -> Callable[..., Path]:
    """Keep a picture: in the folder PICTURES, if it is set and this is the README's Airflow, else below build/."""
    folder = BUILD / "pictures-{}.{}".format(*AIRFLOW_VERSION)
    if AIRFLOW_VERSION >= README_VERSION:
        folder = Path(os.environ.get("PICTURES") or folder)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, *, top: Locator | None = None, bottom: Locator | None = None) -> Path:
        """Take the window, or from the top of one element, in its width, to the bottom of another."""
        path = folder / f"{name}.png"
        page.screenshot(path=path, animations="disabled", caret="hide", clip=_clip(top, bottom or top))
        assert path.stat().st_size < LARGEST_PICTURE
        return path

    return take


def _clip(top: Locator | None, bottom: Locator | None) -> FloatRect | None:
    if top is None or bottom is None:
        return None
    top.evaluate("element => element.scrollIntoView()")
    first, last = top.bounding_box(), bottom.bounding_box()
    assert first
    assert last
    return {**first, "height": last["y"] + last["height"] - first["y"] + MARGIN}

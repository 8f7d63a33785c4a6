"""One user's window in the browser, and what it complained about on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Error, Page

COOKIE = "_token"
"""Where Airflow keeps a session; a plugin's pages in a frame are authenticated by it."""


class Visit:
    """A window that always looks the same: size, language, time zone and colours are given.

    :param url: the site's.
    :param token: the user's, as ``AirflowSite.token`` returns it.
    """

    def __init__(self, browser: Browser, url: str, *, token: str) -> None:
        self.complaints: list[tuple[str, str]] = []  # (address of the page or script, text)
        self._context = browser.new_context(
            base_url=url,
            viewport={"width": 1280, "height": 900},
            locale="en-US",
            timezone_id="UTC",
            color_scheme="light",
            reduced_motion="reduce",
        )
        self._context.set_default_timeout(30_000)
        self._context.add_cookies([{"name": COOKIE, "value": token, "url": url}])
        self.page: Page = self._context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", self._on_error)

    def close(self) -> None:
        """Close the window."""
        self._context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append((message.location["url"], message.text))

    def _on_error(self, error: Error) -> None:
        self.complaints.append((self.page.url, str(error)))

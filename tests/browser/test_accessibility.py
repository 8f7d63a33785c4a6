"""The judge itself: axe-core finds what is wrong, in a frame within a frame too."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import pytest

from tests.browser.accessibility import violations

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

BAD = "<html lang='en'><title>Bad</title><main><h1>Bad</h1><img src='data:,'></main>"
GOOD = BAD.replace("<img", "<img alt='Good'")
POLICY = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"


def framed(html: str, *, attributes: str = "title='Inner'") -> str:
    return f'<html lang="en"><title>Outer</title><iframe {attributes} srcdoc="{escape(html)}"></iframe>'


@pytest.mark.parametrize("html", [BAD, POLICY + BAD])
def test_a_picture_without_words_is_found_in_its_frame_and_only_there(page: Page, html: str) -> None:
    page.set_content(framed(framed(html)))
    _, outer, inner = page.frames
    assert violations(outer) == []
    (line,) = violations(inner)
    assert line.startswith("critical: image-alt: ")
    assert '<img src="data:,">' in line


def test_a_page_that_is_all_right_has_no_violations(page: Page) -> None:
    page.set_content(framed(framed(GOOD)))
    assert [violations(each) for each in (page, *page.frames)] == [[], [], [], []]


def test_a_frame_where_no_script_may_run_is_not_judged(page: Page) -> None:
    page.set_content(framed(GOOD, attributes="title='Inner' sandbox"))
    with pytest.raises(AssertionError, match="no script may run"):
        violations(page.frames[-1])

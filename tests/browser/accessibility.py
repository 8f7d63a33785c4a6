"""axe-core's judgement of a page, or of one frame in it."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
RUN = """async () => (await axe.run(document, {iframes: false, resultTypes: ["violations"]})).violations"""
GRAVE = ("serious", "critical")


def violations(shown: Page | Frame) -> list[str]:
    """Return axe-core's serious and critical findings, one line for each element.

    A content policy does not hinder it, a sandbox without scripts does: axe-core would wait for a timer for ever.

    :param shown: a page without the frames in it, or one frame.
    """
    frame = getattr(shown, "main_frame", shown)
    while frame.parent_frame:
        sandbox = frame.frame_element().get_attribute("sandbox")
        assert sandbox is None or "allow-scripts" in sandbox, "no script may run in this frame, and axe-core is one"
        frame = frame.parent_frame
    shown.evaluate(AXE)
    return [
        f"{rule['impact']}: {rule['id']}: {rule['help']}: {node['html']}"
        for rule in shown.evaluate(RUN)
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]

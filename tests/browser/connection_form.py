"""Airflow's connection form and list, as a user meets them: read and handled through labels, roles and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FIELD = "[data-scope=field][data-part=root]"
STANDARD, EXTRA = "Standard Fields", "Extra Fields"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field as it is drawn.

    :param kind: text, lines, number, switch or select.
    :param value: a switch says on or off.
    """

    label: str
    help: str
    kind: str
    value: str
    placeholder: str = ""


class ConnectionForm:
    """The dialog, open."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.dialog = page.get_by_role("dialog")
        expect(self.dialog).to_be_visible()

    @classmethod
    def add(cls, page: Page, conn_id: str, *, kind: str = "SMTP interface") -> ConnectionForm:
        """Open the form for a new connection and choose its type."""
        page.goto("/connections")
        page.get_by_role("button", name="Add Connection").click()
        form = cls(page)
        form.dialog.locator("[name=connection_id]").fill(conn_id)
        form.dialog.get_by_role("combobox").first.click()
        page.get_by_role("option", name=kind, exact=True).click()
        return form

    @classmethod
    def edit(cls, page: Page, conn_id: str) -> ConnectionForm:
        """Open the form for a connection that is there."""
        row(page, conn_id).get_by_role("button", name="Edit Connection").click()
        return cls(page)

    def open_section(self, name: str) -> Locator:
        """Unfold a section; Airflow folds the others then."""
        button = self.page.get_by_role("button", name=name, exact=True)
        section = self.dialog.locator("[data-scope=accordion][data-part=item]").filter(has=button)
        if section.get_attribute("data-state") != "open":
            section.get_by_role("button", name=name, exact=True).click()
        expect(section.locator(FIELD).first).to_be_visible()
        return section

    def fields(self, section: str) -> list[Field]:
        """Read a section's fields from top to bottom."""
        return [_read(field) for field in self.open_section(section).locator(FIELD).all()]

    def fill(self, section: str, values: dict[str, str]) -> None:
        """Fill in a section's fields by their names in the form, ``host`` or ``element_to``."""
        for name, value in values.items():
            self.open_section(section).locator(f"[name={name}]").fill(value)

    def field(self, label: str) -> Locator:
        """Find an unfolded field by its label."""
        return self.dialog.locator(FIELD).filter(has=self.page.get_by_text(label, exact=True)).filter(visible=True)

    def choose(self, label: str, choice: str) -> list[str]:
        """Choose from a select and return what it offered."""
        self.field(label).get_by_role("combobox").click()
        offered = self.page.get_by_role("option").filter(visible=True)
        expect(offered.first).to_be_visible()
        texts = offered.all_inner_texts()
        offered.get_by_text(choice, exact=True).click()
        return texts

    def save(self) -> None:
        """Press Save; the dialog closes when the server has taken the connection."""
        self.dialog.get_by_role("button", name="Save").click()
        expect(self.dialog).to_be_hidden()


def row(page: Page, conn_id: str) -> Locator:
    """Find a connection in the list."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=conn_id, exact=True))


def press_test(page: Page, conn_id: str) -> Locator:
    """Press Test Connection in the list and return the message that pops up."""
    if row(page, conn_id).count() == 0:
        page.goto("/connections")
    row(page, conn_id).get_by_role("button", name="Test Connection").click()
    message = page.get_by_role("status").filter(has_text="Test Connection")
    expect(message).to_be_visible()
    return message


def _read(field: Locator) -> Field:
    hint = field.locator("[data-part=helper-text]")
    kind, value = _kind_and_value(field)
    control = field.locator("input:visible, textarea:visible")
    return Field(
        label=field.locator("[data-scope=field][data-part=label]").inner_text().strip(),
        help=hint.inner_text() if hint.count() else "",
        kind=kind,
        value=value,
        placeholder=(control.first.get_attribute("placeholder") or "") if control.count() else "",
    )


def _kind_and_value(field: Locator) -> tuple[str, str]:
    if field.locator("[type=checkbox]").count():
        return "switch", "on" if field.locator("[type=checkbox]").is_checked() else "off"
    if field.get_by_role("combobox").count():
        stored = field.locator("input[type=hidden]")  # beside the combobox on 3.2 and 3.3, whose own text is empty
        return "select", stored.input_value() if stored.count() else field.get_by_role("combobox").inner_text().strip()
    if field.get_by_role("spinbutton").count():
        return "number", field.get_by_role("spinbutton").input_value()
    if field.locator("textarea").count():
        return "lines", field.locator("textarea").input_value()
    return "text", field.locator("input").input_value()

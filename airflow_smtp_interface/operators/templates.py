"""Rendering what Airflow leaves as it is: the names of attachments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.attachment import Attachment

if TYPE_CHECKING:
    from collections.abc import Callable


def render_attachments(attachments: object, render: Callable[[object], object]) -> object:
    """Render paths and, other than Airflow does, the keys of a mapping: they are the names shown.

    :param render: Airflow's rendering of one value.
    """
    if isinstance(attachments, Mapping):
        return {render(name): _render_one(source, render) for name, source in attachments.items()}
    if isinstance(attachments, (list, tuple)):
        return [_render_one(source, render) for source in attachments]
    return _render_one(attachments, render)


def _render_one(source: object, render: Callable[[object], object]) -> object:
    # Airflow 3.1 would take Path.resolve for the resolving of an XCom.
    is_path = isinstance(source, os.PathLike) and not hasattr(source, "protocol")
    return source if is_path or isinstance(source, (bytes, Attachment)) else render(source)

"""Rendering what Dag authors write: HTML bodies with escaped values, texts that stay texts, names of attachments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jinja2.nativetypes
from airflow.sdk import BaseOperator

from airflow_smtp_interface.mail.attachment import Attachment
from airflow_smtp_interface.mail.values import parse_bool
from airflow_smtp_interface.operators.exceptions import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from airflow_smtp_interface.mail.attachment import AttachmentsInput

_TEXTS = frozenset({"subject", "body", "text", "attachment", "attachment_name", "headers"})
"""Fields that are text whatever they look like, also where the Dag renders native objects."""


class RenderedTexts(BaseOperator):
    """Renders the fields of an operator that sends mail; Airflow calls it for mapped tasks too."""

    is_html: bool | str
    autoescape: bool
    attachments: AttachmentsInput

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render each field with the environment that fits it."""
        for field in template_fields:
            environment = jinja_env if parent is not self or field not in _TEXTS else self._text_environment(field)
            if parent is self and field == "attachments":
                render = partial(self.render_template, context=context, jinja_env=environment, seen_oids=seen_oids)
                self.attachments = _render_attachments(self.attachments, render)
            else:
                super()._do_render_template_fields(parent, (field,), context, environment, seen_oids)

    def _text_environment(self, field: str) -> jinja2.Environment:
        """Return an environment that renders text: a native one makes the body ``1`` a number and escapes nothing."""
        dag = self.get_dag()
        environment = dag.get_template_env(force_sandboxed=True) if dag else self.get_template_env()
        value = getattr(self, field)
        return environment.overlay(
            autoescape=field == "body" and self.autoescape and self._is_html(),
            # Jinja drops the last line break and turns CRLF into LF, which would change the bytes of a file.
            keep_trailing_newline=field in ("body", "text", "attachment"),
            newline_sequence="\r\n" if isinstance(value, str) and "\r\n" in value else "\n",
        )

    def _is_html(self) -> bool:
        try:
            return parse_bool(self.is_html)
        except ValueError as error:
            raise AirflowFailException(f"is_html: {error}") from error

    def _render(self, template: jinja2.Template, context: Context, dag: Any = None) -> Any:
        """Let the environment of the template decide what it renders to, not the Dag."""
        if isinstance(template.environment, jinja2.nativetypes.NativeEnvironment):
            return super()._render(template, context, dag)
        return template.render(context)


def _render_attachments(attachments: Any, render: Callable[[Any], Any]) -> Any:
    """Render paths and, other than Airflow does, the keys of a mapping: they are the names shown."""
    if isinstance(attachments, Mapping):
        return {render(name): _render_one(source, render) for name, source in attachments.items()}
    if isinstance(attachments, (list, tuple)):
        return [_render_one(source, render) for source in attachments]
    return _render_one(attachments, render)


def _render_one(source: Any, render: Callable[[Any], Any]) -> Any:
    # Airflow 3.1 would take Path.resolve for the resolving of an XCom.
    is_path = isinstance(source, os.PathLike) and not hasattr(source, "protocol")
    return source if is_path or isinstance(source, (bytes, Attachment)) else render(source)

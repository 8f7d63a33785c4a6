"""Rendering what Dag authors write: HTML bodies with escaped values, texts that stay texts, names of attachments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jinja2.nativetypes
from airflow.sdk import BaseOperator

from airflow_smtp_interface.operators.exceptions import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from airflow_smtp_interface.mail.attachment import AttachmentsInput

_TEXTS = frozenset({"subject", "body", "text", "attachment", "attachment_name", "headers"})
"""Fields that are text whatever they look like, also where the Dag renders native objects."""
_DEFAULTS = {
    "recipients": "the interface's To would have got the mail; pass addresses, or leave it out",
    "sender": "the interface's From would have sent it; pass an address, or leave it out",
    "attachments": "the mail would have gone out without its files; pass [] for none",
}
"""Fields that a value lost upstream must not leave to their defaults, with what would have happened then."""
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


class RenderedTexts(BaseOperator):
    """Renders the fields of an operator that sends mail; Airflow calls it for mapped tasks too."""

    is_html: bool | str
    autoescape: bool
    attachments: AttachmentsInput

    def resolve_template_files(self) -> None:
        """Read template files, as Airflow does when it parses the Dag."""
        endings = tuple(self.template_ext)
        values = {field: getattr(self, field, None) for field in ("subject", "attachment_name")}
        super().resolve_template_files()
        for field, value in values.items():
            if isinstance(value, str) and value.endswith(endings):
                # A file ends with a line break, which has no place in a header.
                setattr(self, field, getattr(self, field).removesuffix("\n"))

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render each field with the environment that fits it."""
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        for field in template_fields:
            value = getattr(self, field)
            given = value is not None or (field in _DEFAULTS and self._is_expanded(field, context))
            text_environment = self._text_environment(field, value)
            if field == "attachments":
                render = partial(self.render_template, context=context, seen_oids=seen_oids)
                self.attachments = _render_attachments(value, render, whole=jinja_env, parts=text_environment)
            elif field not in _TEXTS:
                super()._do_render_template_fields(self, (field,), context, jinja_env, seen_oids)
            elif not (isinstance(value, str) and self._is_verbatim(value, text_environment)):
                super()._do_render_template_fields(self, (field,), context, text_environment, seen_oids)
            if given and field in _DEFAULTS and getattr(self, field) is None:
                raise AirflowFailException(f"{field}: was given, but came to None, and {_DEFAULTS[field]}")

    def _is_expanded(self, field: str, context: Context) -> bool:
        """Whether a mapped task was given the field by ``expand`` or ``expand_kwargs``, be it None."""
        dag = self.get_dag()
        mapped: Any = dag.task_dict.get(self.task_id) if dag else None
        given: Mapping[str, object] = getattr(self, "_BaseOperator__init_kwargs", {})  # kept by Airflow
        if field not in given or not hasattr(mapped, "_get_specified_expand_input"):
            return False
        expanded, _ = mapped._get_specified_expand_input().resolve(context)
        return field in expanded

    def _text_environment(self, field: str, value: object) -> jinja2.Environment:
        """Return an environment that renders text: a native one makes the body ``1`` a number and escapes nothing."""
        dag = self.get_dag()
        environment = dag.get_template_env(force_sandboxed=True) if dag else self.get_template_env()
        is_file = isinstance(value, str) and value.endswith(tuple(self.template_ext))
        return environment.overlay(
            autoescape=field == "body" and self.autoescape and self._is_html(),
            # Jinja would drop the last line break without a word.
            keep_trailing_newline=field in ("body", "text", "attachment") or not is_file,
            newline_sequence=self._line_break(field, value, environment),
        )

    def _is_verbatim(self, value: str, environment: jinja2.Environment) -> bool:
        """Whether there is nothing to render, so that not even a line break may change."""
        marks = (environment.variable_start_string, environment.block_start_string, environment.comment_start_string)
        prefixes = environment.line_statement_prefix or environment.line_comment_prefix
        return not (prefixes or value.endswith(tuple(self.template_ext)) or any(mark in value for mark in marks))

    def _line_break(self, field: str, value: object, environment: jinja2.Environment) -> Any:
        """Find the line break of a template: Jinja makes all of them alike."""
        if field not in ("body", "text", "attachment") or not isinstance(value, str):
            return "\n"
        breaks = set(_LINE_BREAK.findall(value))
        if field != "attachment" and "\r" not in breaks:
            return "\n"  # LF and CRLF are the same in a text: it is sent with CRLF
        if len(breaks) > 1 and not self._is_verbatim(value, environment):
            raise AirflowFailException(
                f"{field}: the template mixes line breaks ({', '.join(sorted(map(repr, breaks)))}), which Jinja would "
                "make alike; use one of them, or pass the text as an upstream result"
            )
        return breaks.pop() if breaks else "\n"

    def _is_html(self) -> bool:
        from airflow_smtp_interface.mail.values import parse_bool

        try:
            return parse_bool(self.is_html)
        except ValueError as error:
            raise AirflowFailException(f"is_html: {error}") from error

    def _render(self, template: jinja2.Template, context: Context, dag: Any = None) -> Any:
        """Let the environment of the template decide what it renders to, not the Dag."""
        if isinstance(template.environment, jinja2.nativetypes.NativeEnvironment):
            return super()._render(template, context, dag)
        return template.render(context)


def _render_attachments(
    attachments: Any, render: Callable[..., Any], *, whole: jinja2.Environment, parts: jinja2.Environment
) -> Any:
    """Render paths and, other than Airflow does, the keys of a mapping: they are the names shown.

    :param render: Airflow's rendering of one value.
    :param whole: the environment for one template that gives all attachments.
    :param parts: the environment for a path or a name, which is text.
    """

    from airflow_smtp_interface.mail.attachment import Attachment

    def path(source: Any) -> Any:
        # Airflow 3.1 would take Path.resolve for the resolving of an XCom.
        is_path = isinstance(source, os.PathLike) and not hasattr(source, "protocol")
        return source if is_path or isinstance(source, (bytes, Attachment)) else render(source, jinja_env=parts)

    if isinstance(attachments, Mapping):
        rendered: dict[Any, Any] = {}
        for name, source in attachments.items():
            shown = render(name, jinja_env=parts)
            if shown in rendered:
                raise AirflowFailException(
                    f"attachments: two names render to {shown!r}, and one file would be lost; make the names differ"
                )
            rendered[shown] = path(source)
        return rendered
    if isinstance(attachments, (list, tuple)):
        return [path(source) for source in attachments]
    return render(attachments, jinja_env=whole) if isinstance(attachments, str) else path(attachments)

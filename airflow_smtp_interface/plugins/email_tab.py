"""What the api-server answers behind the Email tab: the mail of one task instance, for who may read its XComs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.xcom import XCom
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, Request
from starlette.responses import HTMLResponse

from airflow_smtp_interface.operators.keeping import KEY
from airflow_smtp_interface.viewer.message import ShownMessage
from airflow_smtp_interface.viewer.page import Page, mail_page, notice_page

_EXAMPLE = """from airflow_smtp_interface.operators.email_actor import EmailActorOperator

EmailActorOperator(
    task_id="send",
    recipients="team@example.com",
    subject="Report of {{ ds }}",
    body="All rows were loaded.",
)"""


def make_app() -> FastAPI:
    """Return the application. It answers nobody without the right to read the XComs of the Dag that is asked for."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.XCOM))],
    )
    app.get("/sent")(sent)
    return app


def sent(request: Request) -> HTMLResponse:
    """Show what a task instance sent; the query names ``dag_id``, ``run_id``, ``task_id``, ``map_index``."""
    # The same look-up of the query as in requires_access_dag: what was allowed is what is shown.
    query = request.query_params
    task_id = query.get("task_id", "")
    task = {"dag_id": query.get("dag_id"), "task_id": task_id, "map_index": _map_index(query)}
    lookups = (_look_up(run_id=run_id, **task) for run_id in _run_ids(request))
    found = next((found for found in lookups if found is not None), None)
    images_url = None if "images" in query else f"?{request.url.query}&images=remote"
    page = _page(found, task_id, images_url)
    return HTMLResponse(page.html, headers=page.headers)


def _page(found: Mapping[str, Any] | None, task_id: str, images_url: str | None) -> Page:
    """Show what was found.

    :param images_url: the same page with remote images; None where that is asked for already.
    """
    if found is None:
        return notice_page("No such task instance", "The run may have been deleted meanwhile.")
    try:
        message = ShownMessage.from_dict(found)
    except ValueError:
        return notice_page(
            "No mail here",
            f"Task {task_id} has sent no mail in its last try, or was told to keep nothing of it (keep_sent). "
            "Mail that a task sends through SmtpInterfaceHook is not shown here.",
            "A task that sends one:",
            example=_EXAMPLE,
        )
    return mail_page(message, remote_images=images_url is None, images_url=images_url)


def _look_up(**task_instance: Any) -> Mapping[str, Any] | None:
    """Return the record that a task instance left; empty if it left none, None if there is no such task instance."""
    with create_session() as session:
        row = session.query(XComModel).filter_by(key=KEY, **task_instance).first()
        if row is not None:
            return _record(row)
        return {} if session.query(TaskInstance.task_id).filter_by(**task_instance).first() else None


def _record(row: Any) -> Mapping[str, Any]:
    """Read an XCom. It may be anybody's, so nothing is deserialized but what a backend keeps elsewhere."""
    value = row.value
    try:
        if not isinstance(value, Mapping) and XCom is not BaseXCom:
            value = XCom.deserialize_value(row)
        value = json.loads(value) if isinstance(value, str) else value
    except Exception:  # noqa: BLE001 a backend may raise anything
        return {}
    return value if isinstance(value, Mapping) else {}


def _map_index(query: Mapping[str, str]) -> int:
    """Read the map index; Airflow leaves ``{MAP_INDEX}`` as it is where a task is not mapped."""
    text = query.get("map_index", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1


def _run_ids(request: Request) -> Iterable[str]:
    """Return the run id, also as Airflow 3.1 writes it: with nothing encoded but what the browser encodes."""
    written = re.search(r"(?:^|&)run_id=(.*)&task_id=", request.url.query)
    as_it_is = written[1].replace("%20", " ") if written else ""
    return dict.fromkeys((request.query_params.get("run_id", ""), as_it_is))

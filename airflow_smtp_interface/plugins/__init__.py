"""The Email tab of Airflow's pages: where it is, and who serves it. Every Airflow process imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from airflow_smtp_interface.operators.links import TAB

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/smtp_interface"
QUERY = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"


class _AppOnDemand:
    """The web application, imported by the first request: scheduler and workers have no use for it."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            from airflow_smtp_interface.plugins.email_tab import make_app

            self._app = make_app()
        await self._app(scope, receive, send)


class SmtpInterfacePlugin(AirflowPlugin):
    """A tab *Email* on each task instance, and the pages behind it."""

    name = "smtp_interface"
    external_views: list[dict[str, Any]] = [  # noqa: RUF012 as Airflow declares it
        {
            "name": "Email",
            "destination": "task_instance",
            "url_route": TAB,
            # Relative to Airflow's pages, which a proxy may have put below a path.
            "href": f"{PREFIX[1:]}/sent?{QUERY}",
        }
    ]
    fastapi_apps: list[dict[str, Any]] = [  # noqa: RUF012 as Airflow declares it
        {"app": _AppOnDemand(), "url_prefix": PREFIX, "name": "SMTP interface"}
    ]

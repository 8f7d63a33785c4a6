"""Tasks and Dags as Airflow runs them."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import airflow
from airflow.sdk import DAG

try:
    from airflow.sdk.exceptions import TaskDeferred
except ImportError:  # Airflow 3.1
    from airflow.exceptions import TaskDeferred

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

HAS_STORE = tuple(map(int, airflow.__version__.split(".")[:2])) >= (3, 3)
"""Whether Airflow has a task state store and retry policies."""


def run_task(operator: EmailActorOperator, *, map_index: int = -1, max_tries: int = 0, **context: Any) -> dict:
    """Render one task's templates and execute it, as a worker does."""
    full = _context(operator, map_index=map_index, max_tries=max_tries, **context)
    operator.render_template_fields(full)
    return operator.execute(full)


def run_through_waits(make: Callable[[], EmailActorOperator], **context: Any) -> tuple[dict, list[dict[str, Any]]]:
    """Run a deferrable task to its end as workers and the triggerer do: a fresh operator each time, JSON in between.

    ``dag.test()`` cannot show it: it drops the arguments of the deferral.

    :return: the result, and what went on over each wait.
    """
    went_on: list[dict[str, Any]] = []
    operator = make()
    run = partial(run_task, operator, **context)
    while True:
        try:
            return run(), went_on
        except TaskDeferred as deferred:
            assert type(deferred.trigger).__name__ == "TimeDeltaTrigger"  # noqa: PT017 the loop goes on
            went_on.append(json.loads(json.dumps(deferred.kwargs)))
            operator = make()
            full = _context(operator, **context)
            operator.render_template_fields(full)
            kwargs = {**went_on[-1], "event": "the moment"}
            run = partial(operator.resume_execution, deferred.method_name, kwargs, full)


def _context(operator: EmailActorOperator, *, map_index: int = -1, max_tries: int = 0, **more: Any) -> dict[str, Any]:
    names = {"dag_id": "dag", "run_id": "run", "task_id": operator.task_id, "map_index": map_index}
    return {"ti": TaskInstance(**names, max_tries=max_tries, xcoms=more.pop("xcoms", {})), "params": {}, **more}


@dataclass(frozen=True, kw_only=True)
class TaskInstance:
    """What a task sees of its task instance; XComs have to be JSON."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    max_tries: int
    xcoms: dict[str, Any]

    def xcom_push(self, key: str, value: Any) -> None:
        assert json.loads(json.dumps(value)) == value
        self.xcoms[key] = value


class Store:
    """A task state store that keeps JSON, as Airflow's does, for one task instance."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.writes: list[Any] = []

    def get(self, key: str) -> Any:
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        assert retention == timedelta.max, "a retry may come after any number of days"
        self.values[key] = json.dumps(value)
        self.writes.append(json.loads(self.values[key]))


class OutOfReach:
    """A file in a store that does not answer; ``ObjectStoragePath`` has these methods."""

    name = "report.csv"
    protocol = "s3"

    def is_file(self) -> bool:
        raise ConnectionRefusedError(111, "Connection refused")

    stat = open = is_file

    def __str__(self) -> str:
        return "s3://bucket/report.csv"


def mail_task(*, native: bool = False, folder: Path | None = None, **fields: Any) -> EmailActorOperator:
    """Make a task in a Dag of its own."""
    with DAG("dag", render_template_as_native_obj=native, template_searchpath=str(folder) if folder else None):
        return EmailActorOperator(**{"task_id": "mail", "subject": "s", "body": "b", **fields})


def load_dag(path: Path) -> DAG:
    """Import a Dag file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


def run_dag(dag: DAG) -> Any:
    """Run a whole Dag in this process, retries too, and return its DagRun."""
    _serialize(dag)
    return dag.test()


def _serialize(dag: DAG) -> None:
    """Store the Dag as the Dag processor would; ``dag.test()`` looks it up."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag, sync_bag_to_db

    with create_session() as session:
        if not session.get(DagBundleModel, "testing"):
            session.add(DagBundleModel(name="testing"))
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "testing", None)

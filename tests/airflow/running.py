"""Tasks and Dags as Airflow runs them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG

from airflow_smtp_interface.operators.email_actor import EmailActorOperator


def run_task(operator: EmailActorOperator, *, map_index: int = -1, max_tries: int = 0, **context: Any) -> dict:
    """Render one task's templates and execute it, as a worker does."""
    ti = SimpleNamespace(dag_id="dag", run_id="run", task_id=operator.task_id, map_index=map_index, max_tries=max_tries)
    full = {"ti": ti, "params": {}, **context}
    operator.render_template_fields(full)
    return operator.execute(full)


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

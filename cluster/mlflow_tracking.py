"""MLflow: each stage execution is a run nested under the run of its workflow.

One writer, the driver. MLflow is an index of what the store holds: trouble with it is told once, in a line, and never
ends a job; the journal beside the stage has the numbers.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from cluster.aside import aside
from cluster.mlflow_summary import log
from components.store.cache import local
from components.store.files import is_local

# Its first connection tells of every table that it makes.
logging.getLogger("mlflow").setLevel(logging.WARNING)

T = TypeVar("T")

PARAM_LENGTH = 500
ANSWER_S = 60.0
"""How long MLflow may take for one thing, for the first its tables included. It tries a database for half an hour, and waits
for one that takes a question and says nothing for ever."""
LOCKED_S = 5.0
"""How long another process may hold the file of a database."""
SHOWN = 300
"""Characters of an error; those of a database hold its statements."""
EXPERIMENT = "proseco"


def url_of(folder: Path) -> str:
    """A place as MLflow names it."""
    return folder.absolute().as_uri() if is_local(folder) else str(folder)


def uri_of(uri: str, root: Path) -> str:
    """Where MLflow keeps its runs: a SQLite file in the root where nothing else is said."""
    return uri or f"sqlite:///{(root / 'mlflow.db').absolute()}"


def in_a_line(error: object) -> str:
    """What an error says first."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:SHOWN]


def require_database(uri: str) -> None:
    """Raises sqlite3.Error where a file is no database, or another process does not let go of it."""
    path = uri.removeprefix("sqlite:///")
    if path != uri:
        with closing(sqlite3.connect(path, timeout=LOCKED_S)) as base:
            base.execute("BEGIN IMMEDIATE")


def in_time(action: Callable[[], T]) -> T:
    """What an action of MLflow comes to. Raises TimeoutError where it takes too long; it is left to itself then."""
    try:
        return aside(action).result(ANSWER_S)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer in {ANSWER_S:g} s") from None


def open_mlflow(uri: str, root: Path, workflow: str, say: Callable[[str], None]) -> MlflowTracking | None:
    """Tracking of an execution, or None where MLflow cannot be used, which is told."""

    def attempt() -> MlflowTracking:
        require_database(uri_of(uri, root))
        return MlflowTracking(uri, root, workflow, say)

    try:
        return in_time(attempt)
    except Exception as error:  # whatever it is, the run does without
        say(
            f"MLflow at {uri_of(uri, root)} can not be used ({in_a_line(error)}); the run goes on without it, and the journals "
            f"keep its numbers. Mend it, or set runtime.tracking_uri to another address, or to none"
        )
        return None


class MlflowTracking:
    """Runs of one workflow execution."""

    def __init__(self, uri: str, root: Path, workflow: str, say: Callable[[str], None]):
        mlflow.set_tracking_uri(uri_of(uri, root))
        self.client = mlflow.MlflowClient()
        found = self.client.get_experiment_by_name(EXPERIMENT)
        self.experiment = found.experiment_id if found else self.client.create_experiment(
            EXPERIMENT, artifact_location=url_of(root / "mlflow")
        )  # fmt: skip
        self.say, self.workflow = say, workflow
        self.broken = False
        self.lock = threading.Lock()
        """Stages run in several threads, and SQLite is written by one."""
        self.parent = self.client.create_run(self.experiment, run_name=workflow).info.run_id

    def _try(self, action: Callable[[], Any]) -> Any:
        with self.lock:
            if self.broken:
                return None
            try:
                return in_time(action)
            except Exception as error:  # whatever it is, it must not end a stage that was made
                self.broken = True
                self.say(f"MLflow does not answer ({in_a_line(error)}); the run goes on, and the journals keep its numbers")
                return None

    def start(self, label: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str | None:
        """Open the run of a stage."""

        def action() -> str:
            self.end_killed(tags["key"], tags["folder"])
            run = self.client.create_run(
                self.experiment, run_name=label, tags={"mlflow.parentRunId": self.parent, **tags}
            )
            batch = [Param(k, str(v)[:PARAM_LENGTH]) for k, v in params.items()]
            for start in range(0, len(batch), 100):
                self.client.log_batch(run.info.run_id, params=batch[start : start + 100])
            return str(run.info.run_id)

        found: str | None = self._try(action)
        return found

    def end_killed(self, key: str, folder: str) -> None:
        """End the runs of a stage whose process was killed before it could say so: whoever holds its lease now is alone."""
        wanted = f"tags.`key` = '{key}' and tags.`folder` = '{folder}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment], wanted):
            self.client.set_terminated(run.info.run_id, "KILLED")

    def metrics(self, run: str | None, rows: list[dict[str, float]]) -> None:
        """Rows with ``step`` and ``time_s``, in batches."""
        batch = [
            Metric(key, float(value), int(row.get("time_s", 0) * 1000), int(row["step"]))
            for row in rows
            for key, value in row.items()
            if key not in ("step", "time_s") and isinstance(value, int | float)
        ]

        def action() -> None:
            for start in range(0, len(batch), 1000):
                self.client.log_batch(run, metrics=batch[start : start + 1000])

        if run and batch:
            self._try(action)

    def inputs(self, run: str | None, inputs: Mapping[str, Path]) -> None:
        """The folders that a stage read, named by their keys."""

        def action() -> None:
            entries = [
                DatasetInput(
                    Dataset(folder.parent.name, folder.name, "local", json.dumps({"uri": url_of(folder)})),
                    [InputTag("mlflow.data.context", role)],
                )
                for role, folder in inputs.items()
            ]
            self.client.log_inputs(run, entries)

        if run and inputs:
            self._try(action)

    def artifact(self, run: str | None, path: Path) -> None:
        if run:
            self._try(lambda: self.client.log_artifact(run, str(local(path))))

    def end(self, run: str | None, status: str = "FINISHED") -> None:
        if run:
            self._try(lambda: self.client.set_terminated(run, status))

    def summary(self, told: Any) -> None:
        """What the workflow came to (``pipelines.summary.Summary``)."""
        self._try(
            lambda: log(self.client, self.experiment, self.parent, self.workflow, told, url_of, int(time.time() * 1000))
        )

    def close(self, status: str) -> None:
        self._try(lambda: self.client.set_terminated(self.parent, status))

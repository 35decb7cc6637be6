"""MLflow's registry as an index of the nights: a version for every candidate, and the aliases candidate, champion and
previous. It is made after the history in the store, and again where something of it was lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cluster.mlflow_tracking import EXPERIMENT, in_a_line, in_time, uri_of, url_of
from components.store.history import TRAINED, Entry, History


def register(uri: str, root: Path, name: str, history: History, say: Callable[[str], None]) -> None:
    """Bring the registry up to the history. Trouble is told and no more: the history is what counts."""

    def bring_up() -> None:
        client = mlflow.MlflowClient(uri_of(uri, root))
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, {"made_by": "proseco nightly"})
        versions = {v.tags.get("key", ""): v for v in client.search_model_versions(f"name = '{name}'")}
        for entry in history.nights:
            if entry.decision in TRAINED and entry.candidate not in versions:
                versions[entry.candidate] = add_version(client, name, history, entry)
        keys = {"candidate": history.candidate, "champion": history.champion, "previous": history.previous}
        for alias, key in keys.items():
            point(client, name, alias, versions.get(key))

    try:
        in_time(bring_up)
    except Exception as error:  # whatever it is, the night was decided
        say(f"MLflow's registry was not brought up to date ({in_a_line(error)}); the same command does it again")


def add_version(client: Any, name: str, history: History, entry: Entry) -> ModelVersion:
    """A version of the registered model, with where it came from."""
    folder = history.export(entry.candidate)
    tags = {
        "key": entry.candidate, "night": entry.date, "decision": entry.decision, "reason": entry.reason, "data": entry.data,
        "started_from": entry.before, "verdict": entry.verdict, "folder": str(folder),
    }  # fmt: skip
    run = run_of(client, entry.candidate)
    try:
        return client.create_model_version(name, url_of(folder), run and run.info.run_id, tags)
    except MlflowException as error:
        # A server takes no path of a machine that is not below the run's own artifacts; the tag has it then.
        if run is None or error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return client.create_model_version(name, run.info.artifact_uri, run.info.run_id, tags)


def run_of(client: Any, key: str) -> Any:
    """The run of an export stage, None where there is none."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.key = '{key}'", max_results=1) if experiment else []
    return found[0] if found else None


def point(client: Any, name: str, alias: str, version: ModelVersion | None) -> None:
    """Have an alias lead to a version, or nowhere."""
    now = client.get_registered_model(name).aliases.get(alias)
    if version is None and now is not None:
        client.delete_registered_model_alias(name, alias)
    elif version is not None and str(now) != str(version.version):
        client.set_registered_model_alias(name, alias, version.version)

"""What a workflow came to, at the run of the workflow: quality with its interval, calls and diversity as metrics, exports as
logged models, the best of them in the registry, and the page."""

from __future__ import annotations

from typing import Any

from mlflow.entities import LoggedModelOutput, Metric, RunTag
from mlflow.exceptions import MlflowException

from components.store.cache import local

TAG_LENGTH = 5000


def log(client: Any, experiment: str, parent: str, workflow: str, told: Any, url: Any, now_ms: int) -> None:
    """Write a summary (``pipelines.summary.Summary``) to the run ``parent``.

    Args:
        url: names a folder as MLflow does.
    """
    metrics = [Metric(name, value, now_ms, 0) for name, value in told.metrics.items()]
    for start in range(0, len(metrics), 1000):
        client.log_batch(parent, metrics=metrics[start : start + 1000])
    client.log_batch(parent, tags=[RunTag(name, text[:TAG_LENGTH]) for name, text in told.tags.items()])
    if told.report is not None:
        client.log_artifact(parent, str(local(told.report)))
    for export in told.exports:
        tags = {"key": export.key, "folder": str(export.folder), **{f"data.{n}": d for n, d in export.data.items()}}
        params = {k: str(v) for k, v in export.info.items() if isinstance(v, int | float | str)}
        model = client.create_logged_model(experiment, export.name, parent, tags, params, "proseco")
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(parent, [LoggedModelOutput(model.model_id, 0)])
        if export.name == told.best:
            register(client, workflow, export, parent, model.model_id, tags | {n: str(v) for n, v in told.tags.items()}, url)


def register(client: Any, name: str, export: Any, run: str, model: str, tags: dict[str, str], url: Any) -> None:
    """A version of the registered model that is named after the workflow; none where that export has one."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, {"made_by": "proseco run"})
    if any(v.tags.get("key") == export.key for v in client.search_model_versions(f"name = '{name}'")):
        return
    try:
        client.create_model_version(name, url(export.folder), run, tags, model_id=model)
    except MlflowException as error:
        # A server takes no path of a machine that is not below the artifacts of the model; the tag has it then.
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        client.create_model_version(name, client.get_logged_model(model).artifact_location, run, tags, model_id=model)

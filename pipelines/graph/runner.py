"""Runs the stages of a workflow that are not fresh, each under its lease, each tracked."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.cluster import Cluster
from cluster.config import RuntimeConfig
from cluster.environment import prepare
from cluster.open import open_cluster
from components.errors import ConfigError, CorruptArtifact, ProsecoError
from components.store.artifact import (
    FORMAT,
    IDENTITY,
    MANIFEST,
    Manifest,
    changed,
    damage,
    read_manifest,
    write_manifest,
)
from components.store.files import at, exists, files_below, publish_text
from components.store.lease import Fence, Lease
from components.store.links import require_no_links
from components.store.root import mark_root, remove_stage, require_ours, stages
from components.store.trouble import named_files
from components.tracking import JOURNAL
from pipelines.graph.live import following
from pipelines.graph.plan import Finding, plan
from pipelines.graph.progress import Screen
from pipelines.graph.resources import Resources
from pipelines.graph.schedule import Outcome, Schedule
from pipelines.graph.stage import Context, Given, Stage
from pipelines.needs import idle_gpus, refusals
from pipelines.provenance import commit
from pipelines.summary import summary_of


@dataclass
class Held:
    """What is opened on first use, shared by all stages, and closed at the end."""

    runtime: RuntimeConfig
    cluster: Cluster | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def opened(self) -> Cluster:
        with self.lock:
            if self.cluster is None:
                self.cluster = open_cluster(self.runtime)
            return self.cluster

    def capacity(self) -> Resources:
        """What there is for all stages together."""
        return Resources(*self.opened().size())

    def stop(self) -> None:
        if self.cluster is not None:
            self.cluster.stop()

    def close(self) -> None:
        if self.cluster is not None:
            self.cluster.close()


def execute(workflow: str, targets: list[Stage], runtime: RuntimeConfig, screen: Screen) -> list[Finding]:
    """Make every stage that is not fresh. Returns the plan as it was before; an empty remainder means
    that nothing was done, and then neither torch nor Ray nor MLflow was imported.

    Raises:
        ConfigError: MLflow's tables would lie where SQLite is unsafe, or GPUs are asked for that are not here.
        ProsecoError: stages failed for a reason that the user can mend. Those that do not need them were made.
    """
    root = at(runtime.root).absolute()  # workers have other working directories
    findings = plan(targets, root)
    todo = [f for f in findings if f.state != "fresh"]
    if not todo:
        return findings
    if wrong := refusals(runtime, root, [f.stage for f in todo]):
        raise ConfigError(wrong)
    for idle in idle_gpus(runtime):
        screen.say(f"{idle.name} = {idle.value}; rule: {idle.rule}. Remedy: {idle.remedy}.")
    os.environ["PROSECO_DRIVER_PID"] = str(os.getpid())
    mark_root(root)
    held = Held(runtime)
    tracking, status, made = None, "FAILED", set[str]()
    try:
        if runtime.executor == "ray" and any(f.stage.work != "driver" for f in todo):
            held.opened()  # Ray belongs to the thread that starts it, which is the one that is told to stop
        tracking = open_tracking(runtime, root, workflow, screen)
        while todo:
            outcome = Schedule(
                todo, root, f"proseco run {workflow}", runtime, held.capacity,
                lambda finding, lease: run_stage(finding, root, runtime, held.opened, lease.fence, tracking, screen),
                held.stop, screen,
            ).run()  # fmt: skip
            raise_failures(outcome, len(todo), screen)
            made |= {f.stage.key for f in todo}
            # What was lost and came out otherwise leaves stages that were made of what it was.
            todo = [f for f in plan(targets, root) if f.state == "stale" and f.stage.key not in made]
        if tracking is not None:
            tracking.summary(summary_of(targets, root))
        status = "FINISHED"
    finally:
        try:
            held.close()
        finally:
            if tracking is not None:
                tracking.close(status)
    return findings


def raise_failures(outcome: Outcome, number: int, screen: Screen) -> None:
    """Raise what failed: a single error as it is, several as one that names them all; and what was left out for it."""
    failed = list(outcome.failed.values())
    if not failed:
        return
    lines = [f"{stage.label} failed. {error}" for stage, error in failed]
    if outcome.left_out:
        names = ", ".join(stage.label for stage in outcome.left_out.values())
        lines.append(f"Not made, because they need what failed: {names}.")
    made = number - len(failed) - len(outcome.left_out)
    lines.append(f"{made} of {number} stages were made and stay; the same command goes on from there.")
    for _, error in failed:
        if not isinstance(error, ProsecoError):
            screen.say("\n".join(lines))
            raise error  # a defect, with its traceback
    kind = type(failed[0][1]) if len({type(e) for _, e in failed}) == 1 else ProsecoError
    raise kind("\n".join(lines)) from failed[0][1]


def open_tracking(runtime: RuntimeConfig, root: Path, workflow: str, screen: Screen) -> Any:
    """MLflow, or None where it was switched off or can not be used."""
    if runtime.tracking_uri == "none":
        return None
    prepare()
    from cluster.mlflow_tracking import open_mlflow

    # Of several runs on a new root one makes the tables.
    with Lease(root, "mlflow", f"proseco run {workflow}", runtime.lease_expiry_s).wait(None):
        return open_mlflow(runtime.tracking_uri, root, workflow, screen.say)


@named_files()
def run_stage(
    finding: Finding,
    root: Path,
    runtime: RuntimeConfig,
    cluster: Callable[[], Cluster],
    fence: Fence,
    tracking: Any,
    screen: Screen,
) -> None:
    """One stage, whose lease is held: check inputs, run, publish the manifest."""
    stage = finding.stage
    folder = stage.folder(root)
    if exists(folder / MANIFEST):  # its files were damaged, or its inputs hold something else now
        remove_stage(folder)
    require_ours(folder)
    require_no_links(folder)
    identity = {"format": FORMAT, "label": stage.label, "identity": stage.identity}
    publish_text(folder / IDENTITY, json.dumps(identity, indent=1))
    inputs = {role: below.folder(root).absolute() for role, below in stage.inputs.items()}
    drew: dict[str, str] = {}
    infos: dict[str, Mapping[str, Any]] = {}
    for role, below in stage.inputs.items():
        if isinstance(below, Given):  # it was compared when it was given
            manifest, infos[role] = read_manifest(inputs[role]), below.info
        else:
            manifest = checked(role, inputs[role])
            infos[role] = manifest.info
        if manifest is not None:
            drew[role] = manifest.result
    run = None
    if tracking is not None:
        tags = {"stage": stage.name, "key": stage.key, "version": str(stage.version), "folder": str(folder), "commit": commit()}
        run = tracking.start(stage.label, tags, flat(stage.identity["config"]))
        tracking.inputs(run, inputs)

    def send(rows: list[dict[str, float]]) -> None:
        if tracking is not None:
            tracking.metrics(run, rows)

    start = time.monotonic()
    try:
        with screen.progress(stage.label, fence.check) as progress:
            with following(folder / JOURNAL, progress, send):
                info = stage.load()(stage.config, Context(folder, inputs, infos, drew, runtime, cluster, progress, fence))
        seconds = time.monotonic() - start
        files = [f for f in files_below(folder) if f.name != MANIFEST and not f.name.startswith(".")]
        keys = {role: below.key for role, below in stage.inputs.items()}
        write_manifest(folder, stage.name, stage.label, stage.version, keys, seconds, info, files, fence.check, drew)
    except BaseException:
        if tracking is not None:
            tracking.end(run, "FAILED")
        raise
    screen.finished(stage.label, seconds, info)
    if tracking is not None:
        tracking.metrics(run, [{"step": 0, "time_s": time.time(), "seconds": seconds}])
        for name in (MANIFEST, *info.get("artifacts", ())):
            tracking.artifact(run, folder / name)
        tracking.end(run)


def checked(role: str, folder: Path) -> Manifest:
    """An input's manifest, after its bytes were compared with it."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise CorruptArtifact(f"The input {role!r} in {folder} lost its manifest; run the same command again.")
    if lost := changed(folder, manifest):
        raise CorruptArtifact(
            f"The input {role!r} is damaged: {lost[0]}. Nothing was overwritten. Run `proseco gc --corrupt --delete` "
            f"with the root {folder.parent.parent}, then the same command again; that stage is then made anew."
        )
    return manifest


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, below in value.items():
            found |= flat(below, f"{path}.{key}" if path else str(key))
        return found
    return {path or "value": value}


def damaged_stages(root: Path) -> list[tuple[Path, list[str]]]:
    """Finished stages whose bytes are not those of their manifests."""
    return [(folder, lost) for folder in stages(root) if (lost := lost_of(folder))]


def lost_of(folder: Path) -> list[str]:
    """What is wrong with the bytes of a finished stage; nothing of one that is not finished."""
    try:
        manifest = read_manifest(folder)
        return damage(folder, manifest, full=True) if manifest else []
    except ProsecoError as error:
        return [str(error)]

"""Runs the stages of a workflow that are not fresh, under a lease, each tracked."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.cluster import Cluster
from cluster.config import RuntimeConfig
from cluster.environment import prepare
from cluster.open import open_cluster
from components.errors import CorruptArtifact, ProsecoError
from components.store.artifact import FORMAT, IDENTITY, MANIFEST, damage, read_manifest, write_manifest
from components.store.files import publish_text
from components.store.lease import Lease
from components.store.root import mark_root, remove_stage, require_ours, stages
from components.tracking import read_metrics
from pipelines.graph.plan import Finding, plan
from pipelines.graph.progress import Screen
from pipelines.graph.stage import Context, Given, Stage


@dataclass
class Held:
    """What is opened on first use and closed at the end."""

    runtime: RuntimeConfig
    cluster: Cluster | None = None

    def open(self) -> Cluster:
        if self.cluster is None:
            self.cluster = open_cluster(self.runtime)
        return self.cluster

    def close(self) -> None:
        if self.cluster is not None:
            self.cluster.close()


def execute(workflow: str, targets: list[Stage], runtime: RuntimeConfig, screen: Screen) -> list[Finding]:
    """Make every stage that is not fresh. Returns the plan as it was before; an empty remainder means
    that nothing was done, and then neither torch nor Ray nor MLflow was imported.

    Raises:
        ProsecoError: a stage failed for a reason that the user can mend.
    """
    root = Path(runtime.root)
    findings = plan(targets, root)
    if all(f.state == "fresh" for f in findings):
        return findings
    os.environ["PROSECO_DRIVER_PID"] = str(os.getpid())
    lease = Lease(root, f"proseco run {workflow}", runtime.lease_expiry_s, runtime.lease_wait_s)
    lease.say = screen.say
    with lease:
        # Somebody else may have made some of it while we waited.
        findings = plan(targets, root)
        todo = [f for f in findings if f.state != "fresh"]
        mark_root(root)
        held = Held(runtime)
        tracking = open_tracking(runtime, root, workflow, screen) if todo else None
        status = "FAILED"
        try:
            for number, finding in enumerate(todo, 1):
                screen.stage(number, len(todo), finding)
                run_stage(finding, root, runtime, held.open, tracking, screen)
            status = "FINISHED"
        finally:
            held.close()
            if tracking is not None:
                tracking.close(status)
    return findings


def open_tracking(runtime: RuntimeConfig, root: Path, workflow: str, screen: Screen) -> Any:
    """MLflow, or None where it was switched off."""
    if runtime.tracking_uri == "none":
        return None
    prepare()
    from cluster.mlflow_tracking import MlflowTracking

    return MlflowTracking(runtime.tracking_uri, root, workflow, screen.say)


def run_stage(
    finding: Finding, root: Path, runtime: RuntimeConfig, cluster: Callable[[], Cluster], tracking: Any, screen: Screen
) -> None:
    """One stage: check inputs, run, publish the manifest."""
    stage = finding.stage
    folder = stage.folder(root)
    if finding.state == "damaged":
        remove_stage(folder)
    require_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"format": FORMAT, "label": stage.label, "identity": stage.identity}
    publish_text(folder / IDENTITY, json.dumps(identity, indent=1))
    inputs = {role: below.folder(root) for role, below in stage.inputs.items()}
    infos = {
        role: below.info if isinstance(below, Given) else checked_info(role, inputs[role])
        for role, below in stage.inputs.items()
    }
    journal = folder / "metrics.jsonl"
    run = None
    if tracking is not None:
        tags = {"stage": stage.name, "key": stage.key, "version": str(stage.version), "folder": str(folder)} | commit()
        run = tracking.start(stage.label, tags, flat(stage.identity["config"]))
        tracking.inputs(run, inputs)
    start = time.monotonic()
    try:
        with screen.progress(stage.label, journal) as progress:
            context = Context(folder, inputs, infos, runtime, cluster, progress)
            info = stage.load()(stage.config, context)
    except BaseException:
        if tracking is not None:
            tracking.end(run, "FAILED")
        raise
    seconds = time.monotonic() - start
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in (MANIFEST,) and not f.name.startswith(".")]
    keys = {role: below.key for role, below in stage.inputs.items()}
    write_manifest(folder, stage.name, stage.label, stage.version, keys, seconds, info, files)
    screen.finished(stage.label, seconds, info)
    if tracking is not None:
        tracking.metrics(run, [*read_metrics(journal), {"step": 0, "time_s": time.time(), "seconds": seconds}])
        tracking.artifact(run, folder / MANIFEST)
        for name in info.get("artifacts", ()):
            tracking.artifact(run, folder / name)
        tracking.end(run)


def checked_info(role: str, folder: Path) -> Any:
    """What an input's manifest says, after its bytes were compared with it."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise CorruptArtifact(f"The input {role!r} in {folder} lost its manifest; run the same command again.")
    lost = damage(folder, manifest, full=True)
    if lost:
        raise CorruptArtifact(
            f"The input {role!r} is damaged: {lost[0]}. Nothing was overwritten. Run `proseco gc --corrupt --delete` "
            f"with the root {folder.parent.parent}, then the same command again; that stage is then made anew."
        )
    return manifest.info


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, below in value.items():
            found |= flat(below, f"{path}.{key}" if path else str(key))
        return found
    return {path or "value": value}


def commit() -> dict[str, str]:
    """The git commit that the code is at, where there is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"commit": found.stdout.strip()} if found.returncode == 0 else {}


def damaged_stages(root: Path) -> list[tuple[Path, list[str]]]:
    """Finished stages whose bytes are not those of their manifests."""
    found = []
    for folder in stages(root):
        try:
            manifest = read_manifest(folder)
            lost = damage(folder, manifest, full=True) if manifest else []
        except ProsecoError as error:
            lost = [str(error)]
        if lost:
            found.append((folder, lost))
    return found

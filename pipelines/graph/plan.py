"""What would be done, and why. Reads manifests only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.store.artifact import IDENTITY, Manifest, damage, read_manifest
from components.store.files import exists, folders, read_json
from components.store.fingerprint import differences
from components.store.root import require_folder
from pipelines.graph.stage import Stage, in_order

MAX_REASONS = 6


@dataclass(frozen=True)
class Finding:
    """One stage and its state: ``fresh`` is there, ``missing`` never was, ``partial`` was begun,
    ``stale`` was made from other inputs or options, ``damaged`` lost files."""

    stage: Stage
    state: str
    reasons: tuple[str, ...]
    seconds: float | None = None


def plan(targets: list[Stage], root: Path) -> list[Finding]:
    """The state of every stage, inputs first.

    Raises:
        StoreError: the root is a file.
    """
    require_folder(root)
    return [find(stage, root) for stage in in_order(targets)]


def find(stage: Stage, root: Path) -> Finding:
    folder = stage.folder(root)
    manifest = read_manifest(folder)
    if manifest is not None:
        lost = damage(folder, manifest)
        if lost:
            return Finding(stage, "damaged", tuple(lost[:3]))
        if different := other_inputs(stage, root, manifest):
            return Finding(stage, "stale", different)
        return Finding(stage, "fresh", (), manifest.seconds)
    if exists(folder / IDENTITY):
        return Finding(stage, "partial", ("was begun and not finished; it resumes from what is there",))
    near = nearest(stage, root)
    if near is None:
        return Finding(stage, "missing", ("nothing like it was made yet",))
    other, lines = near
    more = [f"and {len(lines) - MAX_REASONS} more"] if len(lines) > MAX_REASONS else []
    return Finding(stage, "stale", (f"{other} was made from something else:", *lines[:MAX_REASONS], *more))


def other_inputs(stage: Stage, root: Path, manifest: Manifest) -> tuple[str, ...]:
    """Inputs that now hold something else than the stage was made of, in words: they were edited, or made anew and came out
    otherwise."""
    found = []
    for role, below in stage.inputs.items():
        now = read_manifest(below.folder(root))
        if now is not None and manifest.drew.get(role, now.result) != now.result:
            found.append(f"its input {role!r} holds something else now ({manifest.drew[role]} -> {now.result})")
    return tuple(found)


def nearest(stage: Stage, root: Path) -> tuple[str, list[str]] | None:
    """The made stage of the same label that differs least, and how it differs."""
    best: tuple[str, list[str]] | None = None
    for folder in folders(root / stage.name):
        other = read_json(folder / IDENTITY)
        if folder.name == stage.key or not isinstance(other, dict) or other.get("label") != stage.label:
            continue
        lines = differences(other.get("identity"), stage.identity)
        if best is None or len(lines) < len(best[1]):
            best = (folder.name, lines)
    return best

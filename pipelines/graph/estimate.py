"""How long a stage may take: as long as a like one took when it was last executed, for as much more as there is to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ProsecoError
from components.store.artifact import IDENTITY, read_manifest
from components.store.files import folders, read_json
from components.store.fingerprint import differences
from pipelines.graph.plan import Finding
from pipelines.graph.stage import Stage

AMOUNTS: Mapping[str, Callable[[Any], float]] = {
    "train": lambda c: c["train"]["steps"] * c["train"]["batch_rows"],
    "generate": lambda c: (
        c["generate"]["num_samples"] * len(c["generate"]["seeds"]) * c["length"] * max(1, c["sampler"]["steps"])
    ),
}
"""What the time of a stage grows with, by its name, from the plain config in its identity. Others are taken as they were."""


@dataclass(frozen=True)
class Estimate:
    """An expectation, and what it is made of."""

    seconds: float
    of: str
    """Label and key of the stage that took so long, or a part of that."""


@dataclass(frozen=True)
class Made:
    """A finished stage."""

    label: str
    key: str
    identity: Mapping[str, Any]
    seconds: float


def estimates(findings: list[Finding], root: Path) -> dict[str, Estimate]:
    """By key, of every stage that is to be made and whose like was made in the root."""
    todo = [f.stage for f in findings if f.state != "fresh"]
    made = {name: finished(root / name) for name in {stage.name for stage in todo}}
    return {s.key: found for s in todo if (found := estimate(s, made[s.name])) is not None}


def finished(folder: Path) -> list[Made]:
    """All finished stages of one name; what is damaged is left out."""
    found = []
    for place in folders(folder):
        record = read_json(place / IDENTITY)
        with suppress(ProsecoError):
            manifest = read_manifest(place)
            if manifest is not None and isinstance(record, dict) and isinstance(record.get("identity"), dict):
                found.append(Made(manifest.label, manifest.key, record["identity"], manifest.seconds))
    return found


def estimate(stage: Stage, made: list[Made]) -> Estimate | None:
    """From the one of the same label, or else of the same name, that differs least."""
    if not made:
        return None
    like = min(made, key=lambda m: (m.label != stage.label, len(differences(dict(m.identity), stage.identity))))
    return Estimate(like.seconds * growth(stage, like), f"{like.label} {like.key}")


def growth(stage: Stage, like: Made) -> float:
    """How much more there is to do; 1 where nobody knows."""
    amount = AMOUNTS.get(stage.name)
    if amount is None:
        return 1.0
    try:
        return amount(stage.identity["config"]) / amount(like.identity["config"])
    except (KeyError, TypeError, ZeroDivisionError):  # another version wrote it
        return 1.0

"""Where a result came from: the stages below it, from the manifests in its root alone.

No tracking server is asked, so lineage is there as long as the results are. What an input held that no stage made (files of a
corpus, weights of somebody else) is named by digests in the stage that read it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.errors import CorruptArtifact, StoreError
from components.evaluation.page import Section, folded, page, table
from components.store.artifact import IDENTITY, read_manifest
from components.store.files import read_json
from components.store.root import stages

FORMAT = {"format": "proseco-lineage", "version": 1}
ABROAD = "elsewhere"
"""Stage of an input that is not in this root."""


@dataclass(frozen=True)
class Made:
    """One stage, as its manifest says."""

    stage: str
    key: str
    label: str
    inputs: Mapping[str, str]
    """Keys by role."""
    finished: str = ""
    host: str = ""
    seconds: float = 0.0
    version: int = 0
    seal: str = ""
    """Of the manifest, and so of all files."""
    files: int = 0
    num_bytes: int = 0
    config: Any = None
    """All that decided it besides its inputs."""


def lineage(folder: Path) -> list[Made]:
    """The stages that a finished one was made of, inputs first, itself last. Each once.

    Raises:
        StoreError: the folder is no finished stage.
        CorruptArtifact: a manifest is damaged.
    """
    folder = folder.absolute()
    if read_manifest(folder) is None:
        raise StoreError(
            f"{folder} is no finished stage (it has no manifest), so it is not known what it was made of. Give the folder of "
            f"one: `proseco show RUN --json` names them."
        )
    places = {place.name: place for place in stages(folder.parent.parent)}
    found: dict[str, Made] = {}

    def visit(key: str, place: Path | None) -> None:
        if key in found:
            return
        made = read(place) if place is not None else None
        if made is None:
            found[key] = Made(ABROAD, key, "no finished stage of this root", {})
            return
        above.append(key)
        for below in made.inputs.values():
            if below in above:
                raise CorruptArtifact(f"{place} says that it was made of {below}, which was made of it: one of them was changed.")
            visit(below, places.get(below))
        above.pop()
        found[key] = made

    above: list[str] = []
    visit(folder.name, folder)
    return list(found.values())


def read(place: Path) -> Made | None:
    """A stage from its folder; None where it is not finished."""
    manifest = read_manifest(place)
    if manifest is None:
        return None
    record = read_json(place / IDENTITY)
    identity = record.get("identity") if isinstance(record, dict) else None
    return Made(
        manifest.stage, manifest.key, manifest.label, dict(manifest.inputs), manifest.finished, manifest.host,
        manifest.seconds, manifest.version, manifest.seal, len(manifest.files), sum(f.size_bytes for f in manifest.files),
        identity.get("config") if isinstance(identity, dict) else None,
    )  # fmt: skip


def as_json(made: list[Made]) -> dict[str, Any]:
    """For programs; the last stage is the one that was asked for."""
    return {**FORMAT, "of": f"{made[-1].stage}/{made[-1].key}", "stages": [asdict(m) for m in made]}


def as_html(made: list[Made]) -> str:
    """One file that needs nothing beside it."""
    heads = ("stage", "key", "finished", "on", "seconds", "files", "MiB", "inputs")
    rows = [
        (
            m.label, m.key, m.finished, m.host, f"{m.seconds:.1f}", m.files, f"{m.num_bytes / 2**20:.1f}",
            ", ".join(f"{role} {key}" for role, key in m.inputs.items()),
        )
        for m in made
    ]  # fmt: skip
    details = "".join(folded(f"{m.label} {m.key}", asdict(m)) for m in made)
    sections = [Section("From what", drawn(made)), Section("Stages", table(heads, rows)), Section("All that decided them", details)]
    return page(f"Lineage of {made[-1].label}", f"{made[-1].stage}/{made[-1].key}", sections)


WIDTH, HEIGHT, GAP = 190, 40, 14


def drawn(made: list[Made]) -> str:
    """Boxes and lines; what a stage was made of stands left of it."""
    column: dict[str, int] = {}
    for m in made:
        column[m.key] = 1 + max((column[key] for key in m.inputs.values()), default=-1)
    place: dict[str, tuple[int, int]] = {}
    taken: dict[int, int] = {}
    for m in made:
        row = taken.get(column[m.key], 0)
        taken[column[m.key]] = row + 1
        place[m.key] = column[m.key] * (WIDTH + 4 * GAP), row * (HEIGHT + GAP)
    lines = []
    for m in made:
        for key in dict.fromkeys(m.inputs.values()):
            (x1, y1), (x2, y2) = place[key], place[m.key]
            start, end, middle = x1 + WIDTH, x2, y1 + HEIGHT // 2
            lines.append(
                f"<path d='M{start},{middle} C{start + 3 * GAP},{middle} {end - 3 * GAP},{y2 + HEIGHT // 2} {end},{y2 + HEIGHT // 2}' "
                f"fill='none' stroke='currentColor' opacity='.35'/>"
            )
    boxes = [
        f"<g transform='translate({x},{y})'><rect width='{WIDTH}' height='{HEIGHT}' rx='6' fill='none' stroke='currentColor'/>"
        f"<text class='axis' x='8' y='17'>{html.escape(shortened(m.label))}</text><text x='8' y='32'>{html.escape(m.key)}</text></g>"
        for m in made
        for x, y in [place[m.key]]
    ]
    width = max(x for x, _ in place.values()) + WIDTH + 2
    height = max(y for _, y in place.values()) + HEIGHT + 2
    picture = f"<svg style='max-width:none;width:{width}px' viewBox='-1 -1 {width} {height}' role='img'>{''.join(lines + boxes)}</svg>"
    return f"<div class='scroll' tabindex='0'>{picture}</div>"


def shortened(label: str) -> str:
    return label if len(label) <= 28 else f"{label[:27]}\u2026"

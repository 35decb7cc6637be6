"""Names that people can read for what a run made last: links in ``<root>/latest/<run>``, beside all stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from components.store.files import exists, is_local
from components.store.links import lead
from pipelines.graph.stage import Stage

FOLDER = "latest"


def link(run: str, stages: Iterable[Stage], root: Path) -> Path | None:
    """Have the links of a run lead to its exports and its report. Returns their folder; None where a root has no links."""
    if not is_local(root):
        return None
    folder = root / FOLDER / run
    for name, place in named(stages, root):
        lead(folder / name, place)
    return folder


def named(stages: Iterable[Stage], root: Path) -> Iterator[tuple[str, Path]]:
    """What is linked, by name."""
    for stage in stages:
        folder = stage.folder(root)
        if stage.name == "export":
            yield stage.label.removeprefix("export/").replace("/", "-"), folder
        elif exists(folder / "report.html"):
            yield "report.html", folder / "report.html"

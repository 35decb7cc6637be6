"""Finding what no run needs. A dry run unless told otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from components.errors import ConfigError
from components.store.artifact import IDENTITY, MANIFEST
from components.store.lease import Lease
from pipelines.config import load_run
from pipelines.runner import damaged_stages
from pipelines.stage import in_order
from pipelines.workflows import build


def collect(root: Path, runs: tuple[Path, ...], corrupt: bool, delete: bool) -> Iterator[str]:
    """Lines that say what is, or would be, deleted.

    Raises:
        ConfigError: it was not said what must stay.
    """
    if not corrupt and not runs:
        raise ConfigError("Say what must stay: --keep configs/runs/demo.yaml (once for each run), or use --corrupt.")
    if corrupt:
        doomed = {folder: lost[0] for folder, lost in damaged_stages(root)}
    else:
        kept = {s.folder(root) for path in runs for s in in_order(list(build(load_run(path, [])).values()))}
        made = {p.parent for name in (MANIFEST, IDENTITY) for p in root.glob(f"*/*/{name}")}
        doomed = dict.fromkeys(sorted(made - kept), "no kept run needs it")
    if not doomed:
        yield "nothing to delete"
        return
    if not delete:
        yield from (f"would delete {folder} ({why}), {size(folder) / 2**20:.1f} MiB" for folder, why in doomed.items())
        yield f"{len(doomed)} stages; add --delete to delete them"
        return
    with Lease(root, "proseco gc"):
        for folder, why in doomed.items():
            freed = size(folder)
            shutil.rmtree(folder)
            yield f"deleted {folder} ({why}), {freed / 2**20:.1f} MiB"


def size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())

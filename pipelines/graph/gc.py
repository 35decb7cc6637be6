"""Finding what no run needs. A dry run unless told otherwise; only stage folders of ours are ever removed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from components.errors import ConfigError
from components.store.files import at
from components.store.history import champions
from components.store.lease import Lease
from components.store.root import foreign, remove_stage, require_marked, size, stages
from pipelines.config.load import load_run
from pipelines.graph.runner import damaged_stages, lost_of
from pipelines.graph.stage import in_order
from pipelines.workflows import build


def collect(root: Path | None, runs: tuple[str, ...], corrupt: bool, delete: bool) -> Iterator[str]:
    """Lines that say what is, or would be, deleted.

    Args:
        root: where to look; None looks where the kept runs write to.
        runs: each a path of a run, and after it its overrides, as on a command line.
    Raises:
        ConfigError: it was not said what must stay.
        StoreError: the root is not one of ours.
    """
    if not corrupt and not runs:
        raise ConfigError("Say what must stay: --keep configs/runs/demo.yaml (once for each run), or use --corrupt.")
    kept, roots = needed(runs)
    root = root or the_root(roots)
    require_marked(root)
    if corrupt:
        unneeded = {folder: lost[0] for folder, lost in damaged_stages(root)}
    else:
        kept |= {("export", key) for key in champions(root)}
        found = [f for f in stages(root) if (f.parent.name, f.name) not in kept]
        unneeded = dict.fromkeys(found, "no kept run needs it")
    for folder in list(unneeded):
        if why := foreign(folder):
            yield f"left alone {folder}: {why}"
            del unneeded[folder]
    if not unneeded:
        yield "nothing to delete"
        return
    if not delete:
        yield from (
            f"would delete {folder} ({why}), {size(folder) / 2**20:.1f} MiB" for folder, why in unneeded.items()
        )
        yield f"{len(unneeded)} stages; add --delete to delete them"
        return
    for folder, why in unneeded.items():
        lease = Lease(root, f"{folder.parent.name}-{folder.name}", "proseco gc")
        if (holder := lease.take()) is not None:
            yield f"left alone {folder}: it is being made by {holder}"
            continue
        with lease:
            if corrupt and not lost_of(folder):
                yield f"left alone {folder}: it was made anew in the meantime"
                continue
            freed = size(folder)
            remove_stage(folder)
            yield f"deleted {folder} ({why}), {freed / 2**20:.1f} MiB"


def needed(runs: tuple[str, ...]) -> tuple[set[tuple[str, str]], set[str]]:
    """(name, key) of every stage of the runs, and the roots that they write to."""
    kept: set[tuple[str, str]] = set()
    roots: set[str] = set()
    for text in runs:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"--keep {text!r} cannot be split into words ({error}); close its quotes.") from None
        if not words:
            raise ConfigError("--keep names no run; give a path such as configs/runs/demo.yaml.")
        run = load_run(Path(words[0]), words[1:])
        kept |= {(s.name, s.key) for s in in_order(list(build(run).values()))}
        roots.add(run.runtime.root)
    return kept, roots


def the_root(roots: set[str]) -> Path:
    """The one root of the kept runs; ``runs`` where none is kept."""
    if len(roots) > 1:
        raise ConfigError(f"The kept runs write to several roots ({', '.join(sorted(roots))}); say which by --root.")
    return at(next(iter(roots), "runs"))

"""Disturb a run in every way that it has to bear, and hold what comes of it against an undisturbed one.

Each fault has a root of its own. What does not recover by itself is given the same command again, as a user would do. A fault
is passed where the tables and weights are those of the undisturbed run and nothing is left over.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from components.errors import ProsecoError, StoreError
from components.evaluation.page import Section, page, table
from components.store.artifact import read_manifest
from components.store.files import at, digest_file
from components.store.samples import read_shards
from pipelines.chaos.faults import FAULTS
from pipelines.chaos.running import Running
from pipelines.graph.stage import Stage

TRIES = 4
"""Times that the command is given."""
SLOWER, SPARE_S = 5.0, 300.0
"""A disturbed run may take so many times as long as an undisturbed one, and so many seconds more."""
Load = Callable[[Path, tuple[str, ...]], tuple[Any, dict[str, Stage]]]


@dataclass(frozen=True)
class Verdict:
    """What came of a fault."""

    fault: str
    what: str
    passed: bool | None
    """None where it was left out."""
    done: str
    recovered: str = ""
    seconds: float = 0.0
    problems: tuple[str, ...] = ()


def outcome(root: Path, stages: Mapping[str, Stage]) -> dict[str, str]:
    """Digests of all that the run is for, by label: rows of its tables, weights of its exports.

    Raises:
        StoreError: a stage is not finished.
    """
    found = {}
    for label, stage in stages.items():
        folder = stage.folder(root)
        manifest = read_manifest(folder)
        if manifest is None:
            raise StoreError(f"{label} is not finished.")
        if stage.name in ("generate", "score"):
            table = read_shards(folder / "shards", manifest.info["shards"]).sort_by("row_id")
            rows = table.drop_columns([c for c in ("run",) if c in table.column_names]).to_pylist()
            found[label] = hashlib.sha256(repr(rows).encode()).hexdigest()
        elif stage.name == "export":
            found[label] = digest_file(folder / "model.safetensors")
    return found


def disturb(name: str, run: Running, expected: Mapping[str, str]) -> Verdict:
    """One fault, and what came of it."""
    fault, begun = FAULTS[name], time.monotonic()
    missing = fault.on == "ray" and run.runtime.executor != "ray"
    if missing or (fault.on == "own" and (run.runtime.executor != "ray" or run.runtime.address)):
        return Verdict(name, fault.what, None, "left out: this run has no such process of its own")
    done = fault.strike(run)
    if not done:
        run.wait()
        return Verdict(name, fault.what, None, "left out: the run was over before the moment came; make it longer")
    code = run.wait()
    tries = 1
    while tries < TRIES and not run.hung and (code or (name == "damage" and tries == 1)):
        run.start()
        code = run.wait()
        tries += 1
    problems = [f"it did not end in {run.patience_s:.0f} s and was stopped"] if run.hung else []
    if code:
        problems.append(f"the command ends with {code} after {tries} tries; see {run.log}")
    else:
        try:
            found = outcome(run.root, run.stages)
            problems += [f"{label} differs" for label in expected if found.get(label) != expected[label]]
        except ProsecoError as error:
            problems.append(str(error))
    if name == "disk" and b"Traceback" in run.log.read_bytes():
        problems.append(f"it ended with a traceback instead of words; see {run.log}")
    problems += [f"left behind: {command}" for command in run.left()]
    recovered = "by itself" if tries == 1 else f"by the same command, given {tries} times"
    return Verdict(name, fault.what, not problems, done, recovered, round(time.monotonic() - begun, 1), tuple(problems))


def chaos(
    path: Path, overrides: tuple[str, ...], names: Sequence[str], folder: Path, seed: int, load: Load
) -> Iterator[Verdict]:
    """Make the run undisturbed, and then under each fault.

    Args:
        load: reads the run and its stages with overrides.
    Raises:
        StoreError: the run does not succeed undisturbed.
    """

    def running(name: str) -> Running:
        root = at(str(folder / name)).absolute()
        given = (*overrides, f"runtime.root={root}")
        config, stages = load(path, given)
        command = [sys.executable, "-m", "pipelines.cli", "run", str(path), *given, "--quiet"]
        return Running(command, root, config.runtime, stages, folder / f"{name}.log", random.Random(f"{seed} {name}"))

    begun = time.monotonic()
    alone = running("undisturbed")
    alone.start()
    try:
        if alone.wait():
            raise StoreError(f"The run does not succeed undisturbed; see {alone.log}. Mend it first.")
    finally:
        alone.end()
    expected = outcome(alone.root, alone.stages)
    patience = SLOWER * (time.monotonic() - begun) + SPARE_S
    for name in names:
        run = replace(running(name), patience_s=patience)
        try:
            yield disturb(name, run, expected)
        finally:
            run.end()


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For programs."""
    return {"passed": all(v.passed is not False for v in verdicts), "faults": [asdict(v) for v in verdicts]}


def as_page(run: str, verdicts: Sequence[Verdict]) -> str:
    """One file that needs nothing beside it."""
    heads = ("fault", "passed", "what was done", "recovered", "seconds", "problems")
    said = {None: "left out", True: "yes", False: "NO"}
    rows = [(v.what, said[v.passed], v.done, v.recovered, v.seconds, "; ".join(v.problems)) for v in verdicts]
    failed = [v.fault for v in verdicts if v.passed is False]
    subtitle = f"{sum(bool(v.passed) for v in verdicts)} passed, {len(failed)} failed, {sum(v.passed is None for v in verdicts)} left out"
    return page(
        f"{run} under fire",
        subtitle,
        [Section("Faults", table(heads, rows, {i for i, v in enumerate(verdicts) if v.passed is False}))],
    )

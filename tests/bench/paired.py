"""Ours and theirs in one process, in turns: medians of ratios with their ranges."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Took:
    """One turn of one side."""

    wall_s: float
    cpu_s: float
    """Of all threads of the process."""
    told: dict[str, float] = field(default_factory=dict)
    """What else a side counts, such as calls."""


@dataclass(frozen=True)
class Pair:
    """Two ways to the same; each returns what it counts."""

    name: str
    setting: dict[str, Any]
    ours: Callable[[], dict[str, float]]
    theirs: Callable[[], dict[str, float]]
    same: Callable[[], str]
    """Sees that both come to the same, and says how that was seen. Raises AssertionError where they do not."""


def timed(side: Callable[[], dict[str, float]]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    told = side()
    return Took(time.perf_counter() - wall, time.process_time() - cpu, told)


def measure(pair: Pair, rounds: int, device: torch.device) -> dict[str, Any]:
    """The rounds of a pair, in alternating order, after one turn of each that is thrown away."""
    gate = pair.same()
    timed(pair.ours), timed(pair.theirs)
    ours, theirs = [], []
    for number in range(rounds):
        for side, found in ((pair.ours, ours), (pair.theirs, theirs))[:: 1 if number % 2 == 0 else -1]:
            found.append(timed(side))
    ratios = {
        kind: [getattr(t, kind) / getattr(o, kind) for o, t in zip(ours, theirs, strict=True)] for kind in ("wall_s", "cpu_s")
    }
    return {
        "name": pair.name,
        "setting": pair.setting,
        "gate": gate,
        "ratio": statistics.median(ratios["cpu_s" if device.type == "cpu" else "wall_s"]),
        "ratios": ratios,
        "counts": {k: sum(t.told[k] for t in theirs) / sum(o.told[k] for o in ours) for k in ours[0].told},
        "ours": [asdict(t) for t in ours],
        "theirs": [asdict(t) for t in theirs],
    }


def line(found: dict[str, Any]) -> str:
    """A result for people."""
    cpu, wall = found["ratios"]["cpu_s"], found["ratios"]["wall_s"]
    setting = " ".join(f"{k}={v}" for k, v in found["setting"].items() if v != "")
    counts = "".join(f", {ratio:.2f}x fewer {name}" for name, ratio in found["counts"].items())
    return (
        f"{found['name']:18}{found['ratio']:7.2f}x  (CPU {min(cpu):.2f} to {max(cpu):.2f}, wall {min(wall):.2f} to {max(wall):.2f}{counts})  "
        f"{setting}; {found['gate']}"
    )


def write(path: Path, results: list[dict[str, Any]]) -> None:
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


def slower(old: Path, results: list[dict[str, Any]], by: float = 0.1) -> list[str]:
    """What became slower against theirs since an older file, by more than a share."""
    before = {(r["name"], json.dumps(r["setting"], sort_keys=True)): r["ratio"] for r in json.loads(old.read_text())["results"]}
    found = []
    for r in results:
        then = before.get((r["name"], json.dumps(r["setting"], sort_keys=True)))
        if then is not None and r["ratio"] < then * (1 - by):
            found.append(f"{r['name']} was {then:.2f} times as fast as the plain loop and is {r['ratio']:.2f}")
    return found

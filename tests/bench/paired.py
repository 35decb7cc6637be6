"""Ours and theirs in one process, in turns: medians of ratios with their ranges."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from components.training.speed import limit

MB = 1e6
LOST = {"speed": 0.1, "memory": 0.25}
"""By how much a ratio may fall against an older file; of others, such as calls, as of speed."""


@dataclass(frozen=True)
class Took:
    """One turn of one side."""

    wall_s: float
    cpu_s: float
    """Of all threads of the process, and of processes that it started and that ended."""
    peak_mb: float = 0.0
    """Most memory beyond what was there before; 0 where the machine does not tell."""
    told: dict[str, float] = field(default_factory=dict)
    """What else a side counts, such as calls: less is better."""


Side = Callable[[], dict[str, float]]
"""One turn; what it counts. A side that works in processes of its own tells among it what these took, as ``wall_s`` and ``peak_mb``."""


@dataclass(frozen=True)
class Pair:
    """Two ways to the same; each returns what it counts."""

    name: str
    setting: dict[str, Any]
    ours: Side
    theirs: Side
    same: Callable[[], str]
    """Sees that both come to the same, and says how that was seen. Raises AssertionError where they do not."""
    work: float = 0.0
    """Of a turn, in ``unit``; 0 where only time is told."""
    unit: str = ""
    precision: str = "fp32"
    """Of products of matrices, for the machine's limit: ``fp32`` or ``bf16``; empty where they are of several kinds."""
    clock: str = ""
    """``wall_s`` or ``cpu_s``, by which sides are compared; empty is CPU time on a CPU and wall time on a GPU."""


Build = Callable[[str, dict[str, Any]], Pair]
"""(name, options of the command) -> the pair."""


def resident(name: str) -> float:
    """VmRSS, or VmHWM, the most since it was reset, in MB; 0 where the machine does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / MB if found else 0.0


def forget_peak() -> float:
    """Give back what is free, and have the most memory counted from here. What is there, in MB."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def cpu_s() -> float:
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + below.ru_utime + below.ru_stime


def timed(side: Side, device: torch.device, keeps: bool = False) -> Took:
    """One turn. Where a process ``keeps`` the memory that it has, as one that goes on does, no peak is told of a CPU: whoever has more of it
    would else be slower by the time that it takes to get it anew."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) / MB if on_gpu else 0.0 if keeps else forget_peak()
    wall, cpu = time.perf_counter(), cpu_s()
    told = side()
    if on_gpu:
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    peak = torch.cuda.max_memory_allocated(device) / MB if on_gpu else 0.0 if keeps else resident("VmHWM")
    return Took(told.pop("wall_s", wall), cpu, told.pop("peak_mb", max(0.0, peak - before)), told)


def flops_in_place(total: tuple[int, int], a: tuple[int, int], b: tuple[int, int], **_: Any) -> int:
    """Of a product that is added to what is there, which torch does not count; given shapes."""
    return 2 * a[0] * a[1] * b[1]


def measure(pair: Pair, rounds: int, device: torch.device) -> dict[str, Any]:
    """The rounds of a pair, in alternating order, after turns whose times are thrown away: one in which the operations of ours
    are counted on a CPU, those of products of matrices in this thread (nothing would be compiled any more that was
    first called while somebody counts, so not on a GPU), and one of each for peaks."""
    gate = pair.same()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: flops_in_place})
    with counter if device.type == "cpu" and pair.precision else nullcontext():
        timed(pair.ours, device)
    peaks = {"ours": timed(pair.ours, device).peak_mb, "theirs": timed(pair.theirs, device).peak_mb}
    flops = counter.get_total_flops()
    ours, theirs, limits = [], [], []
    for number in range(rounds):
        for side, found in ((pair.ours, ours), (pair.theirs, theirs))[:: 1 if number % 2 == 0 else -1]:
            found.append(timed(side, device, keeps=True))
        limits.append(limit(device, pair.precision) if pair.precision else 0.0)
    clock = pair.clock or ("cpu_s" if device.type == "cpu" else "wall_s")
    ratios = {k: [asdict(t)[k] / asdict(o)[k] for o, t in zip(ours, theirs, strict=True)] for k in ("wall_s", "cpu_s")}
    sides = {"ours": ours, "theirs": theirs}
    seconds = {k: statistics.median(asdict(t)[clock] for t in turns) for k, turns in sides.items()}
    return {
        "name": pair.name,
        "setting": pair.setting,
        "gate": gate,
        "clock": clock,
        "ratio": statistics.median(ratios[clock]),
        "ratios": ratios,
        "seconds": seconds,
        "rate": {k: pair.work / s for k, s in seconds.items()} | {"unit": pair.unit} if pair.work else {},
        "peak_mb": peaks,
        "limit_flops_s": statistics.median(limits),
        "flops": flops,
        "share_of_limit": {k: flops / s / statistics.median(limits) for k, s in seconds.items()} if flops else {},
        "counts": {k: sum(t.told[k] for t in theirs) / sum(o.told[k] for o in ours) for k in ours[0].told},
        **{k: [asdict(t) for t in turns] for k, turns in sides.items()},
    }


def line(found: dict[str, Any]) -> str:
    """A result for people."""
    peak, wall = found["peak_mb"], found["ratios"]["wall_s"]
    # Where sides are compared by wall time, one works in processes whose CPU time this one does not see.
    cpu = "CPU {:.2f} to {:.2f}, ".format(*extent(found["ratios"]["cpu_s"])) if found["clock"] == "cpu_s" else ""
    setting = " ".join(f"{k}={v}" for k, v in found["setting"].items() if v != "")
    counts = "".join(f", {ratio:.2f}x fewer {name}" for name, ratio in found["counts"].items())
    seconds = "CPU s" if found["clock"] == "cpu_s" else "s"
    rate = "; {ours:.3g} against {theirs:.3g} {unit}".format(**found["rate"]) + f" a {seconds}" if found["rate"] else ""
    share = ""
    if found["share_of_limit"]:  # by operations that ours needs, so that whoever took no other time would be so many times as fast
        most = found["ratio"] / found["share_of_limit"]["ours"]
        share = "; {ours:.0%} and {theirs:.0%} of the machine's limit, where it is {most:.1f}x".format(**found["share_of_limit"], most=most)
    return (
        f"{found['name']:18}{found['ratio']:7.2f}x  ({cpu}wall {min(wall):.2f} to {max(wall):.2f}{counts})"
        f"{rate}{share}; peak {peak['ours']:.0f} and {peak['theirs']:.0f} MB; {setting}; {found['gate']}"
    )


def extent(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def cpu_model() -> str:
    """What the processor calls itself."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", told.read_text()) if told.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    threads, cpus = torch.get_num_threads(), len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {"cpu": cpu_model(), "cpus": cpus, "gpu": gpu, "torch": torch.__version__, "threads": threads, "python": platform.python_version()}


def write(path: Path, results: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def metrics(found: dict[str, Any]) -> dict[str, float]:
    """How many times better than theirs it is, by what is compared with an older file: ratios say the same on any machine."""
    peak = found.get("peak_mb", {})
    memory = {"memory": peak["theirs"] / peak["ours"]} if min(peak.values(), default=0) > 0 else {}
    return {"speed": found["ratio"], **memory, **found["counts"]}


def worse(old: Path, results: list[dict[str, Any]]) -> list[str]:
    """What became worse against theirs since an older file, by more than is usual between two of its runs."""

    def which(found: dict[str, Any]) -> str:
        return json.dumps([found["name"], found["setting"]], sort_keys=True)

    before = {which(r): metrics(r) for r in json.loads(old.read_text())["results"]}
    found = []
    for r in results:
        for name, now in metrics(r).items():
            then = before.get(which(r), {}).get(name)
            if then is not None and now < then * (1 - LOST.get(name, LOST["speed"])):
                found.append(f"{r['name']}: in {name} it was {then:.2f} times as good as the plain way and is {now:.2f}")
    return found

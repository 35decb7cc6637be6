"""What a stage takes of the machines while it runs, so that stages run side by side as long as there is room."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cluster.config import RuntimeConfig

Work = Literal["driver", "tasks", "training", "replicas"]
"""Where a stage does its work: in the driver itself, in tasks, in a training's workers, or on the replicas that all
stages share."""


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of the machines."""

    cpus: float
    gpus: float = 0.0

    def hold(self, other: Resources) -> bool:
        return other.cpus <= self.cpus and other.gpus <= self.gpus

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus)


def needed(work: Work, runtime: RuntimeConfig) -> Resources:
    """What one stage takes."""
    on_gpu = runtime.on_gpu
    return {
        "driver": Resources(0),
        "tasks": Resources(1),
        "training": Resources(runtime.workers, runtime.workers if on_gpu else 0),
        "replicas": Resources(runtime.replicas, runtime.replicas if on_gpu else 0),
    }[work]


def fits(work: Work, running: Iterable[Work], runtime: RuntimeConfig, capacity: Resources) -> bool:
    """Is there room for a stage beside those that run? Alone, each may: then it waits for what it needs, or is refused.

    The driver does one stage at a time, because its threads share one interpreter.
    """
    others = list(running)
    if not others:
        return True
    if work == "driver":
        return "driver" not in others
    taken = Resources(0)
    for kind in (*(w for w in others if w != "replicas"), *({"replicas"} & {*others, work})):
        taken += needed(kind, runtime)  # type: ignore[arg-type]
    if work != "replicas":
        taken += needed(work, runtime)
    return capacity.hold(taken)

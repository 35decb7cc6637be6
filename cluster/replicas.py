"""What a service's replicas are given, and what their cluster must have for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.config import RuntimeConfig
from components.errors import ConfigError, Problem
from components.models.device import Placement, num_gpus, resolve
from components.options import parse


@dataclass(frozen=True)
class Replicas:
    """Equal replicas of one model."""

    count: int
    threads: int
    """Of each."""
    gpus: float
    """Of each; a fraction shares one."""
    placement: Placement
    """Of each one's network. Ray shows a replica its own GPU only, so it has no number."""

    def wanted(self) -> dict[str, Any]:
        """What Ray is asked for."""
        return {"num_replicas": self.count, "ray_actor_options": {"num_cpus": 1, "num_gpus": self.gpus}}


def runtime_of(models: Sequence[Replicas]) -> RuntimeConfig:
    """A cluster on this machine that has room for the replicas of all models.

    Raises:
        ConfigError: they need more GPUs than there are.
    """
    gpus = sum(r.count * r.gpus for r in models)
    if gpus > num_gpus():
        rule = f"of all models' replicas together at most the {num_gpus()} GPUs that torch sees"
        raise ConfigError([Problem("gpus", gpus, rule, "use fewer replicas, or fewer gpus for each")])
    plain = {
        "replicas": sum(r.count for r in models),
        "threads": max(r.threads for r in models),
        "gpus": math.ceil(gpus),
        "device": "cuda" if any(r.placement.device == "cuda" for r in models) else "cpu",
    }
    return parse(RuntimeConfig, plain, "runtime")


def replicas_of(
    info: Mapping[str, Any], replicas: int, threads: int, device: str = "auto", dtype: str = "auto", gpus: float = 0.0
) -> Replicas:
    """The replicas that options ask for.

    Args:
        info: config.json of the export.
        device: auto, cpu or cuda; auto is cuda where GPUs are asked for, or torch sees one.
        gpus: of each replica; 0 is one where the network is on a GPU.
    Raises:
        ConfigError: there are no, or too few, GPUs here, or they would not be used.
    """
    placement = resolve("cuda" if device == "auto" and gpus else device, dtype, info)
    on_gpu = placement.device == "cuda"
    if gpus < 0 or (gpus and not on_gpu):
        rule = "0 where the network is on the CPU, else more than 0"
        raise ConfigError([Problem("gpus", gpus, rule, "use device=cuda, or drop gpus")])
    each = (gpus or 1.0) if on_gpu else 0.0
    if replicas * each > num_gpus():
        rule = f"replicas ({replicas}) x gpus is at most the {num_gpus()} GPUs that torch sees"
        raise ConfigError([Problem("gpus", each, rule, f"use gpus={num_gpus() / replicas:.3g}, or fewer replicas")])
    return Replicas(replicas, threads, each, placement)

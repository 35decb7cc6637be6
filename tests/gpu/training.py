"""A short training by DeepSpeed at ZeRO 1, 2 and 3 on the device, against plain torch on the CPU."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from cluster.cluster import TrainLaunch
from cluster.config import RuntimeConfig
from cluster.open import open_cluster
from components.training import checkpoint
from tests.doubles import TINY, job, token_rows
from tests.gpu.outcome import Outcome, tried

PART = "training"
TOLERANCE = 1e-3
"""Absolute, of weights of size 0.1 to 1 after six steps of float32 at a rate of 0.01."""


def outcomes(device: str, stages: tuple[int, ...] = (1, 2, 3)) -> Iterator[Outcome]:
    for stage in stages:
        yield tried(PART, f"ZeRO {stage}", partial(equals_plain_torch, stage, device))


def equals_plain_torch(stage: int, device: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        rows = token_rows(Path(folder) / "rows")
        kind = device.partition(":")[0]
        found = trained(Path(folder) / "zero", rows, {"engine": "deepspeed", "zero_stage": stage, "device": kind})
        expected = trained(Path(folder) / "torch", rows, {"engine": "torch", "device": "cpu"})
    worst = max(float((found[n] - expected[n]).abs().max()) for n in expected)
    assert worst < TOLERANCE, f"a weight is off by {worst:.3g}"
    return f"largest difference of a weight {worst:.3g}"


def trained(folder: Path, rows: Path, options: dict[str, object]) -> dict[str, torch.Tensor]:
    """Weights after a short ProSeCo training through the local executor."""
    runtime = RuntimeConfig(executor="local", workers=1, **options)  # type: ignore[arg-type]
    folder.mkdir()
    made = job(folder, rows)
    cluster = open_cluster(runtime)
    try:
        cluster.train(TrainLaunch(job=made, model=dataclasses.replace(TINY), init=None, runtime=runtime))
    finally:
        cluster.close()
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None
    return {name: tensor for _, name, tensor in checkpoint.read(last, ("weight",))}

"""How fast a training goes, and what share of the machine's limit that is.

The limit is measured and not looked up: the rate of one large product of matrices, in the training's own arithmetic and on
its own threads. No training reaches it, and two on the same cores share it.
"""

from __future__ import annotations

import time

import torch

from components.training.config import TrainConfig

OF_THE_CLOCK = ("tokens_per_s", "machine_share")
"""What is told of the speed; two equal trainings differ in these."""
TRIES = 3
SIDES = {"cpu": 768, "cuda": 8192}
"""Of the matrices: large enough to be limited by arithmetic, small enough to take no time that one would notice."""


def limit(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of the fastest of a few products."""
    side = SIDES.get(device.type, SIDES["cuda"])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(TRIES):
        begun = time.perf_counter()
        float((a @ a)[0, 0])  # which waits for the device
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


class Speed:
    """Positions since the last report, and the time they took."""

    def __init__(self, config: TrainConfig, flops: float, device: torch.device, world_size: int):
        """``flops``: of one forward and backward of a position."""
        self.flops = flops * config.objective.passes(config.steps)
        self.world_size = world_size
        self.limit = limit(device, config.precision)
        self.positions, self.begun = 0, time.monotonic()

    def count(self, positions: int) -> None:
        """So many more were trained on by this rank."""
        self.positions += positions

    def flush(self) -> dict[str, float]:
        """Tokens a second of all ranks, padding included, and this rank's share of its limit; then start again."""
        seconds = max(1e-9, time.monotonic() - self.begun)
        rate, self.positions, self.begun = self.positions / seconds, 0, time.monotonic()
        return {"tokens_per_s": rate * self.world_size, "machine_share": rate * self.flops / self.limit}

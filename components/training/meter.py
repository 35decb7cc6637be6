"""Means of what was measured since the last report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from components.training.speed import Speed


class Meter:
    """Sums and counts since the last report, divided once, after they were added over all ranks."""

    def __init__(self, all_reduce: Callable[[Tensor], Tensor], device: torch.device, speed: Speed | None = None):
        """``all_reduce`` adds a tensor on ``device`` over the ranks; all of them must report together."""
        self.all_reduce, self.device, self.speed = all_reduce, device, speed
        self.sums: dict[str, float | Tensor] = defaultdict(float)
        self.counts: dict[str, float | Tensor] = defaultdict(float)
        self.per_step: set[str] = set()
        self.num_steps = 0

    def add(self, metrics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add (sum, count) pairs, which are reported as the mean over the count."""
        for name, (total, count) in metrics.items():
            self.sums[name] = self.sums[name] + total.double()
            self.counts[name] = self.counts[name] + count.double()

    def add_per_step(self, name: str, total: Tensor) -> None:
        """Add to a sum that is reported as the mean over steps."""
        self.sums[name] = self.sums[name] + total.double()
        self.per_step.add(name)

    def count_step(self, positions: int) -> None:
        """One more optimiser step is done, on so many positions of this rank."""
        self.num_steps += 1
        if self.speed is not None:
            self.speed.count(positions)

    def flush(self) -> dict[str, float]:
        """The means since the last call, without those whose count is 0, and start again from nothing."""
        names = sorted(self.sums)
        if not names:
            return {}
        own = [[self.sums[n], 0.0 if n in self.per_step else self.counts[n]] for n in names]
        table = torch.tensor([[float(a), float(b)] for a, b in own], dtype=torch.float64)
        table = self.all_reduce(table.to(self.device)).cpu()
        values = {}
        for name, (total, count) in zip(names, table.tolist(), strict=True):
            divisor = self.num_steps if name in self.per_step else count
            if divisor:
                values[name] = total / divisor
        self.sums.clear()
        self.counts.clear()
        self.num_steps = 0
        return values if self.speed is None else values | self.speed.flush()

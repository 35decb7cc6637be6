"""Every objective on the device: losses and gradients of the CPU, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from components.objectives.config import MdlmConfig
from components.training.engine import Autocast
from tests.gpu.outcome import Outcome, tried
from tests.learning import CONFIGS, alone, batch, cut, gradients, network, terms_of

PART = "objectives"
TOLERANCE = 1e-6
"""Absolute, of gradients of size 1; corruption and weights are in float32 on both sides."""


def outcomes(device: str) -> Iterator[Outcome]:
    for config in CONFIGS:
        yield tried(PART, str(config), partial(equals_the_cpu, config, device))
    for compiled in (False, True):
        name = f"rows of several lengths in bfloat16, {'compiled' if compiled else 'plain'}"
        yield tried(PART, name, partial(several_lengths_are_near, device, compiled))


def equals_the_cpu(config: Any, device: str) -> str:
    """Sums, counts and every gradient."""
    (found, slopes), (expected, wanted) = (measured(config, where) for where in (device, "cpu"))
    assert found.keys() == expected.keys()
    worst = max(abs(found[name] - expected[name]) / (1 + abs(expected[name])) for name in expected)
    worst = max(worst, *(float((slopes[n].cpu() - wanted[n]).abs().max()) for n in wanted))
    assert worst < TOLERANCE, f"off by {worst:.3g}"
    return f"largest difference {worst:.3g}"


def several_lengths_are_near(device: str, compiled: bool) -> str:
    """Gradients of rows that share one kernel of attention, against float64 and each row by itself."""
    rows = cut(batch(rows=6, prompt=2, device=device), [8, 8, 5, 5, 3, 7])
    model, reference = (network(MdlmConfig(), device=where) for where in (device, "cpu"))
    wanted = gradients(MdlmConfig(), list(alone(cut(batch(rows=6, prompt=2), [8, 8, 5, 5, 3, 7]))), reference)
    if compiled:
        model.compile_blocks()
    found = gradients(MdlmConfig(), [rows], model.float(), Autocast(model, torch.device(device), enabled=True))
    worst = max(float((found[n].cpu() - wanted[n]).norm() / (1e-3 + wanted[n].norm())) for n in wanted)
    assert worst < 0.05, f"off by {worst:.3g}"
    return f"largest relative difference {worst:.3g}"


def measured(config: Any, device: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    given = batch(rows=6, prompt=2, pads=1, device=device)
    terms = terms_of(config, given, network(config, device=device))
    losses = {name: float(term.loss_sum.detach()) for name, term in terms.items()}
    return losses, gradients(config, [given], network(config, device=device))

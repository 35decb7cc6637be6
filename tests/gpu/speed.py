"""Tokens a second of a training step and of sampling. Measured, not judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from components.diffusion import noise
from components.diffusion.schedule import LogLinear
from components.models.config import ModelConfig
from components.models.device import Placement
from components.models.transformer import Transformer
from components.models.weights import place
from components.objectives.base import Batch, Setting
from components.objectives.config import ProsecoConfig
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Row, Vocabulary
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler
from components.training.config import OptimizerConfig
from components.training.engine import TorchEngine
from components.training.loop import build_objective
from tests.gpu.outcome import Outcome, tried

PART = "speed"
SHAPES = {"cpu": ("nano", 16, 32, 64), "cuda": ("dit_small", 32, 512, 32000)}
"""Kind of device: (preset of a network, rows, positions, vocabulary)."""
ROUNDS = 3


def outcomes(device: str) -> Iterator[Outcome]:
    for precision in ("fp32", "bf16"):
        yield tried(PART, f"training step of proseco, {precision}", partial(training, device, precision))
    for dtype in ("float32", "bfloat16"):
        for name in ("mdlm", "proseco"):
            yield tried(PART, f"sampling by {name}, {dtype}", partial(sampling, device, dtype, name))


def rate(action: Callable[[], object], num_tokens: int, device: str) -> str:
    """Median tokens a second of some rounds after one that warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        action()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return f"{num_tokens / sorted(times[1:])[ROUNDS // 2]:.0f} tokens/s"


def training(device: str, precision: str) -> str:
    shape, rows, length, size = SHAPES[device.partition(":")[0]]
    torch.manual_seed(0)
    engine = TorchEngine(Transformer(ModelConfig(shape), size), OptimizerConfig(), precision, device)
    objective = build_objective(ProsecoConfig(), Setting(0, LogLinear(), 0.1, size))
    tokens = torch.randint(1, size, (rows, length)).to(device)
    index, whole = torch.arange(rows, device=device), torch.ones_like(tokens, dtype=torch.bool)
    given = Batch(tokens, whole, whole, index, noise.row_keys(0, index), rows, 1)

    def step() -> None:
        for term in objective.terms(engine.network, objective.corrupt(given)):
            engine.backward(term.loss_sum / (rows * length))
        engine.step(1e-4)

    return rate(step, rows * length, device)


def sampling(device: str, dtype: str, name: str) -> str:
    shape, rows, length, size = SHAPES[device.partition(":")[0]]
    torch.manual_seed(0)
    model = place(Transformer(ModelConfig(shape), size).eval(), Placement(device, dtype))  # type: ignore[arg-type]
    sampler = build_sampler(preset(name, steps=16), Vocabulary(0))
    canvas = [Row(i, (0,) * length, (False,) * length) for i in range(rows)]

    def run() -> None:
        engine = Engine(lambda _, length: Session(model, sampler, length, rows, device=device))
        assert len(list(engine.run(SamplerConfig(), canvas))) == rows

    return rate(run, rows * length, device)

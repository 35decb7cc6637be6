"""A training step against the published one, with one set of weights; and what it costs against plain masked diffusion.

Peak memory is that of a step above what is held between two (weights, moments, Python): on a GPU what torch tells, on a CPU
that of a process of its own, whose allocator gives large blocks back at once, so that the highest resident size is that of
what is alive.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.schedule import LogLinear
from components.models.compiled import compile_for_cpu
from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.transformer import Transformer
from components.objectives.base import Batch, Setting
from components.objectives.config import MdlmConfig, ObjectiveOptions, ProsecoConfig
from components.objectives.mdlm import Noised
from components.training.config import OptimizerConfig
from components.training.engine import TorchEngine
from components.training.loop import build_objective, train_step
from components.training.meter import Meter
from tests.bench import plain_training as plain
from tests.bench.paired import Pair, forget_peak, resident

MASK = 0
OBJECTIVES: dict[str, ObjectiveOptions] = {"mdlm": MdlmConfig(), "proseco": ProsecoConfig(), "mixed": MdlmConfig()}
STEPS = {"mdlm": plain.mdlm, "proseco": plain.proseco, "mixed": plain.mixed}
NAMES = [f"train_{name}{precision}" for name in (*OBJECTIVES, "cost") for precision in ("", "_bf16")]
"""``train_cost`` is ProSeCo's step of ours against MDLM's: a half is a step that costs two of them. ``train_mixed`` is MDLM's on rows
of which each has another length, from a sixteenth of the longest on."""
PEAK_ENV = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0", "OMP_NUM_THREADS": "1"}


class Rows:
    """Global batches of random rows: what ``train_step`` reads of a ``RowSource``."""

    seed = 0

    def __init__(self, rows: int, length: int, vocab: int, device: str = "cpu"):
        self.shape, self.vocab, self.device = (rows, length), vocab, torch.device(device)

    def batches(self, step: int) -> Iterator[Batch]:
        index = torch.arange(self.shape[0])
        tokens = torch.randint(1, self.vocab, self.shape, generator=torch.Generator().manual_seed(step))
        everywhere = torch.ones(self.shape, dtype=torch.bool)
        keys = noise.row_keys(self.seed, step * len(index) + index)
        yield Batch(*(x.to(self.device) for x in (tokens, everywhere, everywhere, index, keys)), len(index), step)


class MixedRows(Rows):
    """The same rows, cut to sizes that are drawn anew each step."""

    def batches(self, step: int) -> Iterator[Batch]:
        for batch in super().batches(step):
            rows, length = self.shape
            drawn = torch.randint(max(1, length // 16), length + 1, (rows,), generator=torch.Generator().manual_seed(step))
            sizes = drawn.sort(descending=True).values  # as ``RowSource`` has them
            there = (torch.arange(length) < sizes[:, None]).to(self.device)
            yield replace(batch, maskable=there, target=there, sizes=sizes)


def rows_of(name: str, given: dict[str, Any]) -> Rows:
    kind = MixedRows if name == "mixed" else Rows
    return kind(given["rows"], given["length"], given["vocab"], given.get("device", "cpu"))


def network(given: dict[str, Any]) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(preset=given["size"]), given["vocab"]).to(given.get("device", "cpu"))


def setting_of(name: str, given: dict[str, Any]) -> Setting:
    return Setting(MASK, LogLinear(), OBJECTIVES[name].smallest_time(), given["vocab"])


def ours(name: str, precision: str, given: dict[str, Any]) -> Callable[[], None]:
    """Steps of this project, one a call."""
    engine = engine_of(network(given), precision, given)
    objective, rows = build_objective(OBJECTIVES[name], setting_of(name, given)), rows_of(name, given)
    meter, steps = Meter(engine.all_reduce, engine.device), iter(range(10**6))
    return lambda: train_step(engine, objective, rows, next(steps), meter, 1e-4) and None  # type: ignore[arg-type]


def engine_of(model: Transformer, precision: str, given: dict[str, Any]) -> TorchEngine:
    """Blocks are compiled on a GPU, and on a CPU where ``--compile true`` asks for it (``runtime.compile``)."""
    device = given.get("device", "cpu")
    if device != "cpu":
        model.compile_blocks()
    elif given.get("compile"):
        compile_for_cpu(model.blocks, model.head)
    return TorchEngine(model, OptimizerConfig(), precision, device)


def theirs(name: str, precision: str, given: dict[str, Any]) -> Callable[[], None]:
    """Steps of the published code, one a call."""
    model = network(given)
    forward, weights = plain.Network(model, fused_attention=given.get("device", "cpu") != "cpu"), list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
    rows, steps, t_min = rows_of(name, given), iter(range(10**6)), OBJECTIVES[name].smallest_time()

    def step() -> None:
        number = next(steps)
        batch = next(rows.batches(number))
        clean = batch.tokens
        noised, time = plain.noise(clean, MASK, t_min, torch.Generator(clean.device).manual_seed(number))
        plain.step(optimizer, weights, STEPS[name](forward, clean, noised, time, MASK, precision, **told(name, batch)))

    return step


def told(name: str, batch: Batch) -> dict[str, Tensor]:
    """What the published step has to know of rows besides tokens."""
    return {"there": batch.maskable} if name == "mixed" else {}


SIDES = {"ours": ours, "theirs": theirs}


def build(name: str, given: dict[str, Any]) -> Pair:
    """One of ``NAMES``."""
    on_gpu = given["device"] != "cpu"
    what, precision = name.removeprefix("train_").removesuffix("_bf16"), "bf16" if name.endswith("_bf16") else "fp32"
    if what == "cost":
        mine, other = (("ours", "proseco"), ("ours", "mdlm"))
    else:
        mine, other = (("ours", what), ("theirs", what))

    def side(which: str, objective: str) -> Callable[[], dict[str, float]]:
        step = SIDES[which](objective, precision, given)

        def timed() -> dict[str, float]:
            step()
            if on_gpu:
                return {}
            return {"peak MB": peak_mb(which, objective, precision, tuple(sorted(given.items())))}

        return timed

    def same() -> str:
        for which, objective in () if on_gpu else (mine, other):
            peak_mb(which, objective, precision, tuple(sorted(given.items())))  # outside of what is timed
        return "no gate: two objectives" if what == "cost" else equal(what, precision, given)

    # Operations of kernels are not counted, and what is first called while somebody counts is not compiled.
    return Pair(name, given, side(*mine), side(*other), same, precision="" if given.get("compile") else precision)


def equal(name: str, precision: str, given: dict[str, Any]) -> str:
    """Losses and gradients of both sides, given one noise."""
    model = network(given)
    batch = next(rows_of(name, given).batches(1))
    objective = build_objective(OBJECTIVES[name], setting_of(name, given))
    noised: Noised = objective.corrupt(batch)
    engine = engine_of(copy.deepcopy(model), precision, given)
    count = batch.num_positions
    total, shown = 0.0, []
    engine._model.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    for term in objective.terms(engine.network, noised):
        engine.backward(term.loss_sum / count)
        total += float(term.loss_sum.detach()) / count
    # In bf16 the best of two tokens that are nearly alike is not the same one, and another draft has another gradient.
    drafted = {"draft": shown[1]} if name == "proseco" and precision == "bf16" else {}
    asked = drafted | told(name, batch)
    loss = STEPS[name](plain.Network(model), batch.tokens, noised.tokens, noised.time, MASK, precision, **asked)
    loss.backward()
    found = float(loss.detach())
    mine, other = ([p.grad.to_dense() for p in m.parameters() if p.grad is not None] for m in (engine._model, model))
    off, apart = abs(total / found - 1), max(distance(a, b) for a, b in zip(mine, other, strict=True))
    bounds = (1e-5, 1e-4) if precision == "fp32" else (1e-3, 0.05)
    assert off < bounds[0], f"the losses differ by {off:.1e}"
    assert apart < bounds[1], f"gradients differ by {apart:.1e}"
    return f"losses within {off:.1e}, gradients within {apart:.1e}"


def distance(a: Tensor, b: Tensor) -> float:
    """Of two gradients, as a share of the second."""
    return float((a - b).norm() / b.norm())


@cache
def peak_mb(which: str, objective: str, precision: str, given: tuple[tuple[str, Any], ...]) -> float:
    """Of a step, above what its process holds between steps."""
    asked = [which, objective, precision, *(f"{k}={v}" for k, v in given if k in ("vocab", "length", "rows", "size", "compile"))]
    made = subprocess.run(
        [sys.executable, "-m", "tests.bench.training", *asked], env=os.environ | PEAK_ENV, capture_output=True, text=True, check=True
    )
    return float(made.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("asked", nargs=3)
    parser.add_argument("given", nargs="*")
    parsed = parser.parse_args()
    which, objective, precision = parsed.asked
    given: dict[str, Any] = {k: int(v) if v.isdigit() else v == "True" if k == "compile" else v for k, _, v in (pair.partition("=") for pair in parsed.given)}
    use_threads(1)
    step = SIDES[which](objective, precision, given)
    step()
    between = forget_peak()  # which the making of kernels may have been
    step()
    print(resident("VmHWM") - between)


if __name__ == "__main__":
    main()

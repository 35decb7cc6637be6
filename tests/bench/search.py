"""Self-rewarding search: ours against the released loop, with one network, as many chains and as many calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.models.device import Placement
from components.samplers import SamplerConfig, preset
from tests.bench import plain
from tests.bench.paired import Pair
from tests.bench.sampling import PRECISION, TOP_P, alike, of_export, random_network, sample

PARTICLES = 4
"""Of the paper's evaluation."""
ESS = 0.5
"""Share of them below which they are resampled."""
DRAWS = 2000
"""Samples by which laws are compared."""


def build(name: str, given: dict[str, Any]) -> Pair:
    """Each of ``given["rows"]`` samples is one of four chains, written position by position and resampled eight times, as
    published at their length of 1,024. Ours searches for all samples at once; theirs for one after the other.
    """
    placement = Placement(given["device"], given["dtype"])
    theirs_in = Placement(given["device"], given["plain_dtype"] or given["dtype"])
    if given["export"]:
        (model, mask_id), (plain_model, _) = (of_export(Path(given["export"]), p) for p in (placement, theirs_in))
    else:
        model, plain_model = (random_network(given["size"], given["vocab"], p) for p in (placement, theirs_in))
        mask_id = 0
    rows, length, seeds = given["rows"], given["length"], iter(range(10**6))
    every = max(1, length // 8)

    def ours() -> dict[str, float]:
        return {"calls": sample(model, sampler(every, TOP_P, ESS), mask_id, rows, length, next(seeds), given["deterministic"])[1]}

    @torch.inference_mode()
    def theirs() -> dict[str, float]:
        generator, loop = torch.Generator(placement.device).manual_seed(next(seeds)), plain.Loop(mask_id, length, top_p=TOP_P)
        made = [plain.self_rewarding(lambda t: plain_model(t).logits, PARTICLES, length, every, ESS, loop, generator) for _ in range(rows)]
        return {"calls": sum(calls for _, calls in made) / rows}

    setting = {k: given[k] for k in ("vocab", "length", "rows", "size", "export", "device", "dtype", "plain_dtype", "deterministic")}
    return Pair(name, setting, ours, theirs, same_law, precision=PRECISION[placement.dtype])


def sampler(every: int, top_p: float, ess: float) -> SamplerConfig:
    return preset("sr_smc", draw={"top_p": top_p}, search={"particles": PARTICLES, "every": every, "ess": ess, "pick": "first"})


def same_law(length: int = 3, vocab: int = 6, ess: float = 0.7) -> str:
    """The share of each row of a small network under both. Without a nucleus, and of a network that is sure of itself and resampled
    more often than published: else few chains are lost, and the law is hardly another one than without a search.
    """
    model, loop, every = random_network("nano", vocab, Placement("cpu", "float32")), plain.Loop(0, length), 1
    with torch.no_grad():
        model.head.weight.mul_(3)
    mine, _ = sample(model, sampler(every, 1.0, ess), 0, DRAWS, length, 1, True, lanes=400)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(2)
        made = [plain.self_rewarding(lambda t: model(t).logits, PARTICLES, length, every, ess, loop, generator)[0] for _ in range(DRAWS)]
    return alike(mine, torch.cat(made), vocab)

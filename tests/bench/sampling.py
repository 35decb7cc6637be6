"""Sampling against the published evaluation loop, with one network."""

from __future__ import annotations

from typing import Any

import torch

from components.models.config import ModelConfig
from components.models.device import Placement
from components.models.transformer import Transformer
from components.models.weights import place
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.engine import Engine
from components.samplers.sampler import build_sampler
from components.samplers.session import Session
from tests.bench import plain
from tests.bench.paired import Pair

MASK = 0
TOP_P = 0.9
"""Of the released evaluation scripts."""
DRAWS = 4000
"""Rows by which laws are compared."""


def network_of(shape: str, vocab: int, device: str) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(preset=shape), vocab).eval()
    with torch.no_grad():
        model.head.weight.mul_(5)  # so that something is likelier than something else
    return place(model, Placement(device, "float32"))


def ours(model: Transformer, config: SamplerConfig, rows: int, length: int, seed: int, lanes: int, deterministic: bool) -> tuple[torch.Tensor, float]:
    """(tokens [B, L], calls of a row)."""
    sampler = build_sampler(config, Vocabulary(MASK), Extras())
    engine = Engine(lambda *_: Session(model, sampler, length, num_lanes=lanes, deterministic=deterministic))
    made = list(engine.run(config, [Row(i, (MASK,) * length, (False,) * length, seed=seed) for i in range(rows)]))
    return torch.tensor([s.tokens for s in made]), sum(s.calls for s in made) / rows


def pair(name: str, passes: int, given: dict[str, Any]) -> Pair:
    """One of ``sample_mdlm`` and ``sample_proseco``."""
    vocab, length, rows, steps, shape = (given[k] for k in ("vocab", "length", "rows", "steps", "size"))
    device, deterministic = given["device"], given["deterministic"]
    model = network_of(shape, vocab, device)
    config = sampler_of(passes, steps)
    loop = plain.Loop(MASK, steps, passes, TOP_P)
    seeds = iter(range(10**6))

    def mine() -> dict[str, float]:
        return {"calls": ours(model, config, rows, length, next(seeds), rows, deterministic)[1]}

    @torch.inference_mode()
    def theirs() -> dict[str, float]:
        generator = torch.Generator(device).manual_seed(next(seeds))
        return {"calls": plain.ancestral(lambda t: model(t).logits, rows, length, loop, generator)[1]}

    return Pair(name, given, mine, theirs, lambda: same_law(passes))


def sampler_of(passes: int, steps: int) -> SamplerConfig:
    if not passes:
        return preset("mdlm", steps=steps, draw={"top_p": TOP_P})
    return preset("proseco", steps=steps, draw={"top_p": TOP_P}, corrector={"passes": passes, "draft": "argmax"})


def same_law(passes: int, length: int = 3, vocab: int = 4, steps: int = 4) -> str:
    """The share of each row of a small network under both, which differ by no more than two draws of one law do."""
    model = network_of("nano", vocab, "cpu")
    config = sampler_of(passes, steps)
    loop = plain.Loop(MASK, steps, passes, TOP_P, exact=True)
    mine, _ = ours(model, config, DRAWS, length, 1, 500, True)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(2)
        batches = [plain.ancestral(lambda t: model(t).logits, 500, length, loop, generator)[0] for _ in range(DRAWS // 500)]
    powers = vocab ** torch.arange(length)
    a, b = (torch.bincount((t * powers).sum(-1), minlength=vocab**length).double() for t in (mine, torch.cat(batches)))
    seen = a + b > 0
    distance = float(((a - b) ** 2 / (a + b))[seen].sum())
    freedom = int(seen.sum()) - 1
    bound = freedom + 5 * (2 * freedom) ** 0.5
    assert distance < bound, f"the laws differ: chi-square {distance:.1f} with {freedom} degrees of freedom"
    return f"one law: chi-square {distance:.1f} of {freedom}"


PAIRS = {"sample_mdlm": 0, "sample_proseco": 1}


def build(name: str, given: dict[str, Any]) -> Pair:
    return pair(name, PAIRS[name], given)

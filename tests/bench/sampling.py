"""Sampling against the published evaluation loop, with one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.models.config import ModelConfig
from components.models.device import DTypeName, Placement
from components.models.transformer import Transformer
from components.models.weights import place, read_info, row_length
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.engine import Engine
from components.samplers.sampler import build_sampler
from components.samplers.session import Session
from components.shards.model import load
from tests.bench import plain
from tests.bench.paired import Pair

PRECISION = {"float32": "fp32", "bfloat16": "bf16", "int8": ""}
"""For the machine's limit. A network in 8 bits multiplies in float32, too, so that one rate is none for it."""
TOP_P = 0.9
"""Of the released evaluation scripts."""
DRAWS = 4000
"""Rows by which laws are compared."""
PASSES = {"sample_mdlm": 0, "sample_proseco": 1, "corrector_stops": 8}
"""Of the corrector in each step. The last is about calls: each row's loop ends at its own fixed point, or the batch's."""


def build(name: str, given: dict[str, Any]) -> Pair:
    """Ours against theirs. ``given["export"]`` names a trained network, whose loops have fixed points; a random one has few.

    Both compute in ``given["dtype"]``, but where ``given["plain_dtype"]`` has the published loop in another one.
    """
    length, rows, steps = (given[k] for k in ("length", "rows", "steps"))
    placement = Placement(given["device"], given["dtype"])
    theirs_in = Placement(given["device"], given["plain_dtype"] or given["dtype"])
    passes, seeds = PASSES[name], iter(range(10**6))
    if given["export"]:
        length = row_length(read_info(Path(given["export"])), length)
        (model, mask_id), (plain_model, _) = (of_export(Path(given["export"]), p) for p in (placement, theirs_in))
    else:
        model, plain_model = (random_network(given["size"], given["vocab"], p) for p in (placement, theirs_in))
        mask_id = 0
    config, loop = sampler_of(passes, steps), plain.Loop(mask_id, steps, passes, TOP_P)

    def ours() -> dict[str, float]:
        return {"calls": sample(model, config, mask_id, rows, length, next(seeds), given["deterministic"])[1]}

    @torch.inference_mode()
    def theirs() -> dict[str, float]:
        generator = torch.Generator(placement.device).manual_seed(next(seeds))
        return {"calls": plain.ancestral(lambda t: plain_model(t).logits, rows, length, loop, generator)[1]}

    return Pair(name, given, ours, theirs, lambda: same_law(passes, placement.dtype), precision=PRECISION[placement.dtype])


def random_network(shape: str | ModelConfig, vocab: int, placement: Placement) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(preset=shape) if isinstance(shape, str) else shape, vocab).eval()
    with torch.no_grad():
        model.head.weight.mul_(5)  # so that something is likelier than something else
    return place(model, placement)


def of_export(folder: Path, placement: Placement) -> tuple[Transformer, int]:
    loaded = load(folder, placement)
    return loaded.network, loaded.tokenizer.mask_id


def sampler_of(passes: int, steps: int) -> SamplerConfig:
    if not passes:
        return preset("mdlm", steps=steps, draw={"top_p": TOP_P})
    return preset("proseco", steps=steps, draw={"top_p": TOP_P}, corrector={"passes": passes, "draft": "argmax"})


def sample(
    model: Transformer, config: SamplerConfig, mask_id: int, rows: int, length: int, seed: int, deterministic: bool, lanes: int = 0
) -> tuple[torch.Tensor, float]:
    """(tokens [B, L], calls of a row)."""
    sampler = build_sampler(config, Vocabulary(mask_id), Extras())
    device = str(next(model.parameters()).device)
    engine = Engine(lambda *_: Session(model, sampler, length, lanes or rows, deterministic, device))
    canvas = (mask_id,) * length
    made = list(engine.run(config, [Row(i, canvas, (False,) * length, seed=seed) for i in range(rows)]))
    return torch.tensor([s.tokens for s in made]), sum(s.calls for s in made) / rows


def same_law(passes: int, dtype: DTypeName, length: int = 3, vocab: int = 4, steps: int = 4) -> str:
    """The share of each row of a small network under both, which differ by no more than two draws of one law do."""
    model = random_network("nano", vocab, Placement("cpu", dtype))
    loop = plain.Loop(0, steps, passes, TOP_P, exact=True)
    mine, _ = sample(model, sampler_of(passes, steps), 0, DRAWS, length, 1, True, lanes=500)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(2)
        batches = [plain.ancestral(lambda t: model(t).logits, 500, length, loop, generator)[0] for _ in range(DRAWS // 500)]
    return alike(mine, torch.cat(batches), vocab)


def alike(mine: torch.Tensor, theirs: torch.Tensor, vocab: int) -> str:
    """As many rows [n, L] of one as of the other, of a few tokens each. Raises AssertionError where they are of two laws."""
    length = mine.shape[1]
    powers = vocab ** torch.arange(length)
    a, b = (torch.bincount((t * powers).sum(-1), minlength=vocab**length).double() for t in (mine, theirs))
    seen = a + b > 0
    distance, freedom = float(((a - b) ** 2 / (a + b))[seen].sum()), int(seen.sum()) - 1
    bound = freedom + 5 * (2 * freedom) ** 0.5
    assert distance < bound, f"the laws differ: chi-square {distance:.1f} with {freedom} degrees of freedom"
    return f"one law: chi-square {distance:.1f} of {freedom}"

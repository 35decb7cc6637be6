"""Writing in blocks with a cache against the same without, with one network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from components.models.config import ModelConfig
from components.models.device import Placement
from components.models.transformer import Transformer
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Row, Sample, Vocabulary
from components.samplers.engine import Engine
from components.samplers.needs import exact_cache
from components.samplers.sampler import build_sampler
from components.samplers.session import Session
from components.shards.model import extras_of
from tests.bench.paired import Pair
from tests.bench.sampling import PRECISION, of_export, random_network

LENGTH = 32
"""Of a block, and of an attention block of a random network."""
OWN = {"length": 512}
"""What is not as in other benchmarks where nothing is said."""


def build(name: str, given: dict[str, Any]) -> Pair:
    """``given["length"]`` positions in blocks of 32, ``given["steps"]`` calls in all, greedy, by confidence, on a random network
    that sees in attention blocks of 32, so that both sides make the same rows; or on a trained one (``given["export"]``). What
    is counted says what share of the rows is computed, and of full attention how many tokens are those without a cache.
    """
    length, rows = given["length"], given["rows"]
    placement = Placement(given["device"], given["dtype"])
    if given["export"]:
        model, mask_id = of_export(Path(given["export"]), placement)
    else:
        shape = ModelConfig(preset=given["size"], attention_block=LENGTH)
        model, mask_id = random_network(shape, given["vocab"], placement), 0
    plain = preset("llada_block", steps=given["steps"], blocks={"length": LENGTH, "early_end": False})
    cached = with_cache(plain, 0)

    def made(config: SamplerConfig) -> list[Sample]:
        return sample(model, config, mask_id, rows, length, given["deterministic"])

    def cost(samples: list[Sample]) -> dict[str, float]:
        return {"positions computed": sum(s.call_positions for s in samples) / rows}

    def same() -> str:
        few = {"steps": 2 * -(-length // LENGTH)}
        exact, anew, kept = ([s.tokens for s in made(replace(c, **few))] for c in (plain, with_cache(plain, 1), cached))
        assert anew == exact, "with all made anew in each call rows are not those without a cache"
        share = (torch.tensor(kept) == torch.tensor(exact)).double().mean()
        if exact_cache(cached, vars(model.config)):
            assert share == 1, f"attention is block-causal, and {1 - share:.2%} of tokens are not those without a cache"
            return "equal rows"
        return f"equal where all is made anew in each call; cached, {share:.0%} of tokens are the same"

    return Pair(name, given, lambda: cost(made(cached)), lambda: cost(made(plain)), same, precision=PRECISION[placement.dtype])


def with_cache(config: SamplerConfig, refresh: int) -> SamplerConfig:
    return replace(config, blocks=replace(config.blocks, cache=True, refresh=refresh))


def sample(model: Transformer, config: SamplerConfig, mask_id: int, rows: int, length: int, deterministic: bool) -> list[Sample]:
    """Rows whose first token is drawn for each, so that they differ."""
    sampler = build_sampler(config, Vocabulary(mask_id), extras_of(model))
    device = str(next(model.parameters()).device)
    engine = Engine(lambda *_: Session(model, sampler, length, rows, deterministic, device))
    other = [1 + i % (model.vocab_size - 1) for i in range(rows)]
    asked = [Row(i, (other[i], *[mask_id] * (length - 1)), (True, *[False] * (length - 1))) for i in range(rows)]
    return sorted(engine.run(config, asked), key=lambda s: s.id)

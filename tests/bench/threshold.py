"""Writing whatever is confident enough, in blocks: ours against Fast-dLLM's loop, with one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.models.device import Placement
from components.models.transformer import Transformer
from components.samplers import SamplerConfig, preset
from tests.bench import blocks, plain
from tests.bench.paired import Pair
from tests.bench.sampling import PRECISION, of_export, random_network

LEAST = 0.9
"""Confidence, of their paper."""
SHARPER = 16.0
"""A random network is made so much surer of itself: with less it is never sure enough, and writes token by token."""


def build(name: str, given: dict[str, Any]) -> Pair:
    """``given["length"]`` positions behind one given token in blocks of 32, greedy. Ours writes ``given["rows"]`` at once, each
    with calls of its own; theirs one after the other, as published. What a row costs is what its network is sure of: those of
    ``given["export"]``, or a random one.
    """
    placement = Placement(given["device"], given["dtype"])
    theirs_in = Placement(given["device"], given["plain_dtype"] or given["dtype"])
    if given["export"]:
        (model, mask_id), (plain_model, _) = (of_export(Path(given["export"]), p) for p in (placement, theirs_in))
    else:
        model, plain_model = (sure_network(given["size"], given["vocab"], p) for p in (placement, theirs_in))
        mask_id = 0
    rows, length = given["rows"], given["length"]

    def ours() -> dict[str, float]:
        return {"calls": sum(s.calls for s in blocks.sample(model, sampler(), mask_id, rows, length, given["deterministic"])) / rows}

    def theirs() -> dict[str, float]:
        return {"calls": sum(calls for _, calls in one_by_one(plain_model, mask_id, rows, length)) / rows}

    setting = {k: given[k] for k in ("vocab", "length", "rows", "size", "export", "device", "dtype", "plain_dtype", "deterministic")}
    return Pair(name, setting, ours, theirs, same, precision=PRECISION[placement.dtype])


def sampler() -> SamplerConfig:
    return preset(
        "threshold", schedule={"threshold": LEAST}, draw={"temperature": 0.0}, blocks={"length": blocks.LENGTH, "early_end": False}
    )


def sure_network(shape: str, vocab: int, placement: Placement) -> Transformer:
    found = random_network(shape, vocab, placement)
    with torch.no_grad():
        found.head.weight.mul_(SHARPER)
    return found


@torch.inference_mode()
def one_by_one(model: Transformer, mask_id: int, rows: int, length: int) -> list[tuple[torch.Tensor, int]]:
    """(tokens [1, L], calls) of rows whose first token is that of ``blocks.sample``."""
    device = next(model.parameters()).device
    prompts = (torch.tensor([[1 + i % (model.vocab_size - 1)]], device=device) for i in range(rows))
    return [plain.threshold(lambda t: model(t).logits, p, length, mask_id, LEAST, blocks.LENGTH) for p in prompts]


def same(rows: int = 8, length: int = 80, vocab: int = 64) -> str:
    """Equal tokens by as many calls, of a small network in float32: with fewer bits what is nearly alike comes out either way."""
    model = sure_network("nano", vocab, Placement("cpu", "float32"))
    mine, other = blocks.sample(model, sampler(), 0, rows, length, True), one_by_one(model, 0, rows, length)
    assert [s.tokens for s in mine] == [tuple(tokens[0].tolist()) for tokens, _ in other], "the tokens differ"
    assert [s.calls for s in mine] == [calls for _, calls in other], "the calls differ"
    calls = sum(calls for _, calls in other) / rows
    return f"{rows} rows of {length} equal tokens each, by {calls:.1f} calls"

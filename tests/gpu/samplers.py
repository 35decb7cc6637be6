"""Every preset on the device: the rows of the CPU in float64, and whole rows from a network in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from components.models.config import ModelConfig
from components.models.device import Placement
from components.models.transformer import Transformer
from components.models.weights import place
from components.samplers import PRESETS, SamplerConfig, preset
from components.samplers.contract import Row, Sample, Vocabulary
from components.samplers.sampler import build_sampler
from components.shards.model import extras_of
from tests.decoding import decode, likes_last, policy, rows_of, run
from tests.gpu.outcome import Outcome, tried
from tests.oracle import Oracle

PART = "samplers"
ROWS = 24
TOLERANCE = 0.1
"""Of a logit of size 1, in bfloat16, whose unit roundoff is 0.004."""


def outcomes(device: str) -> Iterator[Outcome]:
    for name in sorted(PRESETS):
        yield tried(PART, f"{name}, as on the CPU", partial(equals_the_cpu, name, device))
        yield tried(PART, f"{name}, bfloat16", partial(is_whole_in_bfloat16, name, device))
    yield tried(PART, "logits, bfloat16", partial(logits_are_near, device))
    yield tried(PART, "attention in blocks, with a cache", partial(cache_is_exact, device))


def equals_the_cpu(name: str, device: str) -> str:
    """Equal tokens, calls and edits under the oracle, whose float64 numbers are the same but for their last bits."""
    found = on_oracle(name, device)
    expected = on_oracle(name, "cpu")
    equal = sum(found[i] == expected[i] for i in expected)
    assert equal == len(expected) == ROWS, f"{equal} of {ROWS} rows are those of the CPU"
    return f"{equal} rows equal"


def on_oracle(name: str, device: str) -> dict[int, Sample]:
    oracle = Oracle(num_tokens=3, length=6, seed=4, device=device)
    return run(oracle, preset(name), rows_of(oracle, ROWS, prompt=2))


def network(config: SamplerConfig, placement: Placement) -> Transformer:
    """A small network with what a sampler needs."""
    torch.manual_seed(0)
    encoder = "dsl" if config.encoder == "dsl" else "tokens"
    shape = ModelConfig(dim=32, depth=2, heads=2, encoder=encoder, noise_dim=8, mask_id=4, quality_layers=1)
    model = Transformer(shape, 8).eval()
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return place(model, placement)


def is_whole_in_bfloat16(name: str, device: str) -> str:
    """Prompts kept and no mask left. Rows are others than in float32, so they are not compared."""
    config = preset(name)
    model = network(config, Placement(device, "bfloat16"))
    sampler = build_sampler(config, Vocabulary(4), replace(extras_of(model), policy=policy))
    rows = rows_of(Oracle(num_tokens=4, length=5), ROWS, prompt=2)
    found = decode(model, sampler, rows, reward=likes_last, device=device)
    assert len(found) == ROWS
    assert all(s.tokens[0] == 2 and 4 not in s.tokens for s in found.values()), "a prompt was lost or a mask left"
    return f"{sum(s.calls for s in found.values()) / ROWS:.1f} calls a row"


def cache_is_exact(device: str) -> str:
    """Of a network that sees in attention blocks, rows with a cache are those without, and those of the CPU."""

    rows = [Row(i, (i % 4, *[4] * 23), (True, *[False] * 23)) for i in range(ROWS)]

    def made(cache: bool, device: str) -> list[tuple[int, ...]]:
        torch.manual_seed(0)
        model = Transformer(ModelConfig(dim=32, depth=2, heads=2, num_positions=24, attention_block=4), 8).eval()
        torch.nn.init.normal_(model.head.weight, std=0.3)
        config = preset("llada_block", steps=24, blocks={"length": 4, "cache": cache})
        sampler = build_sampler(config, Vocabulary(4), extras_of(place(model, Placement(device))))
        found = decode(model, sampler, rows, device=device)
        return [found[row.id].tokens for row in rows]

    plain = made(False, device)
    assert made(True, device) == plain, "a row with a cache is another one"
    assert made(False, "cpu") == plain, "a row is not that of the CPU"
    return f"{len(plain)} rows equal"


@torch.inference_mode()
def logits_are_near(device: str) -> str:
    """float32 out of bfloat16, and near those of the CPU in float32."""
    tokens = torch.randint(0, 8, (16, 12), generator=torch.Generator().manual_seed(1))
    found, expected = (
        network(SamplerConfig(), p)(tokens.to(p.device)).logits for p in (Placement(device, "bfloat16"), Placement())
    )
    assert found.dtype == torch.float32
    worst = float(((found.cpu() - expected).abs() / (1 + expected.abs())).max())
    assert 0 < worst < TOLERANCE, f"a logit is off by {worst:.3g}"
    return f"largest relative difference {worst:.3g}"

"""What a request will cost at most, known from the shape of its model, before anything of it is run.

A sampler is built and started on tensors without values, so that its own state says how much memory a row takes, and
its own ``max_calls`` how often the network is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch

from components.data.tokenizer import Tokenizer
from components.models.config import ModelConfig
from components.models.transformer import Transformer
from components.options import parse
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras
from components.samplers.sampler import build_sampler
from components.shards.model import extras_of, vocabulary_of

REWARD_CALLS = 16
"""Calls that a reward may need for one row: those of the scorer that needs most."""


@dataclass(frozen=True)
class Plan:
    """Of one row."""

    max_calls: int
    """Calls of the network, those for rewards included."""
    num_bytes: int
    """Memory of its state; 0 where it was not looked at, because the calls are too many already."""


class Planner:
    """Plans for one model."""

    def __init__(self, info: Mapping[str, Any], tokenizer: Tokenizer):
        self.info, self.vocabulary = info, vocabulary_of(tokenizer)
        self.plan = lru_cache(maxsize=256)(self._plan)

    @cached_property
    def extras(self) -> Extras:
        """The shapes of what parts need besides the network."""
        names = {f.name for f in dataclasses.fields(ModelConfig)}
        with torch.device("meta"):
            config = parse(ModelConfig, {k: v for k, v in self.info.items() if k in names})
            network = Transformer(config, self.info["vocab_size"])
            return extras_of(network)

    def _plan(self, sampler: SamplerConfig, length: int, max_calls: int) -> Plan:
        """The plan of a row of this length. Where it needs more than ``max_calls``, only that is said."""
        built = build_sampler(sampler, self.vocabulary, self.extras)
        calls = built.max_calls(length) + REWARD_CALLS * num_rewards(sampler, length)
        if calls > max_calls:
            return Plan(calls, 0)
        with torch.device("meta"):
            canvas, ids = torch.zeros(1, length, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
            return Plan(calls, built.start(canvas, canvas.bool(), ids, ids).num_bytes())


def num_rewards(sampler: SamplerConfig, length: int) -> int:
    """Rewards that a row's search asks for at most."""
    search = sampler.search
    if not search.reward_name:
        return 0
    points = sampler.ticks(length) // search.ticks_between + 1 if search.ticks_between else 1
    return search.num_chains * search.num_sweeps * search.num_guesses * points

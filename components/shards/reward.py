"""Rewards of full rows: scorers, signed so that larger is better."""

from __future__ import annotations

from torch import Tensor, tensor

from components.samplers.config import SamplerConfig
from components.samplers.contract import Reward, Row
from components.scorers import SCORERS
from components.scorers.base import ScoredRow, Scorer, ScorerSetting
from components.shards.canvas import given_by, num_leading


def reward_of(config: SamplerConfig, setting: ScorerSetting) -> Reward | None:
    """The reward that a sampler's search asks for, or None.

    Raises:
        ConfigError: there is no such scorer.
        SamplingError: the scorer lacks what it needs, e.g. the rules of a corpus.
    """
    if not config.search.reward_name:
        return None
    options = SCORERS.find(config.search.reward_name)()
    score: Scorer = options.load()(options, setting)

    def reward(tokens: Tensor, rows: list[Row]) -> Tensor:
        ids = tokens.tolist()
        scored = [scored_row(setting, row, found) for row, found in zip(rows, ids, strict=True)]
        values = tensor(score(scored)[options.column], device=tokens.device)
        return values if options.larger_is_better else -values

    return reward


def scored_row(setting: ScorerSetting, row: Row, ids: list[int]) -> ScoredRow:
    """A full row as scorers see it."""
    num_prompt = num_leading(row)
    decode = setting.tokenizer.decode
    prompt = decode(ids[:num_prompt], stop_at_end=False)
    return ScoredRow(row.id, prompt, decode(ids[num_prompt:]), tuple(ids), num_prompt, given_by(row), row.label)

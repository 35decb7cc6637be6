"""Rewards of full rows: scorers, signed so that larger is better."""

from __future__ import annotations

from torch import Tensor, tensor

from components.data.prompts import num_leading
from components.errors import SamplingError
from components.plugins import lookup
from components.samplers.config import SamplerConfig
from components.samplers.engine import Reward, Row
from components.scorers import METRICS, SCORERS
from components.scorers.base import ScoredRow, ScorerSetting


def reward_of(config: SamplerConfig, setting: ScorerSetting) -> Reward | None:
    """The reward that a sampler's search asks for, or None.

    Raises:
        ConfigError: there is no such scorer.
        SamplingError: the scorer lacks what it needs, e.g. the rules of a corpus.
    """
    name = getattr(config.search, "reward", "")
    if not name:
        return None
    plugin = lookup(SCORERS, name, "scorer")
    if "judge" in plugin.needs and setting.judge is None:
        raise SamplingError("The reward 'judge' needs a trained judge, and there is none here. Use another reward.")
    score = plugin.load()(plugin.config(), setting)
    column, larger_is_better = METRICS[name]

    def reward(tokens: Tensor, rows: list[Row]) -> Tensor:
        ids = tokens.tolist()
        scored = [scored_row(setting, row, found) for row, found in zip(rows, ids, strict=True)]
        values = tensor(score(scored)[column], device=tokens.device)
        return values if larger_is_better else -values

    return reward


def scored_row(setting: ScorerSetting, row: Row, ids: list[int]) -> ScoredRow:
    num_prompt = num_leading(row)
    decode = setting.tokenizer.decode
    prompt = decode(ids[:num_prompt], stop_at_end=False)
    return ScoredRow(row.id, prompt, decode(ids[num_prompt:]), tuple(ids), num_prompt)

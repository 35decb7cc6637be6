"""Three calls that do what the commands do, in one process and without a cluster.

from components.api import load, sample, score

model = load("runs/demo/export/0123456789abcdef")
rows = sample(model, sampler="proseco", num_samples=8, steps=6)
numbers = score(model, rows, ["nelbo", "entropy"])
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.prompts import canvas
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import SamplingError
from components.models.transformer import Transformer
from components.models.weights import load_model
from components.plugins import lookup
from components.samplers import PARTS, PRESETS, SamplerConfig, needs
from components.samplers.engine import Sample
from components.samplers.shard import sample_rows
from components.scorers import SCORERS
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.shard import score_rows


@dataclass(frozen=True)
class Model:
    """An exported model that is ready to use."""

    network: Transformer
    tokenizer: Tokenizer
    info: Mapping[str, Any]
    """Its config.json."""


@dataclass(frozen=True)
class Text:
    """A sample with its text."""

    text: str
    prompt: str
    sample: Sample


def load(folder: str | Path) -> Model:
    """An exported folder. Raises ModelError or DataError where it is not one."""
    path = Path(folder)
    network = load_model(path)
    info = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return Model(network, load_tokenizer(path / "tokenizer.json"), info)


def preset(name: str, **options: Any) -> SamplerConfig:
    """A sampler preset as published; ``options`` are fields of SamplerConfig such as ``steps``.

    Raises:
        ConfigError: there is no preset of this name.
    """
    defaults = lookup(PRESETS, name, "sampler preset").defaults
    parts = {}
    for family in PARTS:
        section = dict(defaults[family])
        parts[family] = PARTS[family][section.pop("name")].config(**section)
    return dataclasses.replace(SamplerConfig(preset=name, **parts), **options)


def check_fit(config: SamplerConfig, info: Mapping[str, Any], allow_untrained: bool) -> None:
    """Raise SamplingError if the model was not trained for what the sampler does to it."""
    if "visible_supervision" in needs(config) and not info.get("visible_supervision") and not allow_untrained:
        raise SamplingError(
            f"The sampler {config.preset!r} replaces visible tokens, and this model was trained with "
            f"{info.get('trained_with', 'an unknown objective')!r}, which never taught it what to say there. "
            f"Use a model trained with proseco, another sampler, or allow_untrained=true for a control."
        )


def sample(
    model: Model,
    sampler: str | SamplerConfig = "mdlm",
    num_samples: int = 1,
    prompts: Sequence[str] = ("",),
    length: int = 0,
    seed: int = 0,
    num_lanes: int = 0,
    trace: bool = False,
    allow_untrained: bool = False,
    **options: Any,
) -> list[Text]:
    """Samples of every prompt, in order.

    Args:
        sampler: name of a preset, or a configured one.
        num_samples: for each prompt.
        length: positions of a row; 0 is the trained length.
        options: fields of SamplerConfig that the preset should have otherwise, e.g. ``steps=6``.
    Raises:
        SamplingError: the model was not trained for the sampler.
    """
    config = preset(sampler, **options) if isinstance(sampler, str) else sampler
    check_fit(config, model.info, allow_untrained)
    length = length or int(model.info["length"])
    asked = [(p, i) for p in prompts for i in range(num_samples)]
    rows = [canvas(model.tokenizer, length, i, p, trace=trace) for p, i in asked]
    lanes = num_lanes or min(64, len(rows))
    samples = sample_rows(model.network, model.tokenizer, config, rows, seed, lanes, deterministic=True)
    return [
        Text(model.tokenizer.decode(s.tokens[sum(r.fixed) :]), p, s)
        for s, r, (p, _) in zip(samples, rows, asked, strict=True)
    ]


def score(
    model: Model,
    rows: Sequence[Text],
    scorers: Sequence[str] = ("nelbo", "entropy"),
    source: Any = None,
    judge: str | Path | None = None,
) -> dict[str, list[float]]:
    """Columns of numbers, one value a row.

    Args:
        source: config of the corpus whose rules apply, for ``validity``.
        judge: folder of a trained judge, for ``judge``.
    """
    setting = ScorerSetting(model.tokenizer, source, model.network, Path(judge) if judge else None)
    scored = [
        ScoredRow(
            r.sample.id,
            r.prompt,
            r.text,
            r.sample.tokens,
            len(model.tokenizer.encode_batch([r.prompt])[0]) if r.prompt else 0,
        )
        for r in rows
    ]
    configs = {name: lookup(SCORERS, name, "scorer").config() for name in scorers}
    return score_rows(scored, configs, setting)

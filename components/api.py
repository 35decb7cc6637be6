"""Three calls that do what the commands do, in one process and without a cluster.

from components.api import load, sample, score

model = load("runs/demo/export/0123456789abcdef")
rows = sample(model, sampler="proseco", num_samples=8, steps=6)
numbers = score(model, rows, ["nelbo", "entropy"])
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.prompts import canvas, num_leading
from components.errors import ConfigError
from components.plugins import lookup
from components.samplers import PRESETS, SamplerConfig, changed, configured
from components.samplers.engine import Sample
from components.samplers.fit import check_fit
from components.samplers.shard import Loaded, sample_rows
from components.samplers.shard import load as load_folder
from components.scorers import SCORERS
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.shard import score_rows


@dataclass(frozen=True)
class Model(Loaded):
    """An exported model that is ready to use."""

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
    model = load_folder(path, "cpu")
    info = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return Model(model.network, model.tokenizer, model.extras, info)


def preset(name: str, **options: Any) -> SamplerConfig:
    """A sampler preset as published, with options of one's own, nested as in a run's YAML:
    ``preset("proseco", steps=6, corrector={"passes": 2})``.

    Raises:
        ConfigError: there is no such preset, or the options do not fit together.
        TypeError: there is no such option.
    """
    lookup(PRESETS, name, "sampler preset")
    config = configured(name, changed(name, options))
    if problems := config.problems("sampler"):
        raise ConfigError(problems)
    return config


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
    label: int | None = None,
    template: Sequence[str | int] = (),
    source: Any = None,
    judge: str | Path | None = None,
    **options: Any,
) -> list[Text]:
    """Samples of every prompt, in order.

    Args:
        sampler: name of a preset, or a configured one.
        num_samples: for each prompt.
        length: positions of a row; 0 is the trained length.
        label: class of every row, for a network with classes.
        template: instead of a prompt, texts and numbers of positions to write, in order.
        source, judge: config of a corpus and folder of a judge, for searches that such a reward steers.
        options: what the preset should have otherwise, e.g. ``steps=6``; see ``preset``.
    Raises:
        SamplingError: the model was not trained for the sampler.
    """
    config = preset(sampler, **options) if isinstance(sampler, str) else sampler
    check_fit(config, model.info, allow_untrained)
    length = length or int(model.info["length"])
    asked = [(p, i) for p in prompts for i in range(num_samples)]
    rows = [canvas(model.tokenizer, length, i, p, label, tuple(template), trace) for p, i in asked]
    lanes = num_lanes or min(64, len(rows))
    setting = ScorerSetting(model.tokenizer, source, model.network, Path(judge) if judge else None)
    samples = sample_rows(model, config, rows, seed, lanes, True, "cpu", setting)
    return [
        Text(model.tokenizer.decode(s.tokens[num_leading(r) :]), p, s)
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

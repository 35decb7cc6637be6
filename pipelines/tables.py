"""The pages of the documentation that are made of the options classes: samplers, objectives, scorers and corpora."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora import CORPORA
from components.data.prompts import PromptsConfig
from components.diffusion.config import NOISES, DrawConfig
from components.models.config import ModelConfig
from components.objectives import OBJECTIVES
from components.options import MAX_WHOLE, describe
from components.plugins import Family
from components.samplers import PARTS, PRESETS, SamplerConfig, needs, preset
from components.samplers.config import BlocksConfig, GuardConfig, GuidanceConfig
from components.samplers.needs import NEEDS
from components.scorers import SCORERS
from components.training.config import OptimizerConfig, TrainConfig
from pipelines.config.nightly import GateConfig, NightlyConfig
from pipelines.config.schema import Comparison, GenerateConfig, RunConfig, SamplingConfig

MADE = "<!-- Made by `proseco list --markdown`; change the options classes instead. -->"
TITLES = {
    "schedule": "Schedules: how much is revealed by when",
    "unmask": "Orders: which masked positions come first",
    "corrector": "Correctors: which written tokens change",
    "inputs": "Inputs: what the network sees at a position",
    "search": "Searches: how many chains a sample has, and which survive",
}


def pages() -> dict[str, str]:
    """File name to text."""
    return {"samplers.md": samplers(), "objectives.md": objectives(), "reference.md": run_options()}


def samplers() -> str:
    """Presets, then every part with its options."""
    lines = [
        "# Samplers",
        MADE,
        "",
        "A sampler is a choice of parts that multiply. A preset names one published system; any of its options can be",
        "changed: `--sampler prism schedule=cosine unmask=margin search=self_rewarding` is a sampler, and what does not",
        "fit is refused before anything runs, with the rule and a remedy. `configs/samplers/` holds published settings",
        "that differ from a preset's own. `draw`, `guidance`, `blocks` and `guard` go with every choice.",
        "",
        "## Presets",
        "",
        *table(("preset", "what it does", "parts", "a model must bring", "paper"), map(preset_row, PRESETS)),
    ]
    for field, family in PARTS.items():
        lines += ["", f"## {TITLES[field]}", "", f"Chosen by `{field}: NAME` or `{field}: {{name: NAME, ...}}`."]
        lines += cards(family)
    lines += [
        "",
        "## What all samplers share",
        "",
        *options_of(SamplerConfig),
    ]
    shared: dict[str, Any] = {
        "draw": DrawConfig,
        "guidance": GuidanceConfig,
        "blocks": BlocksConfig,
        "guard": GuardConfig,
    }
    for name, kind in shared.items():
        lines += ["", f"### `{name}`", "", summary(kind), "", *options_of(kind)]
    return text(lines)


def preset_row(name: str) -> tuple[str, ...]:
    config, named = preset(name), PRESETS[name]
    usual = SamplerConfig().parts()
    changed = [f"{field} {part.name}" for field, part in config.parts().items() if part.name != usual[field].name]
    own = ", ".join(changed) or "the defaults"
    lacking = ", ".join(NEEDS[n].name for n in needs(config))
    return f"`{name}`", named.summary, own, lacking, named.paper


def objectives() -> str:
    """Every objective with its options."""
    lines = [
        "# Objectives",
        MADE,
        "",
        "A training names one by `objective: NAME` or `objective: {name: NAME, ...}`. `configs/objectives/` holds published",
        "settings; a training names such a file, alone or under fields of its own. A head or an encoder that an objective",
        "needs comes with it, stays in what starts from it, and is exported.",
        "",
        *table(
            ("objective", "what it trains", "work of a step", "teaches visible tokens", "paper"),
            map(objective_row, OBJECTIVES),
        ),
        *cards(OBJECTIVES),
        "",
        "## Noise schedules",
        *cards(NOISES),
    ]
    return text(lines)


def objective_row(name: str) -> tuple[str, ...]:
    options = OBJECTIVES[name]()
    taught = (
        "keeps what its start was taught"
        if options.trains_heads_only()
        else "yes"
        if options.teaches_visible()
        else "no"
    )
    return f"`{name}`", options.summary(), f"{options.passes(1000):.3g}", taught, options.paper


def run_options() -> str:
    """Every option of a run but those of samplers and objectives."""
    sections: Mapping[str, Any] = {
        "a run": RunConfig,
        "corpora.NAME": CorpusConfig,
        "tokenizer": TokenizerConfig,
        "rows": RowsConfig,
        "model": ModelConfig,
        "train.NAME": TrainConfig,
        "train.NAME.optimizer": OptimizerConfig,
        "generate": GenerateConfig,
        "samplers.NAME": SamplingConfig,
        "runtime": type(RunConfig().runtime),
        "a nightly run": NightlyConfig,
        "gate": GateConfig,
        "a comparison": Comparison,
        "prompts": PromptsConfig,
    }
    lines = [
        "# Reference: the options of a run",
        MADE,
        "",
        "Those of [samplers](samplers.md) and [objectives](objectives.md) have pages of their own; `proseco options PATH` says the",
        "same of any option in a terminal. `proseco list --schema > run.schema.json` writes the JSON Schema of all of them; with",
        "`# yaml-language-server: $schema=run.schema.json` as its first line, editors complete and check a run. Whole numbers here,",
        f"and in samplers and objectives, are at most {MAX_WHOLE} where nothing else is said.",
    ]
    for name, kind in sections.items():
        lines += ["", f"## `{name}`", "", summary(kind), "", *options_of(kind)]
    lines += ["", "## Corpora", "", "Chosen by `corpora.NAME.source: {name: ..., ...}`.", *cards(CORPORA)]
    lines += ["", "## Scorers", "", "Chosen by `scorers: {NAME: {...}}`.", *cards(SCORERS)]
    return text(lines)


def cards(family: Family[Any]) -> list[str]:
    """A heading, a sentence, the paper and the options of every card."""
    lines: list[str] = []
    for name, card in family.items():
        lines += [
            "",
            f"### `{name}`",
            "",
            summary(card) + (f" ({card.paper})" if card.paper else ""),
            *options_of(card, lead=[""]),
        ]
    return lines


def options_of(kind: type[Any], lead: Iterable[str] = ()) -> list[str]:
    """A table of a class's options; nothing where it has none."""
    rows = [(f"`{o.name}`", o.kind, f"`{o.default}`", o.text) for o in describe(kind)]
    return [*lead, *table(("option", "values", "default", "meaning"), rows)] if rows else []


def summary(kind: type[Any]) -> str:
    """All of a class's docstring, as one paragraph."""
    return " ".join((kind.__doc__ or "").split())


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in rows
    ]


def text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"

"""Named samplers, one for each published system: nested options that a run may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from components import papers
from components.errors import ConfigError, Problem
from components.options import Reads, collect, json_schema, malformed, not_in
from components.samplers.config import SamplerConfig
from components.samplers.options import PARTS
from components.samplers.rules import problems as rules


@dataclass(frozen=True)
class Preset:
    """Options over the defaults of ``SamplerConfig``; a part may stand by its name alone."""

    summary: str
    paper: str
    options: Mapping[str, Any]


BY_CONFIDENCE: dict[str, Any] = {"schedule": "fixed_count", "unmask": "confidence"}
COSINE: dict[str, Any] = {"schedule": "cosine", "unmask": {"name": "confidence", "noise": 1.0}}
UNTIL_FULL: dict[str, Any] = {"unmask": "confidence", "steps": 0}
GREEDY: dict[str, Any] = {"draw": {"temperature": 0.0}}
GREEDY_BLOCKS: dict[str, Any] = {**GREEDY, "blocks": {"length": 32}}
REFILL: dict[str, Any] = {"schedule": "linear", "unmask": "confidence", "steps": 10, **GREEDY}

PRESETS: dict[str, Preset] = {
    "mdlm": Preset("ancestral sampling, exact", papers.MDLM, {}),
    "first_hitting": Preset("one call a reveal, exact", papers.FHS, {"schedule": "first_hitting", "steps": 0}),
    "maskgit": Preset("cosine schedule, confidence with fading Gumbel noise", papers.MASKGIT, COSINE),
    "confidence": Preset("a fixed count per tick, the most confident positions first", papers.LLADA, BY_CONFIDENCE),
    "threshold": Preset(
        "everything above 0.9 at once, at least one", papers.FAST, {"schedule": "threshold", **UNTIL_FULL}
    ),
    "fast_dllm": Preset(
        "blocks of 32, the factor rule, greedy", papers.FAST, {"schedule": "factor", **UNTIL_FULL, **GREEDY_BLOCKS}
    ),
    "llada_block": Preset(
        "blocks of 32, a fixed count by confidence, greedy", papers.LLADA, {**BY_CONFIDENCE, **GREEDY_BLOCKS}
    ),
    "entropy_bound": Preset(
        "the least uncertain positions up to an entropy bound",
        papers.EB,
        {"schedule": "entropy_bound", "unmask": "entropy", "steps": 0},
    ),
    "remdm_cap": Preset(
        "remask with a capped probability", papers.REMDM, {"corrector": {"name": "remdm", "eta": 0.02}}
    ),
    "remdm_rescale": Preset(
        "remask with a share of the largest allowed probability",
        papers.REMDM,
        {"corrector": {"name": "remdm", "sigma": "rescale", "eta": 0.05}},
    ),
    "remdm_conf": Preset(
        "remask the least confident tokens more often",
        papers.REMDM,
        {"corrector": {"name": "remdm", "sigma": "conf", "eta": 1.0}},
    ),
    "remdm_loop": Preset("plain, then a loop at constant masks, then plain", papers.REMDM, {"corrector": "remdm_loop"}),
    "remdm_switch": Preset(
        "remask late only",
        papers.REMDM,
        {"corrector": {"name": "remdm", "sigma": "rescale", "eta": 0.1, "switch": 0.5}},
    ),
    "dfm": Preset(
        "predictor-corrector of discrete flow matching", papers.DFM, {"corrector": {"name": "remdm", "sigma": "dfm"}}
    ),
    "proseco": Preset("ancestral unmasking with self-correction", papers.PROSECO, {"corrector": "proseco"}),
    "proseco_confidence": Preset(
        "unmasking by confidence with self-correction", papers.PROSECO, {**BY_CONFIDENCE, "corrector": "proseco"}
    ),
    "proseco_llada": Preset(
        "greedy blocks by confidence, every second tick corrected",
        papers.PROSECO,
        {
            **BY_CONFIDENCE,
            **GREEDY_BLOCKS,
            "corrector": {"name": "proseco", "every": 2, "passes": 4, "draft": "argmax", "region": "generated"},
        },
    ),
    "prism": Preset(
        "random order; a quality head says what to remask",
        papers.PRISM,
        {"schedule": "fixed_count", "unmask": "random", "corrector": "prism"},
    ),
    "dsc": Preset(
        "two tokens a call; a correction head says what to remask",
        papers.DSC,
        {"schedule": {"name": "fixed_count", "per_call": 2}, **UNTIL_FULL, "corrector": "dsc"},
    ),
    "free_correction": Preset(
        "swap tokens whose probability stayed low", papers.FREE, {**COSINE, "corrector": "free_correction"}
    ),
    "random_swap": Preset("the control of free_correction", papers.FREE, {**COSINE, "corrector": "random_swap"}),
    "mask_predict": Preset(
        "fill all, mask the least confident, repeat", papers.CMLM, {**REFILL, "corrector": "mask_predict"}
    ),
    "smart": Preset("Mask-Predict that re-predicts every position", papers.SMART, {**REFILL, "corrector": "smart"}),
    "token_edit": Preset(
        "threshold unmasking that overwrites what it disagrees with",
        papers.LLADA21,
        {
            "schedule": {"name": "threshold", "threshold": 0.7},
            **UNTIL_FULL,
            **GREEDY,
            "corrector": "token_edit",
            "guard": {"edits_per_position": 4},
        },
    ),
    "moi": Preset("mixture of inputs on written tokens", papers.MOI, {**BY_CONFIDENCE, "inputs": "mixture"}),
    "soft_mask": Preset("soft masks", papers.SOFT, {**BY_CONFIDENCE, "inputs": "soft_mask"}),
    "dsl": Preset(
        "remasking on a network that reads noisy embeddings",
        papers.DSL,
        {"corrector": {"name": "remdm", "eta": 0.02}, "encoder": "dsl"},
    ),
    "dsl_sde": Preset(
        "noisy embeddings, integrated, then drawn at once",
        papers.DSL,
        {"schedule": "at_end", "inputs": "dsl_sde", "encoder": "dsl"},
    ),
    "learned_policy": Preset(
        "a policy network decides what to reveal; greedy tokens",
        papers.POLICY,
        {"schedule": "learned", **UNTIL_FULL, **GREEDY},
    ),
    "best_of_n": Preset("four ancestral chains, the most probable is kept", papers.MDLM, {"search": "best_of"}),
    "sr_smc": Preset(
        "four chains that reward themselves",
        papers.SMC,
        {"schedule": "first_hitting", "steps": 0, "search": "self_rewarding"},
    ),
    "fk_steering": Preset("four chains steered by a reward", papers.FK, {"search": "steering"}),
    "particle_gibbs": Preset(
        "two sweeps of four chains with a pinned reference", papers.PG, {"search": {"name": "steering", "sweeps": 2}}
    ),
    "cfg": Preset("guidance away from what the prompt's absence predicts", papers.CFG, {"guidance": {"gamma": 0.5}}),
}


def preset(name: str, **options: Any) -> SamplerConfig:
    """A preset as published, with options of one's own, nested as in a run's YAML:
    ``preset("proseco", steps=6, corrector={"passes": 2})``.

    Raises:
        ConfigError: there is no such preset or option, a value is wrong, or the parts do not fit together.
    """
    return read_sampler({**options, "preset": name})


def read_sampler(value: Any, path: str = "sampler") -> SamplerConfig:
    """The sampler that plain options ask for: a preset's name, or a section with ``preset`` and changes to it.

    Raises:
        ConfigError: a name, a type or a value is wrong, or the parts do not go together.
    """
    found: list[Problem] = []
    config: SamplerConfig = collect(Sampler, value, path, found)
    found += [p for p in rules(config, path) if p.path not in {other.path for other in found}]
    if found:
        raise ConfigError(found)
    return config


def with_preset(value: Any) -> tuple[type[SamplerConfig], dict[str, Any]]:
    """A preset's options with the section's own over them. A part named anew starts from its own defaults."""
    section = {"preset": value} if isinstance(value, str) else value
    if not isinstance(section, Mapping):
        raise malformed("the name of a preset, or a section", f"preset: one of {', '.join(PRESETS)}")
    name = section.get("preset", "mdlm")
    if not isinstance(name, str) or name not in PRESETS:
        raise not_in(list(PRESETS), name, "preset")
    options: dict[str, Any] = {"preset": name, **PRESETS[name].options}
    for key, change in section.items():
        if key in PARTS:
            options[key] = over_part(key, options.get(key, DEFAULT_PARTS[key]), change)
        else:
            published = options.get(key)
            both = isinstance(published, Mapping) and isinstance(change, Mapping)
            options[str(key)] = {**published, **change} if both else change  # type: ignore[dict-item]
    return SamplerConfig, options


def over_part(family: str, published: Any, change: Any) -> Any:
    """One part with a change over it."""
    published = {"name": published} if isinstance(published, str) else published
    change = {"name": change} if isinstance(change, str) else change
    same = isinstance(change, Mapping) and change.get("name", published["name"]) == published["name"]
    return {**published, **change} if same else change


DEFAULT_PARTS = {field: part.name for field, part in SamplerConfig().parts().items()}


def sampler_schema() -> dict[str, Any]:
    """The JSON Schema of a sampler: a preset's name, the file of one, or a section."""
    files = {"type": "string", "pattern": r"\.ya?ml$"}
    return {"anyOf": [{"enum": list(PRESETS)}, files, json_schema(SamplerConfig)]}


Sampler = Annotated[SamplerConfig, Reads(with_preset, sampler_schema)]
"""A field that holds a sampler: plain, it is a preset's name, or a section with changes to one."""

"""Named samplers, one for each published system: nested options that a run may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from components.plugins import Plugin
from components.samplers import catalogue as paper
from components.samplers.catalogue import PARTS, needs, part_name
from components.samplers.config import SamplerConfig

PRESETS: dict[str, Plugin] = {}


def define(name: str, summary: str, source: str, **options: Any) -> None:
    """One preset. A part may be given by its name alone."""
    nested = {k: {"name": v} if k in PARTS and isinstance(v, str) else v for k, v in options.items()}
    PRESETS[name] = Plugin(
        SamplerConfig, "components.samplers.search:build", summary, source, needs(configured(name, nested)), nested
    )


def configured(name: str, options: dict[str, Any]) -> SamplerConfig:
    """The config of a preset's nested options."""
    base = SamplerConfig(preset=name)
    found: dict[str, Any] = {}
    for key, value in options.items():
        if key in PARTS:
            section = dict(value)
            found[key] = PARTS[key][section.pop("name")].config(**section)
        else:
            own = getattr(base, key)
            found[key] = replace(own, **value) if is_dataclass(own) and not isinstance(own, type) else value
    return replace(base, **found)


def changed(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's nested options with others over them. A part named anew starts from that part's own defaults."""
    defaults = PRESETS[name].defaults
    base = configured(name, dict(defaults))
    found = {k: dict(v) if isinstance(v, Mapping) else v for k, v in defaults.items()}
    for key, change in options.items():
        if key not in PARTS:
            both = isinstance(found.get(key), Mapping) and isinstance(change, Mapping)
            found[key] = {**found[key], **change} if both else change
            continue
        change = {"name": change} if isinstance(change, str) else change
        published = found.get(key, {"name": part_name(key, getattr(base, key))})
        same = isinstance(change, Mapping) and change.get("name", published["name"]) == published["name"]
        found[key] = {**published, **change} if same else change
    return found


BY_CONFIDENCE = {"schedule": "fixed_count", "unmask": "confidence"}
COSINE = {"schedule": "cosine", "unmask": {"name": "confidence", "noise": 1.0}}
THRESHOLD = {"schedule": "threshold", "unmask": "confidence", "steps": 0}

define("mdlm", "ancestral sampling, exact", paper.MDLM)
define("first_hitting", "one call a reveal, exact", paper.FHS, schedule="first_hitting", steps=0)
define("maskgit", "cosine schedule, confidence with fading Gumbel noise", paper.MASKGIT, **COSINE)
define("confidence", "a fixed count per tick, the most confident positions first", paper.LLADA, **BY_CONFIDENCE)
define("threshold", "everything above 0.9 at once, at least one", paper.FAST, **THRESHOLD)
define(
    "fast_dllm", "blocks of 32, the factor rule, greedy", paper.FAST,
    schedule="factor", unmask="confidence", steps=0, blocks={"length": 32}, draw={"temperature": 0.0},
)  # fmt: skip
define(
    "llada_block", "blocks of 32, a fixed count by confidence, greedy", paper.LLADA,
    **BY_CONFIDENCE, blocks={"length": 32}, draw={"temperature": 0.0},
)  # fmt: skip
define(
    "entropy_bound", "the least uncertain positions up to an entropy bound", paper.EB,
    schedule="entropy_bound", unmask="entropy", steps=0,
)  # fmt: skip
define("remdm_cap", "remask with a capped probability", paper.REMDM, corrector={"name": "remdm", "eta": 0.02})
define(
    "remdm_rescale", "remask with a share of the largest allowed probability", paper.REMDM,
    corrector={"name": "remdm", "sigma": "rescale", "eta": 0.05},
)  # fmt: skip
define(
    "remdm_conf", "remask the least confident tokens more often", paper.REMDM,
    corrector={"name": "remdm", "sigma": "conf", "eta": 1.0},
)  # fmt: skip
define("remdm_loop", "plain, then a loop at constant masks, then plain", paper.REMDM, corrector="remdm_loop")
define(
    "remdm_switch", "remask late only", paper.REMDM,
    corrector={"name": "remdm", "sigma": "rescale", "eta": 0.1, "switch": 0.5},
)  # fmt: skip
define("dfm", "predictor-corrector of discrete flow matching", paper.DFM, corrector={"name": "remdm", "sigma": "dfm"})
define("proseco", "ancestral unmasking with self-correction", paper.PROSECO, corrector="proseco")
define(
    "proseco_confidence", "unmasking by confidence with self-correction", paper.PROSECO,
    **BY_CONFIDENCE, corrector="proseco",
)  # fmt: skip
define(
    "proseco_llada", "greedy blocks by confidence, every second tick corrected", paper.PROSECO,
    **BY_CONFIDENCE, blocks={"length": 32}, draw={"temperature": 0.0},
    corrector={"name": "proseco", "every": 2, "passes": 4, "draft": "argmax", "region": "generated"},
)  # fmt: skip
define(
    "prism", "random order; a quality head says what to remask", paper.PRISM,
    schedule="fixed_count", unmask="random", corrector={"name": "prism"},
)  # fmt: skip
define(
    "dsc", "two tokens a call; a correction head says what to remask", paper.DSC,
    schedule={"name": "fixed_count", "per_call": 2}, unmask="confidence", steps=0, corrector="dsc",
)  # fmt: skip
define(
    "free_correction", "swap tokens whose probability stayed low", paper.FREE,
    **COSINE, corrector="free_correction",
)  # fmt: skip
define("random_swap", "the control of free_correction", paper.FREE, **COSINE, corrector="random_swap")
define(
    "mask_predict", "fill all, mask the least confident, repeat", paper.CMLM,
    schedule="linear", unmask="confidence", steps=10, draw={"temperature": 0.0}, corrector="mask_predict",
)  # fmt: skip
define(
    "smart", "Mask-Predict that re-predicts every position", paper.SMART,
    schedule="linear", unmask="confidence", steps=10, draw={"temperature": 0.0}, corrector="smart",
)  # fmt: skip
define(
    "token_edit", "threshold unmasking that overwrites what it disagrees with", paper.LLADA21,
    schedule={"name": "threshold", "threshold": 0.7}, unmask="confidence", steps=0, draw={"temperature": 0.0},
    corrector="token_edit", guard={"edits_per_position": 4},
)  # fmt: skip
define("moi", "mixture of inputs on written tokens", paper.MOI, **BY_CONFIDENCE, inputs="mixture")
define("soft_mask", "soft masks", paper.SOFT, **BY_CONFIDENCE, inputs="soft_mask")
define(
    "dsl", "remasking on a network that reads noisy embeddings", paper.DSL,
    corrector={"name": "remdm", "eta": 0.02}, encoder="dsl",
)  # fmt: skip
define(
    "dsl_sde", "noisy embeddings, integrated, then drawn at once", paper.DSL,
    schedule="at_end", inputs="dsl_sde", encoder="dsl",
)  # fmt: skip
define(
    "learned_policy", "a policy network decides what to reveal; greedy tokens", paper.POLICY,
    schedule="learned", unmask="confidence", steps=0, draw={"temperature": 0.0},
)  # fmt: skip
define("best_of_n", "four ancestral chains, the most probable is kept", paper.MDLM, search="best_of")
define(
    "sr_smc", "four chains that reward themselves", paper.SMC,
    schedule="first_hitting", steps=0, search="self_rewarding",
)  # fmt: skip
define("fk_steering", "four chains steered by a reward", paper.FK, search="reward")
define(
    "particle_gibbs", "two sweeps of four chains with a pinned reference", paper.PG,
    search={"name": "reward", "sweeps": 2},
)  # fmt: skip
define("cfg", "guidance away from what the prompt's absence predicts", paper.CFG, guidance={"gamma": 0.5})

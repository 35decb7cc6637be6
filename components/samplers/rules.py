"""Which options and which combinations of parts make sense. Nothing is run to know it."""

from __future__ import annotations

import math
from typing import Any

from components.errors import Problem
from components.samplers import config as c
from components.samplers.catalogue import part_name

COUNTING = frozenset({"fixed_count", "cosine", "linear"})
"""Schedules that say how many and leave the choice to the order."""
ORDERLESS = frozenset({"ancestral", "first_hitting", "at_end"})
"""Schedules that name the positions themselves, at random or all."""
ENDLESS = frozenset({"threshold", "factor", "entropy_bound", "learned"})
"""Schedules that end when a row is full, at a tick that nobody knows ahead."""
WITH_BLOCKS = ENDLESS | {"fixed_count"}
SWAPPING = frozenset({"prism", "free_correction", "random_swap"})
"""Correctors that mask tokens and have as many more revealed in the same tick."""


def ends_itself(config: c.SamplerConfig) -> bool:
    """Does the schedule run until the row is full, however many ticks that takes?"""
    schedule = config.schedule
    return part_name("schedule", schedule) in ENDLESS or bool(
        isinstance(schedule, c.FixedCountConfig) and schedule.per_call
    )


def judge(config: c.SamplerConfig, path: str) -> list[Problem]:
    """All broken rules of one sampler."""
    found: list[Problem] = []

    def check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
        if not holds:
            found.append(Problem(f"{path}.{name}", value, rule, remedy))

    judge_values(config, check)
    judge_pairs(config, check)
    return found


def judge_values(config: c.SamplerConfig, check: Any) -> None:
    """Rules of single options."""
    draw = config.draw
    check(
        config.steps >= 0,
        "steps",
        config.steps,
        "0 or more",
        "set the number of unmasking ticks; 0 is as many as positions",
    )
    check(draw.temperature >= 0, "draw.temperature", draw.temperature, "0 or more", "use 0 for argmax")
    check(0 < draw.top_p <= 1, "draw.top_p", draw.top_p, "in (0, 1]", "use 1 to keep all tokens")
    check(draw.top_k >= 0, "draw.top_k", draw.top_k, "0 or more", "use 0 to keep all tokens")
    check(config.guidance.gamma >= 0, "guidance.gamma", config.guidance.gamma, "0 or more", "use 0 for no guidance")
    check(config.blocks.length >= 0, "blocks.length", config.blocks.length, "0 or more", "use 0 for one block")
    guard = config.guard
    check(
        guard.edits_per_position >= 0,
        "guard.edits_per_position",
        guard.edits_per_position,
        "0 or more",
        "0 is no limit",
    )
    check(0 <= guard.edit_share <= 1, "guard.edit_share", guard.edit_share, "in [0, 1]", "0 is no limit")
    check(guard.cooldown >= 0, "guard.cooldown", guard.cooldown, "0 or more", "0 is none")
    for section, name, low, high, remedy in RANGES:
        part = getattr(config, section)
        if not hasattr(part, name) or (type(part), name) in UNLIKE:
            continue
        value = getattr(part, name)
        check(low <= value <= high, f"{section}.{name}", value, interval(low, high), remedy)


def interval(low: float, high: float) -> str:
    return f"at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"


INF = math.inf
RANGES: list[tuple[str, str, float, float, str]] = [
    ("schedule", "t_end", 0, 1 - 1e-9, "the released code uses 1e-5"),
    ("schedule", "threshold", 0, 1, "0.9 is usual"),
    ("schedule", "factor", 0, INF, "1 is usual"),
    ("schedule", "gamma", 0, INF, "0.1 is usual"),
    ("schedule", "temperature", 1e-6, INF, "1 is the trained policy"),
    ("schedule", "scale", 0, INF, "1 is the trained policy"),
    ("unmask", "noise", 0, INF, "0 is none"),
    ("corrector", "every", 1, INF, "1 corrects at every tick"),
    ("corrector", "passes", 1, INF, "use corrector.name=none for 0"),
    ("corrector", "start", 0, INF, "ticks are numbered from 1; PRISM's window is a share"),
    ("corrector", "inner_top_k", 1, INF, "1 is the gentlest"),
    ("corrector", "skip_above", 0, 1, "1 never skips"),
    ("corrector", "eta", 0, 1, "it is a probability"),
    ("corrector", "switch", 0, 1, "1 remasks at all times"),
    ("corrector", "alpha_on", 0, 1, "0.9 is published"),
    ("corrector", "num_remasked", 1, INF, "1 is the gentlest"),
    ("corrector", "queue", 1, INF, "8 is usual"),
    ("corrector", "rounds", 0, INF, "16 is published"),
    ("inputs", "beta", 0, INF, "1 is usual"),
    ("inputs", "top_k", 1, INF, "3 to 20 are usual"),
    ("inputs", "fade", 0, INF, "0 keeps the soft share"),
    ("inputs", "gamma_max", 1e-6, INF, "100 is published"),
    ("search", "particles", 2, INF, "use search.name=single for one chain"),
    ("search", "sweeps", 1, INF, "1 is FK steering"),
    ("search", "every", 1, INF, "ticks between resampling points"),
    ("search", "ess", 0, 1, "0.5 is usual; 1 resamples always"),
    ("search", "beta", 1e-9, INF, "smaller follows the reward more closely"),
    ("search", "guesses", 1, INF, "1 is usual"),
    ("search", "exponent", 0, INF, "1 is published"),
]
UNLIKE = {(c.DscConfig, "threshold")}
"""A threshold below 0 or above 1 on an error is legal: it remasks all, or none."""


def judge_pairs(config: c.SamplerConfig, check: Any) -> None:
    """Rules between options and between parts."""
    schedule, unmask, corrector, inputs, search = (
        part_name(f, getattr(config, f)) for f in ("schedule", "unmask", "corrector", "inputs", "search")
    )
    check(
        schedule not in ORDERLESS or unmask == "random",
        "unmask.name",
        unmask,
        f"the schedule {schedule} names the positions itself",
        "use unmask.name=random, or schedule.name=fixed_count",
    )
    check(
        schedule not in {"threshold", "factor", "learned"} or unmask == "confidence",
        "unmask.name",
        unmask,
        f"the schedule {schedule} goes by confidence",
        "use unmask.name=confidence",
    )
    check(
        not config.blocks.length or schedule in WITH_BLOCKS,
        "blocks.length",
        config.blocks.length,
        f"the schedule {schedule} spreads the whole row over its ticks",
        f"use one of {', '.join(sorted(WITH_BLOCKS))}",
    )
    check(
        not corrector.startswith("remdm") or schedule == "ancestral",
        "schedule.name",
        schedule,
        "ReMDM makes up for what it remasks in the ancestral schedule",
        "use schedule.name=ancestral",
    )
    check(
        corrector not in SWAPPING or schedule in COUNTING,
        "schedule.name",
        schedule,
        f"{corrector} reveals as many more as it masks, so the schedule must count",
        f"use one of {', '.join(sorted(COUNTING))}",
    )
    check(
        corrector not in SWAPPING or not config.blocks.length,
        "blocks.length",
        config.blocks.length,
        f"{corrector} swaps tokens of the whole row",
        "use blocks.length=0",
    )
    check(
        corrector not in SWAPPING or not getattr(config.schedule, "per_call", 0),
        "schedule.per_call",
        getattr(config.schedule, "per_call", 0),
        f"{corrector} keeps to a plan over the ticks",
        "use schedule.per_call=0",
    )
    refill = corrector in {"mask_predict", "smart"}
    check(
        not refill or (schedule in {"linear", "cosine"} and unmask == "confidence"),
        "schedule.name",
        schedule,
        f"{corrector} needs to know how many masks stay, and goes by confidence",
        "use schedule.name=linear and unmask.name=confidence",
    )
    check(
        not refill or not getattr(config.unmask, "noise", 0),
        "unmask.noise",
        getattr(config.unmask, "noise", 0),
        f"{corrector} compares confidences as they are",
        "use unmask.noise=0",
    )
    check(
        corrector != "dsc" or ends_itself(config),
        "schedule.name",
        schedule,
        "Decoupled Self-Correction goes back in time, so the schedule must run until the row is full",
        "set schedule.per_call, or use schedule.name=threshold",
    )
    edits = corrector == "token_edit" and config.corrector.action == "remask"
    check(
        not edits or ends_itself(config),
        "schedule.name",
        schedule,
        "remasked tokens must be written again, so the schedule must run until the row is full",
        "use schedule.name=threshold",
    )
    check(
        (inputs == "dsl_sde") == (schedule == "at_end"),
        "inputs.name",
        inputs,
        "the schedule at_end and the inputs dsl_sde belong together",
        "use both, e.g. preset dsl_sde",
    )
    check(
        inputs != "dsl_sde" or corrector == "none",
        "corrector.name",
        corrector,
        "with dsl_sde tokens are written once, at the end",
        "use corrector.name=none",
    )
    judge_corrector(config, check)
    judge_search(config, search, check)


def judge_corrector(config: c.SamplerConfig, check: Any) -> None:
    """Rules inside one corrector."""
    k = config.corrector
    if isinstance(k, c.ProsecoCorrectorConfig) and k.every >= 1:
        first = -(-max(k.start, k.every) // k.every) * k.every
        known = config.steps and not ends_itself(config)
        check(
            not known or first <= config.steps,
            "corrector.every",
            k.every,
            f"the corrector would never run: its first tick is {first} of {config.steps}",
            "raise steps, or lower corrector.every or corrector.start",
        )
    if isinstance(k, c.RemdmLoopConfig):
        check(
            0 < k.t_off < k.t_on < 1,
            "corrector.t_off",
            (k.t_off, k.t_on),
            "0 < t_off < t_on < 1",
            "0.05 and 0.55 are published",
        )
        check(0 < k.alpha_on < 1, "corrector.alpha_on", k.alpha_on, "in (0, 1)", "0.9 is published")
    if isinstance(k, c.PrismConfig):
        check(
            0 <= k.start < k.stop <= 1,
            "corrector.start",
            (k.start, k.stop),
            "0 <= start < stop <= 1",
            "0.5 and 1 are usual",
        )
    if isinstance(k, c.FreeCorrectionConfig | c.RandomSwapConfig):
        fits = len(k.starts) == len(k.shares) > 0 and list(k.starts) == sorted(k.starts)
        check(fits, "corrector.starts", k.starts, "ascending, one for each of corrector.shares", "e.g. [0.4, 0.6, 0.8]")


def judge_search(config: c.SamplerConfig, search: str, check: Any) -> None:
    """Rules of searches."""
    check(
        search == "single" or config.draw.temperature > 0 or config.unmask == c.RandomConfig(),
        "draw.temperature",
        config.draw.temperature,
        "above 0: at 0 all chains are one",
        "use draw.temperature=1",
    )
    weighted = search in {"self_rewarding", "reward"}
    check(
        not weighted or not isinstance(config.schedule, c.AtEndConfig),
        "search.name",
        search,
        "weights need tokens before the end",
        "use search.name=best_of",
    )
    check(
        search != "reward"
        or not isinstance(config.corrector, c.ProsecoCorrectorConfig)
        or config.corrector.draft_positions == "masked",
        "corrector.draft_positions",
        getattr(config.corrector, "draft_positions", ""),
        "the expected reward is read at masked positions",
        "use corrector.draft_positions=masked",
    )

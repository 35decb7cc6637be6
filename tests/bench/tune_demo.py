"""Tune the demo's samplers on development seeds, both models equally hard, and ask where the gain comes from.

    python -m tests.bench.tune_demo tune EXPORT --space mdlm --calls 6 8 12 24 --out mdlm.jsonl
    python -m tests.bench.tune_demo ablate MDLM_EXPORT PROSECO_EXPORT

``tune`` looks for the best sampler of one export at each number of network calls. Every model gets equally many
tries: four known settings, 16 drawn at random from its space, and 20 that each change one or two options of the
best so far. A try fits its budget first (the most ticks, or the smallest entropy bound in steps of 1/16, with at most
1% more calls) and then draws 512 samples of seed 100; the best four are drawn again, 2,048 samples of seed 101, and
ranked by those. Tries are ranked by the share of samples that are valid and not a repetition, so that collapse does
not pay.

``ablate`` takes the samplers ``proseco_best_*`` of ``configs/runs/demo.yaml``, 4,096 samples of seed 102, and pairs
each sample with that of the same sampler whose edits are forbidden: draws depend on nothing but seed, sample, tick
and position, so a pair differs only by what edits did. Below it stand both models under either's best sampler.

The run reports seeds 0 to 2, which are not used here.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from components.api import Judging, Model, Text, load, sample, score
from components.data.corpora.config import LatinSquareConfig
from components.errors import ConfigError
from components.samplers import SamplerConfig, preset
from components.samplers.config import GuardConfig
from pipelines.config.load import load_run
from pipelines.config.schema import RunConfig, budgets

RUN = Path(__file__).parents[2] / "configs/runs/demo.yaml"
NUM_RANDOM, NUM_CHANGED, NUM_FINAL = 16, 20, 4
SLACK = 1.01

Options = dict[str, Any]
PLAIN: dict[str, tuple[Any, ...]] = {
    "schedule": ("fixed_count", "cosine", "entropy_bound"),
    "unmask": ("confidence", "margin", "entropy"),
    "noise": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    "temperature": (1.0, 0.85, 0.7, 0.5, 0.3),
    "top_p": (1.0, 0.9),
}
SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "mdlm": PLAIN | {"corrector": ("none", "free_correction")},
    "proseco": PLAIN
    | {
        "draft": ("sample", "argmax"),
        "draft_positions": ("masked", "all"),
        "every": (1, 2),
        "passes": (1, 2),
        "start": (1, 2, 3),
        "skip_above": (1.0, 0.9, 0.7),
    },
}
BASE: dict[str, Options] = {name: {option: values[0] for option, values in s.items()} for name, s in SPACES.items()}
KNOWN: dict[str, list[Options]] = {
    "mdlm": [
        {},
        {"schedule": "cosine", "noise": 1.0},
        {"schedule": "cosine", "noise": 0.5},
        {"schedule": "entropy_bound", "unmask": "entropy"},
    ],
    "proseco": [
        {},
        {"temperature": 0.5, "draft_positions": "all"},
        {"temperature": 0.5, "draft_positions": "all", "skip_above": 0.7},
        {"schedule": "cosine", "noise": 0.5},
    ],
}


@dataclass(frozen=True)
class Tried:
    """One sampler, fitted to its budget and measured. Shares and means are of its samples."""

    options: Options
    fitted: float
    """Ticks, or the entropy bound."""
    calls: float
    valid: float
    unique: float
    distinct: float
    """Share of samples that are valid and not a repetition."""
    edits: float


def sampler(options: Options, fitted: float) -> SamplerConfig:
    """Raises ConfigError where the options do not fit together."""
    schedule: Options = {"name": options["schedule"]}
    bounded = options["schedule"] == "entropy_bound"
    if bounded:
        schedule["gamma"] = fitted
    unmask: Options = {"name": options["unmask"]}
    if options["unmask"] == "confidence":
        unmask["noise"] = options["noise"]
    corrector: Any = options.get("corrector", {"name": "proseco"})
    if "draft" in options:
        names = ("draft", "draft_positions", "every", "passes", "start", "skip_above")
        corrector = {"name": "proseco"} | {n: options[n] for n in names}
    draw = {"temperature": options["temperature"], "top_p": options["top_p"]}
    steps = 0 if bounded else int(fitted)
    return preset("mdlm", steps=steps, schedule=schedule, unmask=unmask, corrector=corrector, draw=draw)


def measure(model: Model, config: SamplerConfig, number: int, seed: int, untrained: bool = False) -> list[Text]:
    return sample(
        model, config, num_samples=number, seed=seed, num_lanes=min(128, number), allow_untrained=untrained
    )  # fmt: skip


def mean_calls(rows: list[Text]) -> float:
    return sum(r.sample.calls for r in rows) / len(rows)


def validity(model: Model, rows: list[Text]) -> list[bool]:
    return [v == 1.0 for v in score(model, rows, ["validity"], Judging(LatinSquareConfig(size=5)))["valid"]]


def tried(model: Model, options: Options, fitted: float, rows: list[Text]) -> Tried:
    valid, number = validity(model, rows), len(rows)
    return Tried(
        options,
        fitted,
        mean_calls(rows),
        sum(valid) / number,
        len({r.text for r in rows}) / number,
        len({r.text for r, good in zip(rows, valid, strict=True) if good}) / number,
        sum(r.sample.edits for r in rows) / number,
    )


def fit(model: Model, options: Options, calls: float) -> float | None:
    """The most ticks, or the smallest gamma, with at most SLACK times the calls; None where none has so few."""

    def affordable(fitted: float) -> bool:
        try:
            config = sampler(options, fitted)
        except ConfigError:  # too few ticks for the corrector to run at all
            return fitted < calls
        return mean_calls(measure(model, config, 64, 99)) <= SLACK * calls

    if options["schedule"] == "entropy_bound":  # a larger bound needs fewer calls
        low, high = 0.0, 16.0
        for _ in range(8):
            middle = (low + high) / 2
            low, high = (low, middle) if affordable(middle) else (middle, high)
        return round(high, 3) if high < 16 else None
    few, many = 0, 2 * int(calls) + 1
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if affordable(middle) else (few, middle)
    return float(few) if few else None


def candidates(space: str, calls: float, found: list[Tried]) -> Iterator[Options]:
    """Options not tried before; ``found`` grows while this runs."""
    chance = random.Random(f"{space} {calls}")
    seen: list[Options] = []

    def fresh(options: Options) -> bool:
        if options["unmask"] != "confidence":
            options["noise"] = 0.0
        if options["schedule"] == "entropy_bound" and "corrector" in options:
            options["corrector"] = "none"  # it swaps tokens, so the schedule must count
        new = options not in seen
        seen.append(options)
        return new

    for known in KNOWN[space]:
        fresh(options := BASE[space] | known)
        yield options
    while True:
        options = {name: chance.choice(values) for name, values in SPACES[space].items()}
        if len(found) >= len(KNOWN[space]) + NUM_RANDOM:
            names = chance.sample(list(SPACES[space]), chance.choice((1, 2)))
            options = max(found, key=lambda t: t.distinct).options | {name: options[name] for name in names}
        if fresh(options):
            yield options


def tune(model: Model, space: str, calls: float) -> list[dict[str, Any]]:
    """All tries of one budget, and the best of them again."""
    found: list[Tried] = []
    for options in candidates(space, calls, found):
        fitted = fit(model, options, calls)
        try:
            config = None if fitted is None else sampler(options, fitted)
        except ConfigError:
            config = None
        if config is None or fitted is None:
            continue
        found.append(tried(model, options, fitted, measure(model, config, 512, 100)))
        if len(found) == len(KNOWN[space]) + NUM_RANDOM + NUM_CHANGED:
            break
    best = sorted(found, key=lambda t: -t.distinct)[:NUM_FINAL]
    final = [tried(model, t.options, t.fitted, measure(model, sampler(t.options, t.fitted), 2048, 101)) for t in best]
    rows = [{"seed": 100} | vars(t) for t in found]
    rows += [{"seed": 101} | vars(t) for t in sorted(final, key=lambda t: -t.distinct)]
    return [{"space": space, "budget": calls} | r for r in rows]


def markdown_row(row: Mapping[str, Any]) -> str:
    base = BASE[row["space"]]
    changed = ", ".join(f"{k} {v}" for k, v in row["options"].items() if v != base[k] or k == "schedule")
    return (
        f"| {row['space']} | {row['budget']:g} | {row['seed']} | {changed} | {row['fitted']:g} | {row['calls']:.2f} | "
        f"{row['valid']:.3f} | {row['unique']:.3f} | {row['distinct']:.3f} | {row['edits']:.2f} |"
    )


def paired(model: Model, free: list[Text], bound: list[Text]) -> str:
    """What edits did: the same samples with and without them."""
    with_edits, without = validity(model, free), validity(model, bound)
    both = list(zip(free, bound, with_edits, without, strict=True))
    changed = sum(a.text != b.text for a, b, _, _ in both)
    mended, broken = sum(x and not y for *_, x, y in both), sum(y and not x for *_, x, y in both)
    return (
        f"{len(both)} pairs, {changed} differ; valid with edits {sum(with_edits)}, without {sum(without)}: "
        f"{mended} only with, {broken} only without"
    )


def ablate(mdlm: Model, proseco: Model) -> None:
    """See above."""
    run = load_run(RUN, [])
    assert isinstance(run, RunConfig)
    calls = [n.removeprefix("proseco_best_") for n in run.samplers if n.startswith("proseco_best_")]
    for budget in (c for c in calls if c.isdigit()):
        (best,) = budgets(run.samplers[f"proseco_best_{budget}"])
        (plain,) = budgets(run.samplers[f"mdlm_best_{budget}"])
        still = replace(best, guard=GuardConfig(cooldown=1000))
        free, bound = measure(proseco, best, 4096, 102), measure(proseco, still, 4096, 102)
        print(f"{budget} calls, {paired(proseco, free, bound)}", flush=True)
        line("proseco's model, its sampler", proseco, free)
        line("proseco's model, its sampler, no edits", proseco, bound)
        line("mdlm's model, proseco's sampler", mdlm, measure(mdlm, best, 4096, 102, untrained=True))
        line("mdlm's model, the same, no edits", mdlm, measure(mdlm, still, 4096, 102, untrained=True))
        line("proseco's model, mdlm's sampler", proseco, measure(proseco, plain, 4096, 102))
        line("mdlm's model, its sampler", mdlm, measure(mdlm, plain, 4096, 102))


def line(name: str, model: Model, rows: list[Text]) -> None:
    t = tried(model, {}, 0, rows)
    print(
        f"  {name:40} calls {t.calls:5.2f}  valid {t.valid:.3f}  unique {t.unique:.3f}  edits {t.edits:.2f}", flush=True
    )


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    tuning = actions.add_parser("tune")
    tuning.add_argument("export", type=Path)
    tuning.add_argument("--space", choices=sorted(SPACES), required=True)
    tuning.add_argument("--calls", type=float, nargs="+", default=[6, 8, 12, 24])
    tuning.add_argument("--out", type=Path, required=True)
    ablation = actions.add_parser("ablate")
    ablation.add_argument("mdlm", type=Path)
    ablation.add_argument("proseco", type=Path)
    chosen = parser.parse_args()
    if chosen.action == "ablate":
        ablate(load(chosen.mdlm), load(chosen.proseco))
        return
    model = load(chosen.export)
    for calls in chosen.calls:
        began = time.perf_counter()
        rows = tune(model, chosen.space, calls)
        with chosen.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            if row["seed"] == 101:
                print(markdown_row(row), flush=True)
        print(f"{calls:g} calls: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

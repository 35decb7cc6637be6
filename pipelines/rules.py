"""The rules of a typed run, inside its sections and between them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from components.data import CORPORA
from components.errors import Problem
from components.models.config import MODEL_PRESETS
from components.objectives import objective_name, trains_heads_only
from components.samplers.fit import missing
from components.scorers import SCORERS
from components.training.config import TrainConfig
from pipelines.schema import RunConfig, SamplingConfig, budgets, model_of, taught_visible


def judge(run: RunConfig) -> list[Problem]:
    """All broken rules of a typed run."""
    found = run.rows.problems("rows") + run.generate.problems("generate") + run.runtime.problems("runtime")
    for name, train in run.train.items():
        found += train.problems(f"train.{name}") + judge_training(run, name, train)
    found += judge_corpora(run) + judge_model(run)
    for name, sampling in run.samplers.items():
        found += judge_sampling(run, name, sampling)
    found += judge_scorers(run)
    if not run.name or not all(c.isalnum() or c in "-_." for c in run.name):
        found.append(Problem("name", run.name, "letters, digits, - _ .", "give the run such a name"))
    return found


def judge_corpora(run: RunConfig) -> list[Problem]:
    found = []
    if not run.corpora:
        found.append(
            Problem("corpora", {}, "at least one corpus", "e.g. corpora: {latin: {source: {name: latin_square}}}")
        )
    for name, corpus in run.corpora.items():
        path = f"corpora.{name}"
        if corpus.weight <= 0:
            found.append(Problem(f"{path}.weight", corpus.weight, "more than 0", "leave the corpus out instead"))
        shares = corpus.validation_share, corpus.test_share
        if min(shares) < 0 or sum(shares) >= 1:
            found.append(
                Problem(
                    f"{path}.validation_share",
                    shares,
                    "shares of 0 or more that leave something to train on",
                    "0.02 is usual",
                )
            )
        place = getattr(corpus.source, "path", None)
        if place == "" or getattr(corpus.source, "name", None) == "":
            found.append(
                Problem(f"{path}.source.{'path' if place == '' else 'name'}", "", "where the corpus is", "set it")
            )
        elif place and "$PROSECO_DATA" not in place and not Path(place).exists() and not any(c in place for c in "*?["):
            found.append(
                Problem(f"{path}.source.path", place, "a file, folder or glob that exists", f"look in {os.getcwd()}")
            )
    if run.tokenizer.kind == "file" and not Path(run.tokenizer.path).is_file():
        found.append(
            Problem(
                "tokenizer.path", run.tokenizer.path, "a tokenizer.json that exists", "set the path or another kind"
            )
        )
    return found


def judge_model(run: RunConfig) -> list[Problem]:
    model = run.model
    if model.preset not in MODEL_PRESETS:
        return [Problem("model.preset", model.preset, f"one of {', '.join(MODEL_PRESETS)}", "choose one of them")]
    found = []
    full = model.resolved()
    if full.heads < 1 or full.dim % full.heads or (full.dim // max(1, full.heads)) % 2:
        found.append(
            Problem(
                "model.heads", full.heads, f"divides dim ({full.dim}) into heads of even width", "change heads or dim"
            )
        )
    if 0 < model.num_positions < run.rows.length:
        found.append(
            Problem(
                "model.num_positions",
                model.num_positions,
                f"at least rows.length ({run.rows.length})",
                "raise it, or use 0",
            )
        )
    if not 0 <= model.dropout < 1:
        found.append(Problem("model.dropout", model.dropout, "in [0, 1)", "0 is usual"))
    return found


def judge_training(run: RunConfig, name: str, train: TrainConfig) -> list[Problem]:
    path, found = f"train.{name}", []
    seen, at = {name}, train.init_from
    while at:
        if at not in run.train:
            found.append(
                Problem(f"{path}.init_from", at, f"another training: {', '.join(run.train)}", "name one of them")
            )
            break
        if at in seen:
            found.append(
                Problem(f"{path}.init_from", train.init_from, "no training starts from itself", "break the circle")
            )
            break
        seen.add(at)
        at = run.train[at].init_from
    adapted = bool(getattr(train.objective, "adapter_rank", 0))
    heads_only = trains_heads_only(train.objective) or adapted
    if train.init_folder and not (Path(train.init_folder) / "model.safetensors").is_file():
        rule = "a folder with model.safetensors, exported or imported"
        found.append(Problem(f"{path}.init_folder", train.init_folder, rule, "make one with `proseco import`"))
    if heads_only and not (train.init_from or train.init_folder):
        rule = "it trains a head on a frozen network, so it needs a trained one"
        found.append(Problem(f"{path}.init_from", "", rule, "name another training, e.g. one by mdlm"))
    if heads_only and train.optimizer.weight_decay:
        rule = "0, or the frozen network would decay"
        found.append(Problem(f"{path}.optimizer.weight_decay", train.optimizer.weight_decay, rule, "set it to 0"))
    every = getattr(train.objective, "every", 1)
    workers = max(1, run.runtime.workers)  # zero of them is told elsewhere
    micro = run.runtime.micro_batch or -(-train.batch_rows // workers)
    if every > 1 and (micro % every or train.batch_rows % (workers * micro)):
        found.append(
            Problem(
                f"{path}.objective.every", every,
                f"divides the micro-batch ({micro}), and workers x micro-batch divides batch_rows ({train.batch_rows}), "
                "so that every process corrects equally many rows",
                "change every, runtime.micro_batch or batch_rows",
            )
        )  # fmt: skip
    if train.batch_rows < workers:
        found.append(
            Problem(f"{path}.batch_rows", train.batch_rows, f"at least one row a worker ({workers})", "raise it")
        )
    return found


def judge_sampling(run: RunConfig, name: str, sampling: SamplingConfig) -> list[Problem]:
    path = f"samplers.{name}"
    if sampling.model not in run.train:
        return [Problem(f"{path}.model", sampling.model, f"a training: {', '.join(run.train)}", "name one of them")]
    found = []
    for budget in budgets(sampling):
        found += budget.problems(f"{path}.sampler")
    objective = run.train[sampling.model].objective
    info = dataclasses.asdict(model_of(run, sampling.model)) | {
        "visible_supervision": taught_visible(run, sampling.model)
    }
    for need in missing(sampling.sampler, info, sampling.allow_untrained):
        trained = f"{sampling.model!r}, trained with {objective_name(objective)},"
        rule = f"it {need.what}, and {trained} {need.lack}"
        found.append(Problem(f"{path}.sampler", sampling.sampler.preset, rule, need.remedy))
    reward = getattr(sampling.sampler.search, "reward", "")
    if reward and reward not in SCORERS:
        rule = f"empty or one of {', '.join(SCORERS)}"
        found.append(Problem(f"{path}.sampler.search.reward", reward, rule, "name a scorer"))
    if reward == "judge" and "judge" not in run.scorers:
        rule = "a reward by the judge needs it among the run's scorers"
        found.append(Problem(f"{path}.sampler.search.reward", reward, rule, "add judge to scorers"))
    return found


def judge_scorers(run: RunConfig) -> list[Problem]:
    found = []
    for name in run.scorers:
        if name == "validity" and run.corpora:
            source = next(iter(run.corpora.values())).source
            kind = next(n for n, p in CORPORA.items() if p.config is type(source))
            if kind not in ("latin_square", "sudoku", "coding", "addition"):
                found.append(Problem("scorers.validity", kind, "the first corpus has rules", "drop the scorer"))
    if run.metric and run.metric not in run.scorers:
        found.append(Problem("metric", run.metric, f"one of the run's scorers: {', '.join(run.scorers)}", "name one"))
    if run.samplers and not run.scorers:
        found.append(Problem("scorers", {}, "at least one, to compare samplers by", "e.g. scorers: {entropy: {}}"))
    return found

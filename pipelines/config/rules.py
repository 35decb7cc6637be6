"""The rules between the sections of a run. Those inside a section stand with its options."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.errors import Problem
from components.samplers.needs import missing, strange_label
from components.samplers.rules import problems as sampler_problems
from components.scorers import SCORERS
from components.training.config import TrainConfig
from pipelines.config.schema import RunConfig, SamplingConfig, budgets, model_of, taught_visible


def problems(run: RunConfig) -> list[Problem]:
    """All broken rules of a typed run."""
    found = [
        *under("generate", run.generate.problems()),
        *under("runtime", run.runtime.problems()),
        *under("rows", run.rows.problems()),
        *under("model", run.model.problems(run.rows.length)),
        *corpora(run),
        *labels(run),
        *scorers(run),
    ]
    for name, train in run.train.items():
        found += [*under(f"train.{name}", train.problems()), *under(f"train.{name}", training(run, name, train))]
    for name, sampling in run.samplers.items():
        found += under(f"samplers.{name}", sampler(run, sampling))
    return found


def under(path: str, found: Iterable[Problem]) -> list[Problem]:
    """The same problems with a path before theirs."""
    return [dataclasses.replace(problem, path=f"{path}.{problem.path}") for problem in found]


def corpora(run: RunConfig) -> Iterator[Problem]:
    if not run.corpora:
        yield Problem("corpora", {}, "at least one corpus", "e.g. corpora: {latin: {source: {name: latin_square}}}")
    for name, corpus in run.corpora.items():
        yield from under(f"corpora.{name}", corpus.problems())
        if run.rows.too_long == "split" and run.rows.layout == "document" and corpus.source.prompted():
            rule = "quarantine or cut where documents have prompts, since further rows would have none"
            yield Problem("rows.too_long", "split", rule, "use cut, or raise rows.length")
    if run.tokenizer.kind == "file" and not Path(run.tokenizer.path).is_file():
        rule = "a tokenizer.json that exists"
        yield Problem("tokenizer.path", run.tokenizer.path, rule, "set the path or another kind")


def labels(run: RunConfig) -> Iterator[Problem]:
    """Rules between what corpora, the network and samples know of classes and values."""
    model = run.model
    for option, field, kind in (("num_classes", "label_field", "class"), ("value_range", "value_field", "value")):
        lacking = [name for name, corpus in run.corpora.items() if corpus.source.labels() != kind]
        asked = dataclasses.asdict(model)[option]
        if asked and lacking:
            rule = f"every corpus names the {field} that the network learns"
            yield Problem(f"model.{option}", asked, rule, f"set corpora.{lacking[0]}.source.{field}, or drop it")
    for label in run.generate.labels:
        if why := strange_label(label, dataclasses.asdict(model)):
            yield Problem("generate.labels", run.generate.labels, "what the model knows", why)
            break


def training(run: RunConfig, name: str, train: TrainConfig) -> Iterator[Problem]:
    """Rules between a training, its start and the runtime; paths begin below the training."""
    yield from start(run, name, train)
    objective, workers = train.objective, run.runtime.workers
    for number in range(run.runtime.min_workers or workers, workers + 1):
        stride, micro = objective.row_stride, run.runtime.micro_batch or -(-train.batch_rows // number)
        if micro % stride or (stride > 1 and train.batch_rows % (number * micro)):
            rule = (
                f"divides the micro-batch ({micro}), and workers ({number}) x micro-batch divides batch_rows "
                f"({train.batch_rows}), so that every process corrects equally many rows"
            )
            yield Problem("objective.every", stride, rule, "change every, runtime.micro_batch or batch_rows")
            break
    if run.rows.buckets and (objective.row_stride > 1 or objective.rewarded):
        rule = "an objective that takes all rows of a batch alike, where rows are sorted into rows.buckets"
        yield Problem("objective", objective.name, rule, "drop rows.buckets, or set objective.every to 1")
    if train.batch_rows < workers:
        yield Problem("batch_rows", train.batch_rows, f"at least one row a worker ({workers})", "raise it")


def start(run: RunConfig, name: str, train: TrainConfig) -> Iterator[Problem]:
    """Rules about what a training starts from."""
    seen, at = {name}, train.init_from
    while at:
        if at not in run.train:
            yield Problem("init_from", at, f"another training: {', '.join(run.train)}", "name one of them")
            break
        if at in seen:
            yield Problem("init_from", train.init_from, "no training starts from itself", "break the circle")
            break
        seen.add(at)
        at = run.train[at].init_from
    weights = train.weights()
    if weights is not None and not weights.is_file():
        rule = "a folder with model.safetensors, exported or imported"
        yield Problem("init_folder", train.init_folder, rule, "make one with `proseco import`")
    if not (train.objective.trains_heads_only() or train.objective.freezes_trunk()):
        return
    if not (train.init_from or train.init_folder):
        rule = "it trains a head on a frozen network, so it needs a trained one"
        yield Problem("init_from", "", rule, "name another training, e.g. one by mdlm")
    if train.optimizer.weight_decay:
        rule = "0, or the frozen network would decay"
        yield Problem("optimizer.weight_decay", train.optimizer.weight_decay, rule, "set it to 0")


def sampler(run: RunConfig, sampling: SamplingConfig) -> Iterator[Problem]:
    """Rules of a sampler at its budgets, and with the model that it is run on; paths begin below it."""
    if sampling.model not in run.train:
        yield Problem("model", sampling.model, f"a training: {', '.join(run.train)}", "name one of them")
        return
    for budget in budgets(sampling):
        yield from sampler_problems(budget, "sampler")
    taught = {"visible_supervision": taught_visible(run, sampling.model)}
    info = dataclasses.asdict(model_of(run, sampling.model)) | taught
    for need in missing(sampling.sampler, info, sampling.allow_untrained):
        trained = f"{sampling.model!r}, trained with {run.train[sampling.model].objective.name},"
        yield Problem("sampler", sampling.sampler.preset, f"it {need.what}, and {trained} {need.lack}", need.remedy)
    reward = sampling.sampler.search.reward_name
    if reward and reward not in SCORERS:
        yield Problem("sampler.search.reward", reward, f"empty or one of {', '.join(SCORERS)}", "name a scorer")
    elif reward and SCORERS[reward].trains and reward not in run.scorers:
        rule = f"a reward by {reward}, which is trained, needs it among the run's scorers"
        yield Problem("sampler.search.reward", reward, rule, f"add {reward} to scorers")


def scorers(run: RunConfig) -> Iterator[Problem]:
    for name, scorer in run.scorers.items():
        source = next(iter(run.corpora.values())).source if run.corpora else None
        if scorer.requires and importlib.util.find_spec(scorer.requires) is None:
            rule = f"{scorer.requires} is installed, by which it scores"
            yield Problem(f"scorers.{name}", name, rule, f"pip install {scorer.requires}, or drop the scorer")
        if scorer.reads_rules and source is not None and not source.has_rules:
            yield Problem(f"scorers.{name}", source.name, "the first corpus has rules", "drop the scorer")
    if run.metric and run.metric not in run.scorers:
        yield Problem("metric", run.metric, f"one of the run's scorers: {', '.join(run.scorers)}", "name one")
    if run.samplers and not run.scorers:
        yield Problem("scorers", {}, "at least one, to compare samplers by", "e.g. scorers: {entropy: {}}")

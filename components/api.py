"""Three calls that do what the commands do, in one process and without a cluster.

    from components.api import load, sample, score

    model = load("runs/demo/export/0123456789abcdef")
    rows = sample(model, sampler="proseco", num_samples=8, steps=6)
    numbers = score(model, rows, ["nelbo", "entropy"])

Options are those of a run's YAML, nested in the same way, and are checked by the same parser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from components.data.corpora import CORPORA
from components.data.corpora.config import SourceOptions
from components.errors import DataError, SamplingError
from components.models.device import resolve
from components.models.weights import read_info, row_length
from components.options import parse
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Row, Sample
from components.samplers.needs import check_needs, strange_label
from components.scorers import Scorers
from components.scorers.base import ScoredRow, ScorerSetting
from components.shards.canvas import canvas, given_by, num_leading, read_tokens, text_tokens
from components.shards.model import Loaded, Sampling, sample_rows
from components.shards.model import load as load_folder
from components.shards.prompt import HOLE, Prompt
from components.shards.score import require_known_classes, score_rows
from components.store.artifact import require_unchanged
from components.store.files import at

Source = Annotated[SourceOptions, CORPORA.slot()]


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
    row: Row
    """What was asked for."""


@dataclass(frozen=True)
class Judging:
    """What rewards and scorers may need besides the model."""

    source: Any = None
    """A corpus whose rules apply: its options, plain or typed."""
    trained: Mapping[str, Path] = field(default_factory=dict)
    """Folders of trained scorers, by name."""


def load(folder: str | Path, device: str = "auto", dtype: str = "auto") -> Model:
    """An exported folder, ready to use.

    Args:
        device: auto (a GPU where torch sees one), cpu, cuda or cuda:N.
        dtype: auto (bfloat16 for a network that was trained in it where the device multiplies it), float32, bfloat16
            or, on a CPU, int8.
    Raises:
        ConfigError: there is no such device or dtype here.
        ModelError, DataError: the folder is no export.
        CorruptArtifact: it was changed since it was exported.
    """
    path = at(folder)
    require_unchanged(path)
    info = read_info(path)
    model = load_folder(path, resolve(device, dtype, info))
    return Model(model.network, model.tokenizer, model.extras, info)


def sample(
    model: Model,
    sampler: str | SamplerConfig = "mdlm",
    num_samples: int = 1,
    prompts: Sequence[str] = ("",),
    *,
    length: int = 0,
    seed: int = 0,
    num_lanes: int = 0,
    trace: bool = False,
    allow_untrained: bool = False,
    label: float | None = None,
    template: Sequence[str | int] = (),
    judging: Judging = Judging(),
    **options: Any,
) -> list[Text]:
    """Samples of every prompt, in order.

    Args:
        sampler: name of a preset, or a configured one.
        num_samples: for each prompt.
        length: positions of a row; 0 is the trained length.
        label: class or value of every row, for a network that is conditioned on one.
        template: instead of a prompt, texts and numbers of positions to write, in order.
        judging: what a search's reward may need.
        options: what the preset should have otherwise, e.g. ``steps=6``; see ``preset``.
    Raises:
        ConfigError: an option is wrong, or the model has fewer positions.
        SamplingError: the model was not trained for the sampler.
        DataError: a prompt leaves no room.
    """
    config = preset(sampler, **options) if isinstance(sampler, str) else sampler
    check_needs(config, model.info, allow_untrained)
    asked = ask(model, prompts, num_samples, length=length, seed=seed, trace=trace, label=label, template=template)
    sampling = Sampling(
        sampler=config,
        num_lanes=num_lanes or min(64, len(asked)),
        source=read_source(judging.source),
        trained=judging.trained,
    )
    return read_texts(model, asked, sample_rows(model, sampling, [row for _, row in asked]))


def ask(
    model: Model,
    prompts: Sequence[str],
    num_samples: int,
    *,
    length: int = 0,
    seed: int = 0,
    trace: bool = False,
    label: float | None = None,
    template: Sequence[str | int] = (),
) -> list[tuple[str, Row]]:
    """Every prompt ``num_samples`` times, with the canvas to fill; equal prompts have different samples.

    Raises:
        DataError: a prompt leaves no room, or holds what the vocabulary has not.
    """
    length, mask_id = row_length(model.info, length), model.tokenizer.mask_id
    pieces = {p: read_tokens(model.tokenizer, tuple(template) or (p,)) for p in prompts}
    before: Counter[tuple[int, ...]] = Counter()
    asked = []
    if why := strange_label(label, model.info):
        raise SamplingError(f"{why}. Leave it out, or give one that the model knows.")
    for p in prompts:
        if model.tokenizer.unknown_id in pieces[p]:
            raise DataError(f"The prompt {(tuple(template) or p)!r:.80} holds symbols that the vocabulary has not. Take them out.")
        for _ in range(num_samples):
            prompt = Prompt(before[pieces[p]], pieces[p], label, tail=model.tokenizer.pad_id if template else HOLE)
            asked.append((p, canvas(prompt, length, mask_id, trace, seed)))
            before[pieces[p]] += 1
    return asked


def read_texts(model: Model, asked: Sequence[tuple[str, Row]], samples: Sequence[Sample]) -> list[Text]:
    """Samples with what was written after each prompt."""
    words = model.tokenizer
    texts = words.decode_batch(text_tokens(row, s.tokens, words.end_id) for (_, row), s in zip(asked, samples, strict=True))
    return [Text(text, p, s, row) for text, (p, row), s in zip(texts, asked, samples, strict=True)]


def score(
    model: Model,
    rows: Sequence[Text | str],
    scorers: Sequence[str] | Mapping[str, Any] = ("nelbo", "entropy"),
    judging: Judging = Judging(),
) -> dict[str, list[float]]:
    """Columns of numbers, one value a row.

    Args:
        rows: samples, or texts.
        scorers: names, or a mapping of names to options.
        judging: the corpus whose rules apply, for ``validity``; folders of trained scorers.
    Raises:
        ConfigError: a name or an option is wrong.
        SamplingError: a scorer lacks what it needs.
        DataError: a text is longer than a row.
    """
    given = dict(scorers) if isinstance(scorers, Mapping) else list(scorers)
    setting = ScorerSetting(
        model.tokenizer, read_source(judging.source), model.network, judging.trained, device=model.device
    )
    scored = [read_text(model, r) if isinstance(r, str) else scored_row(r) for r in rows]
    require_known_classes(scored, model.info)
    return score_rows(scored, parse(Scorers, given, "scorers"), setting)  # type: ignore[arg-type]


def scored_row(made: Text) -> ScoredRow:
    """A sample as scorers see it."""
    row = made.row
    return ScoredRow(row.id, made.prompt, made.text, made.sample.tokens, num_leading(row), given_by(row), row.label)


def read_text(model: Model, text: str) -> ScoredRow:
    """A text as scorers see it, padded to the trained length. Raises DataError where it is too long."""
    length, ids = int(model.info["length"]), model.tokenizer.encode_batch([text])[0]
    if len(ids) > length:
        raise DataError(f"The text {text[:40]!r} has {len(ids)} tokens, and the model reads {length}. Shorten it.")
    return ScoredRow(0, "", text, (*ids, *[model.tokenizer.pad_id] * (length - len(ids))), 0)


def read_source(source: Any) -> SourceOptions | None:
    """Options of a corpus, plain or typed."""
    return None if source is None else parse(Source, source, "source")  # type: ignore[arg-type]

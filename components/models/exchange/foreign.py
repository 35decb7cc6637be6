"""Weights of other projects as a start: LLaDA, LLaMA-shaped causal models of `transformers`, BERT-shaped masked
ones, and the DiT of MDLM and its relatives.

Where the architecture is ours (LLaDA, LLaMA, Qwen2 without biases, Mistral) the import
is exact: the same logits, for causal models with full attention and shifted by one position. Where it is not (BERT,
DiT: layer norms with biases, GELU instead of SwiGLU, modulation) what fits is taken, and a report lists by name
what was not: an initialiser, not the model. Nothing is skipped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import ConfigError, ModelError, Problem
from components.models.config import ModelConfig
from components.models.exchange.formats import FORMATS, Format
from components.models.transformer import Transformer
from components.models.weights import MAX_FRESH, load_weights, require_fit
from components.options import parse
from components.store.files import is_file, read_object


@dataclass(frozen=True)
class Report:
    """What an import took and what it did not."""

    format: str
    taken: tuple[str, ...]
    """Our tensors that were filled,"""
    fresh: tuple[str, ...]
    """that were not and keep their initial values,"""
    unused: tuple[str, ...]
    """and theirs that have no place here."""
    notes: tuple[str, ...] = field(default=())

    @property
    def exact(self) -> bool:
        return not self.fresh and not self.unused

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"format {self.format}: {len(self.taken)} tensors taken" + (", all there are" if self.exact else "")]
        if self.fresh:
            lines.append(f"{len(self.fresh)} of ours start fresh: {', '.join(patterns(self.fresh))}")
        if self.unused:
            lines.append(f"{len(self.unused)} of theirs have no place here: {', '.join(patterns(self.unused))}")
        return lines + list(self.notes)


def patterns(names: tuple[str, ...]) -> list[str]:
    """Names with block numbers as ``*``, each once."""
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))


def read_all(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files. Raises ModelError if there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder} holds no *.safetensors. Pickled checkpoints are not read, because loading one runs its code: "
            f"convert it with `safetensors` first."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_weights(file)
    return tensors


def read_foreign(folder: Path, vocab_size: int = 0) -> tuple[Transformer, Report]:
    """A network that starts from the weights in ``folder``, and what did not match.

    Args:
        vocab_size: rows of the embedding; new ones, for special tokens, start at the mean of the old. 0 keeps theirs.
    Raises:
        ModelError: no weights, no config.json, an unknown format, or sizes that contradict each other.
    """
    tensors = read_all(folder)
    name = next((n for n, f in FORMATS.items() if f.sign in tensors), None)
    if name is None:
        raise ModelError(
            f"{folder} is of no known format (known: {', '.join(FORMATS)}); its first tensors are "
            f"{', '.join(sorted(tensors)[:4])}."
        )
    form = FORMATS[name]
    path = folder / "config.json"
    if not is_file(path):
        raise ModelError(f"{folder} holds no config.json, and the number of heads is nowhere else.")
    try:
        theirs = read_object(path)
    except ValueError as error:
        raise ModelError(f"{path} is not the config.json of a model ({error}). Get the folder again.") from None
    config = config_of(form, name, theirs, str(path))
    blocks = num_blocks(form, tensors)
    if blocks != config.depth:
        raise ModelError(f"{path} tells of {config.depth} blocks, and the weights beside it are of {blocks}. Get the folder again.")
    embed = tensors.get(form.embed)
    if embed is None or embed.dim() != 2 or not len(embed):
        raise ModelError(f"{folder} has no tensor {form.embed} of two axes with rows in it. Get the folder again.")
    if vocab_size > MAX_FRESH * len(embed) + (1 << 16):
        raise ModelError(f"{folder} has {len(embed)} embeddings, and the tokenizer {vocab_size} tokens. They do not belong together.")
    require_fit(config, vocab_size or len(embed), tensors, str(folder))
    torch.manual_seed(0)
    model = Transformer(config, vocab_size or len(embed))
    report = fill_from(model, tensors, form, name)
    if not report.taken:
        raise ModelError(f"None of the weights in {folder} fits the sizes in its config.json: {report.notes[0]}. Get the folder again.")
    return model, report


def num_blocks(form: Format, tensors: Mapping[str, Tensor]) -> int:
    """Blocks that the weights are of."""
    numbered = re.compile(re.escape(form.block).replace(r"\{i\}", r"(\d+)"))
    return len({found[1] for name in tensors if (found := numbered.match(name))})


def config_of(form: Format, name: str, theirs: Mapping[str, Any], path: str) -> ModelConfig:
    """Their sizes as ours.

    Raises:
        ModelError: one is not there.
        ConfigError: one is no size, or they contradict each other.
    """
    try:
        sizes = form.sizes(theirs)
    except KeyError as error:
        raise ModelError(f"{path} lacks {error}, which a {name} model has.") from None
    wrong = [n for n in ("dim", "depth", "heads", "mlp_dim") if n in sizes and (type(sizes[n]) is not int or sizes[n] < 1)]
    if wrong:
        remedy = "get the folder again"
        raise ConfigError([Problem(f"{path}: {n}", sizes[n], "a whole number from 1", remedy) for n in wrong])
    told, width = theirs.get("head_dim"), sizes["dim"] // sizes["heads"]
    if told not in (None, width):
        rule = f"hidden_size / num_attention_heads ({width}): heads of another width have no place here"
        raise ConfigError([Problem(f"{path}: head_dim", told, rule, "get the folder again, or use another model")])
    config = parse(ModelConfig, sizes, path)
    if problems := list(config.problems(0)):
        raise ConfigError([replace(p, path=f"{path}: {p.path}") for p in problems])
    return config.resolved()


def fill_from(model: Transformer, tensors: dict[str, Tensor], form: Format, name: str) -> Report:
    """Copy what fits into the model."""
    own = model.state_dict()
    left = dict(tensors)
    taken: list[str] = []
    notes: list[str] = []

    def take(ours: str, names: tuple[str, ...]) -> None:
        if not all(n in left for n in names):
            return
        parts = [spread_heads(left[n], own[ours], len(names), model) for n in names]
        if any(part.dim() != own[ours].dim() or part.shape[1:] != own[ours].shape[1:] or not len(part) for part in parts):
            shapes = ", ".join(f"{n} {tuple(left[n].shape)}" for n in names)
            notes.append(f"{shapes} does not fit {ours} {tuple(own[ours].shape)}")
            return
        value = torch.cat(parts).float()
        if ours in ("embed.weight", "head.weight", "position_embed.weight"):
            value = resized(value, len(own[ours]))
        if value.shape != own[ours].shape:
            notes.append(f"{', '.join(names)} {tuple(value.shape)} does not fit {ours} {tuple(own[ours].shape)}")
            return
        own[ours].copy_(value)
        taken.append(ours)
        for n in names:
            del left[n]

    take("embed.weight", (form.embed,))
    if not model.config.tie_embeddings:
        take("head.weight", (form.head,))
    elif form.head in left:
        del left[form.head]
    if model.config.tie_embeddings and "embed.weight" in taken:
        taken.append("head.weight")
    if form.norm:
        take("norm.weight", (form.norm,))
    if form.positions and model.position_embed is not None:
        take("position_embed.weight", (form.positions,))
    for i in range(model.config.depth):
        for part, names in form.parts.items():
            take(f"blocks.{i}.{part}", tuple(form.block.format(i=i) + n for n in names))
    model.load_state_dict(own)
    fresh = tuple(n for n in own if n not in taken)
    unused = tuple(n for n in left if not n.endswith(("rotary_emb.inv_freq", "position_ids")))
    return Report(name, tuple(taken), fresh, unused, tuple(notes))


def spread_heads(value: Tensor, ours: Tensor, number: int, model: Transformer) -> Tensor:
    """Keys and values that several heads share (grouped queries), once for each head; others as they are."""
    width, heads = model.config.dim, model.config.heads
    grouped = value.dim() == 2 and number == 3 and value.shape[0] < width and len(ours) == 3 * width
    size = width // heads
    if not grouped or not len(value) or len(value) % size or width % len(value):
        return value
    return value.view(-1, size, value.shape[1]).repeat_interleave(width // value.shape[0], 0).flatten(0, 1)


def resized(value: Tensor, rows: int) -> Tensor:
    """The first ``rows`` rows; missing ones are the mean of those that are there."""
    if len(value) >= rows:
        return value[:rows]
    return torch.cat([value, value.mean(0, keepdim=True).expand(rows - len(value), -1)])

"""Make weights of another project a model of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from components.data.tokenizer import load_tokenizer
from components.errors import ConfigError, Problem, StoreError
from components.models.exchange.export import write_export
from components.models.exchange.foreign import read_all, read_foreign
from components.models.exchange.formats import FORMATS
from components.outside import MAX_LENGTH
from components.store.files import children


def import_model(source: Path, folder: Path, tokenizer: Path | None, length: int) -> Iterator[str]:
    """Turn another project's weights into an exported folder, and yield what to print.

    Raises:
        ModelError: the weights are of no known format.
        ConfigError: sizes are none, or rows are longer than the model has positions.
        StoreError: the folder is not empty.
    """
    if not 1 <= length <= MAX_LENGTH:
        raise ConfigError([Problem("--length", length, f"in [1, {MAX_LENGTH}]", "give the length of rows to train or sample")])
    if children(folder):
        raise StoreError(f"{folder} is not empty. Nothing was changed. Use another --out, or delete the folder.")
    words = load_tokenizer(tokenizer or source / "tokenizer.json")
    tensors = read_all(source)
    embed = next((f.embed for f in FORMATS.values() if f.sign in tensors), "")
    size = max(words.vocab_size, len(tensors[embed]) if embed in tensors and tensors[embed].dim() else 0)
    model, report = read_foreign(source, size)
    if wrong := list(model.config.problems(length)):
        raise ConfigError([dataclasses.replace(p, rule=f"{p.rule}, as --length says", remedy="lower --length") for p in wrong])
    config = dataclasses.replace(model.config, mask_id=words.mask_id)
    precision = "bf16" if any(t.dtype == torch.bfloat16 for t in tensors.values()) else "fp32"
    name = f"imported {report.format}"
    write_export(
        folder, config, model.state_dict(), words, length, name, False, {}, size, trained_precision=precision
    )
    yield from report.lines()
    yield f"wrote {folder}; train from it with train.<name>.init_folder={folder}"

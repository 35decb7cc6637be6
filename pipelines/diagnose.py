"""Plant errors into validation rows and see whether a model finds and mends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.api import load
from components.data.rows import TokenRows
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import DataError
from components.evaluation.diagnosis import diagnose
from components.samplers import read_sampler
from components.samplers.contract import Vocabulary
from components.samplers.needs import check_needs
from components.store.artifact import MANIFEST, read_manifest, require_unchanged
from components.store.files import exists
from components.store.names import file_name


def diagnose_model(
    model: Path, rows: Path, number: int, num_rows: int, correctors: str, device: str = "auto", dtype: str = "auto"
) -> list[dict[str, Any]]:
    """What a model knows of planted errors; see ``components/evaluation/diagnosis``.

    Args:
        number: errors of a row.
        correctors: names of sampler presets with commas between.
        device, dtype: see ``components.api.load``.
    Raises:
        ConfigError: a corrector is unknown, or there is no such device.
        SamplingError: the model lacks what a corrector needs.
        DataError: the rows are not of the model's tokenizer.
        CorruptArtifact: model or rows were changed since they were made.
    """
    loaded = load(model, device, dtype)
    chosen = {name: read_sampler(name) for name in correctors.split(",") if name}
    for config in chosen.values():
        check_needs(config, loaded.info, allow_untrained=True)
    require_unchanged(rows)
    require_tokenizer(rows, loaded.tokenizer)
    split = TokenRows(rows, "validation")
    block = split.take(np.arange(min(num_rows, len(split))))
    tokens = torch.from_numpy(block.tokens.astype(np.int64))
    position = torch.arange(tokens.shape[1])[None, :]
    words = loaded.tokenizer
    if not len(tokens) or int(tokens.max()) >= int(loaded.info["vocab_size"]):
        raise DataError(
            f"{rows} holds no validation rows of the tokenizer of {model}. Give the tokenize stage it was trained on."
        )
    writable = (position >= torch.from_numpy(block.num_prompt)[:, None]) & (tokens != words.pad_id)
    vocabulary = Vocabulary(words.mask_id, (words.unknown_id, words.pad_id, words.end_id))
    tokens, writable = tokens.to(loaded.device), writable.to(loaded.device)
    return diagnose(loaded.network, tokens, writable, vocabulary, dict(loaded.info), number, chosen, loaded.extras)


def require_tokenizer(rows: Path, words: Tokenizer) -> None:
    """Raises DataError where rows are known to be of another tokenizer, whose ids mean other tokens."""
    manifest = read_manifest(rows)
    key = manifest.inputs.get("tokenizer", "") if manifest is not None else ""
    file = rows.absolute().parent.parent / "tokenizer" / file_name(key, rows / MANIFEST) / "tokenizer.json" if key else None
    if file is not None and exists(file) and load_tokenizer(file).inner.to_str() != words.inner.to_str():
        raise DataError(f"{rows} is of the tokenizer {key}, which is not the model's. Give the tokenize stage it was trained on.")

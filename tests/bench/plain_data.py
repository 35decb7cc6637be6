"""The data paths of published training code: what ours are timed against, and never imported by it.

MDLM's dataloader (arXiv 2406.07524): ``datasets`` reads files and maps a tokenizer over them by batches of 1,000 documents, each
with an end token; a second map joins a batch and cuts it into rows, and drops what is left of the batch. Rows are then
read by a shuffling DataLoader as tensors.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

BATCH_DOCUMENTS = 1000
"""Of ``datasets.map`` by default."""


def tokenized(files: list[Path], tokenizer: PreTrainedTokenizerFast, end_id: int, cache: Path) -> Dataset:
    """Ids of each document of JSON lines, with the end token, in an Arrow file."""

    def ids_of(batch: dict[str, list[str]]) -> dict[str, Any]:
        found = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
        return {"input_ids": [[*ids, end_id] for ids in found["input_ids"]]}

    read = load_dataset("json", data_files=[str(f) for f in files], split="train", cache_dir=str(cache))
    return read.map(ids_of, batched=True, batch_size=BATCH_DOCUMENTS, remove_columns=read.column_names)


def grouped(documents: Dataset, length: int) -> Dataset:
    """Rows of a length, in an Arrow file."""

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = list(chain(*batch["input_ids"]))
        whole = len(joined) // length * length
        return {"input_ids": [joined[i : i + length] for i in range(0, whole, length)]}

    return documents.map(group, batched=True, batch_size=BATCH_DOCUMENTS)


def loader(rows: Dataset, batch_rows: int, workers: int = 0) -> DataLoader[Any]:
    """Shuffled batches of tensors [B, L]."""
    return DataLoader(rows.with_format("torch"), batch_size=batch_rows, shuffle=True, num_workers=workers, drop_last=True)

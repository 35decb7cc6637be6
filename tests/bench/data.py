"""Files to token shards, and token shards to batches, against the dataloader of published training code."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora import open_corpus
from components.data.corpora.config import JsonlConfig, StdlibConfig
from components.data.documents import Document
from components.data.order import Mixture
from components.data.rows import TokenRows
from components.data.tokenizer import Tokenizer, build_tokenizer
from components.training.batches import gather
from pipelines.stages.tokenize import Piece, fast_is_exact, tokenize_piece
from tests.bench.paired import MB, Pair

LEARNED_FROM = 2000
"""Documents from which the vocabulary is learned."""
BATCHES = 400
"""That a turn of ``read_rows`` takes."""
FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Gone with the process."""


def scratch() -> Path:
    FOLDERS.append(tempfile.TemporaryDirectory(prefix="proseco-bench-"))
    return Path(FOLDERS[-1].name)


def corpus_of(given: str, folder: Path) -> JsonlConfig:
    """JSON lines with a ``text`` each: those that are given, or the standard library's sources."""
    if given:
        return JsonlConfig(path=given)
    library = open_corpus(StdlibConfig())
    texts = (d.text for piece in library.pieces(1) for d in library.read(piece) if isinstance(d, Document) and d.text.strip())
    with (folder / "library.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return JsonlConfig(path=str(folder / "library.jsonl"))


def documents(source: JsonlConfig) -> Iterator[Document]:
    corpus = open_corpus(source)
    return (d for piece in corpus.pieces(1) for d in corpus.read(piece) if isinstance(d, Document))


def tokenizer_of(source: JsonlConfig, vocab: int, folder: Path) -> Tokenizer:
    """BPE that was learned from some of the documents, in ``folder``."""
    texts = [d.text for d in itertools.islice(documents(source), LEARNED_FROM)]
    made = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=vocab), texts)
    made.save(folder / "tokenizer.json")
    return made


def shards(source: JsonlConfig, length: int, tokenizer: Path, folder: Path) -> None:
    """What the tokenize stage does with one piece, its look at whether the fast encoder is exact included."""
    folder.mkdir()
    corpus = open_corpus(source)
    (piece,) = corpus.pieces(1)
    fast = fast_is_exact(tokenizer, corpus, piece)
    rows = RowsConfig(length=length, layout="packed", pieces=1)
    made = tokenize_piece(Piece(0, piece, CorpusConfig(source=source, validation_share=0), rows, tokenizer, fast, folder))
    names = {"train": [n for n in made["files"] if n.endswith(".arrow")]}
    (folder / "rows.json").write_text(json.dumps({"length": length, "pad_in_loss": True, "shards": names}))


def tokenize(name: str, given: dict[str, Any]) -> Pair:
    """JSON lines to rows on disk. Theirs leaves what does not fill a row of each 1,000 documents; all other ids are equal."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    import datasets
    from transformers import PreTrainedTokenizerFast

    from tests.bench import plain_data

    datasets.disable_progress_bars()
    folder, numbers, length = scratch(), itertools.count(), given["length"]
    source = corpus_of(given["corpus"], folder)
    tokenizer = tokenizer_of(source, given["vocab"], folder)
    size = sum(len(d.text.encode()) for d in documents(source)) / MB
    files = [Path(source.files().root, file) for file in source.files().names]
    theirs_encodes = PreTrainedTokenizerFast(tokenizer_object=tokenizer.inner)

    def ours() -> dict[str, float]:
        shards(source, length, folder / "tokenizer.json", folder / f"ours-{next(numbers)}")
        return {}

    def theirs() -> dict[str, float]:
        read = plain_data.tokenized(files, theirs_encodes, tokenizer.end_id, folder / f"theirs-{next(numbers)}")
        plain_data.grouped(read, length)
        return {}

    def same() -> str:
        shards(source, length, folder / "tokenizer.json", folder / "gate")
        mine = TokenRows(folder / "gate", "train")
        stream = mine.take(np.arange(len(mine))).tokens.flatten()
        read = plain_data.tokenized(files, theirs_encodes, tokenizer.end_id, folder / "theirs-gate")
        expected = np.fromiter(itertools.chain.from_iterable(d["input_ids"] for d in read), dtype=np.int64)
        assert np.array_equal(stream[: len(expected)], expected), "the ids differ"
        assert len(stream) - len(expected) < length
        assert (stream[len(expected) :] == tokenizer.pad_id).all()
        return f"{len(expected):,} equal ids"

    setting = {k: given[k] for k in ("vocab", "length", "corpus")}
    return Pair(name, setting, ours, theirs, same, work=size, unit="MB")


def read_rows(name: str, given: dict[str, Any]) -> Pair:
    """Batches of shuffled rows as tensors: memory-mapped rows in a computed order, and ``datasets`` with a DataLoader."""
    from datasets import Dataset

    from tests.bench import plain_data

    folder, batch, length = scratch(), given["rows"], given["length"]
    source = corpus_of(given["corpus"], folder)
    tokenizer_of(source, given["vocab"], folder)
    shards(source, length, folder / "tokenizer.json", folder / "rows")
    rows = TokenRows(folder / "rows", "train")
    tokens = rows.take(np.arange(len(rows))).tokens.astype(np.uint16 if given["vocab"] <= 1 << 16 else np.int32)
    Dataset.from_dict({"input_ids": tokens}).save_to_disk(folder / "theirs")
    loader = plain_data.loader(Dataset.load_from_disk(str(folder / "theirs")), batch)
    mixture, places = Mixture([len(rows)], [1.0], seed=0), itertools.count()
    number = min(BATCHES, len(rows) // batch)

    def mine(first: int) -> torch.Tensor:
        return torch.from_numpy(gather([rows], mixture, torch.arange(first, first + batch)).tokens)

    def ours() -> dict[str, float]:
        seen = sum(mine(next(places) * batch).shape[0] for _ in range(number))
        assert seen == number * batch
        return {}

    def theirs() -> dict[str, float]:
        seen = sum(found["input_ids"].shape[0] for found in itertools.islice(loader, number))
        assert seen == number * batch
        return {}

    def same() -> str:
        """Each row of an epoch once, on both sides."""
        whole = len(rows) // batch * batch
        here = gather([rows], mixture, torch.arange(len(rows))).tokens
        there = torch.cat([found["input_ids"] for found in loader]).numpy()
        expected = sorted(map(bytes, tokens.astype(np.int64)))
        assert sorted(map(bytes, here)) == expected, "ours lost a row"
        assert len(there) == whole
        assert not set(map(bytes, there.astype(np.int64))) - set(expected), "theirs made a row up"
        first = next(iter(loader))["input_ids"]
        assert first.shape == mine(0).shape
        return f"{len(rows):,} equal rows, each once in an epoch"

    setting = {k: given[k] for k in ("vocab", "length", "rows", "corpus")}
    return Pair(name, setting, ours, theirs, same, work=number * batch * length / 1e6, unit="M tokens")

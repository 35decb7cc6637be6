"""Real corpora, where the setting PROSECO_DATA names the folder that holds them."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora.config import JsonlConfig, TextConfig
from components.data.corpora.files import JsonLines, TextFiles
from components.data.documents import Document
from components.data.packing import SPLITS, pack_piece
from components.data.tokenizer import Tokenizer, agrees, build_tokenizer

pytestmark = pytest.mark.skipif(not os.environ.get("PROSECO_DATA"), reason="PROSECO_DATA is not set")


def documents(corpus, count):
    found = islice((d for p in corpus.pieces(1) for d in corpus.read(p)), count)
    return [d for d in found if isinstance(d, Document)]


def present(path: str) -> str:
    if not Path(path.replace("$PROSECO_DATA", os.environ["PROSECO_DATA"])).exists():
        pytest.skip(f"{path} is not there")
    return path


def test_grade_school_mathematics_as_prompt_and_response():
    path = present("$PROSECO_DATA/gsm8k/train.jsonl.gz")
    corpus = JsonLines(JsonlConfig(path=path, text_field="answer", prompt_field="question"))
    found = documents(corpus, 500)
    assert len(found) == 500
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=2000), [d.prompt + d.text for d in found])
    packed = pack_piece(found, tokenizer, RowsConfig(length=256, end_token=True), CorpusConfig())
    placed = sum(packed.counts[f"{s}_documents"] for s in SPLITS)
    assert placed + packed.counts["quarantined"] == 500
    assert placed > 400
    tokens, num_prompt = packed.rows["train"].tokens[0], int(packed.rows["train"].num_prompt[0])
    assert 0 < num_prompt < 256
    assert tokenizer.end_id in tokens[num_prompt:]


def test_molecules_are_spelled_and_read_back():
    path = present("$PROSECO_DATA/qm9_smiles/valid.csv.gz")
    lines = documents(TextFiles(TextConfig(path=path, document="line")), 2000)[1:]
    smiles = [d.text.split(",")[0] for d in lines]
    tokenizer = build_tokenizer(TokenizerConfig(kind="smiles"), smiles)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(smiles)] == smiles
    assert tokenizer.vocab_size < 64


def test_the_fast_encoder_agrees_on_stories():
    pytest.importorskip("gigatoken", reason="gigatoken is an optional extra")
    path = present("$PROSECO_DATA/storybooks_en/train.jsonl.gz")
    texts = [d.text for d in documents(JsonLines(JsonlConfig(path=path)), 200)]
    slow = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=2000), texts)
    assert agrees(Tokenizer(slow.inner, fast=True), texts)

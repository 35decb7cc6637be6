"""Rows that nobody trained on, as a table: what of them is to be predicted, and given what."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.data.config import TokenizerConfig
from components.data.rows import PackedRow, TokenRows, block_of, write_rows
from components.data.tokenizer import build_tokenizer
from pipelines.stages.held_out import as_samples

WORDS = build_tokenizer(TokenizerConfig(), [], "abc")
PAD, END = WORDS.pad_id, WORDS.end_id


@pytest.mark.parametrize(("pads", "given"), [(True, [[6, 7], None, None]), (False, [[5, 6, 7], [7], [4, 5, 6, 7]])])
def test_what_a_network_was_not_to_write_is_given(pads, given, tmp_path):
    """Of a row of six positions in a file of eight, of one that is full but for an end, and of one behind a prompt."""
    rows = [
        PackedRow([4, 5, 6, 4, END, PAD, PAD, PAD], 0, 0.25, 6),
        PackedRow([4, 5, 6, 4, 4, 4, END, PAD], 0, None),
        PackedRow([4, 5, 6, END, PAD, PAD, PAD, PAD], 2, 0.75),
    ]
    write_rows(tmp_path / "a.arrow", block_of(rows[:1] + rows[2:], 8, PAD, 7))
    write_rows(tmp_path / "b.arrow", block_of(rows[1:2], 8, PAD, 7))
    info = {"length": 8, "pad_in_loss": pads, "shards": {"test": ["a.arrow", "b.arrow"]}}
    (tmp_path / "rows.json").write_text(json.dumps(info))
    found = list(as_samples(TokenRows(tmp_path, "test"), np.array([0, 2, 1]), WORDS))
    assert [r["given"] for r in found] == given
    assert [r["num_prompt"] for r in found] == [0, 0, 2]
    assert [len(r["tokens"]) for r in found] == [8, 8, 8]


def test_rows_have_their_labels_and_are_told_apart_by_them(tmp_path):
    write_rows(tmp_path / "a.arrow", block_of([PackedRow([4, 5], 0, label) for label in (0.25, 0.75, 0.25)], 2, PAD, 7))
    (tmp_path / "rows.json").write_text(json.dumps({"length": 2, "pad_in_loss": True, "shards": {"test": ["a.arrow"]}}))
    found = list(as_samples(TokenRows(tmp_path, "test"), np.arange(3), WORDS))
    assert [r["label"] for r in found] == [0.25, 0.75, 0.25]
    assert found[0]["row_id"] == found[2]["row_id"] != found[1]["row_id"]

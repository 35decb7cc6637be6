from __future__ import annotations

import json

import numpy as np
import pytest

from components.data import packing
from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora import CORPORA
from components.data.corpora.config import (
    AdditionConfig,
    CodingConfig,
    CsvConfig,
    JsonlConfig,
    LatinSquareConfig,
    ParquetConfig,
    StdlibConfig,
    SudokuConfig,
    TextConfig,
)
from components.data.corpora.files import JsonLines, ParquetFiles, Stdlib, TableFiles, TextFiles
from components.data.corpora.puzzles import Addition, Coding, LatinSquares, Sudokus
from components.data.documents import BadDocument, Document, split_of
from components.data.order import BLOCK, STRETCH, Mixture, permute
from components.data.packing import SPLITS, pack_piece
from components.data.rows import TokenRows, write_rows
from components.data.tokenizer import SPECIAL, agrees, build_tokenizer, load_tokenizer
from components.errors import CorruptArtifact, DataError
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.config import ValidityConfig
from components.scorers.validity import build

PUZZLES = [
    (LatinSquares, LatinSquareConfig(size=5, num_documents=200)),
    (LatinSquares, LatinSquareConfig(size=3, num_documents=50)),
    (Sudokus, SudokuConfig(size=4, num_documents=200)),
    (Sudokus, SudokuConfig(size=6, num_documents=50, givens=12)),
    (Sudokus, SudokuConfig(size=9, num_documents=50, givens=30)),
    (Coding, CodingConfig(num_documents=200)),
    (Addition, AdditionConfig(num_documents=200)),
]


@pytest.mark.parametrize(("corpus", "config"), PUZZLES, ids=str)
def test_generated_documents_are_valid_different_and_the_same_every_time(corpus, config):
    def documents(count):
        made = corpus(config)
        return [d for p in made.pieces(count) for d in made.read(p)]

    found = documents(3)
    assert len(found) == config.num_documents
    assert {d.id: d for d in found} == {d.id: d for d in documents(5)}
    score = build(ValidityConfig(), ScorerSetting(None, config))
    rows = [ScoredRow(0, d.prompt, d.text, (), 0) for d in found]
    assert score(rows)["valid"] == [1.0] * len(rows)
    possible = {LatinSquareConfig: 12, SudokuConfig: 288}.get(corpus_kind := type(config), 10**6)
    small = (corpus_kind is SudokuConfig and config.size == 4) or getattr(config, "size", 0) == 3
    assert len({d.text for d in found}) > (0.2 * possible if small else 0.9 * len(found))
    broken = [ScoredRow(0, d.prompt, d.text[:-1] + ("1" if d.text[-1] != "1" else "2"), (), 0) for d in found]
    assert score(broken)["valid"] == [0.0] * len(rows)


def test_all_twelve_squares_of_size_three_come_out():
    made = LatinSquares(LatinSquareConfig(size=3, num_documents=600))
    counts = np.unique([d.text for d in made.read("0/1")], return_counts=True)[1]
    assert len(counts) == 12
    assert counts.min() > 20  # 50 expected; 4.4 standard deviations


def test_a_puzzle_with_givens_keeps_them_in_the_prompt():
    document = next(Sudokus(SudokuConfig(size=4, givens=6)).read("0/100"))
    assert sum(c != "0" for c in document.prompt) == 6
    assert all(g in ("0", c) for g, c in zip(document.prompt, document.text, strict=True))


def test_equal_documents_are_never_in_two_splits():
    squares = LatinSquares(LatinSquareConfig(size=3, num_documents=500))
    splits: dict[str, set[str]] = {}
    for d in squares.read("0/1"):
        splits.setdefault(d.text, set()).add(split_of(d, 0.3, 0.3))
    assert all(len(s) == 1 for s in splits.values())
    assert {s for found in splits.values() for s in found} == set(SPLITS)


def test_special_ids_are_distinct_in_every_kind_of_tokenizer(tmp_path):
    """Pitfall 7."""
    texts = ["def f(x):\n    return x", "C1=CC=CC=C1Br", "[nH]1cccc1"]
    for kind in ("characters", "symbols", "smiles", "bpe"):
        tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), texts)
        ids = {tokenizer.mask_id, tokenizer.pad_id, tokenizer.end_id, tokenizer.unknown_id}
        assert ids == set(range(len(SPECIAL)))
        tokenizer.save(tmp_path / "t.json")
        again = load_tokenizer(tmp_path / "t.json")
        assert again.vocab_size == tokenizer.vocab_size
        for text in texts:
            (encoded,) = again.encode_batch([text])
            assert encoded == tokenizer.encode_batch([text])[0]
            if kind != "symbols":
                assert again.decode(encoded) == text


def test_atoms_of_two_letters_are_one_token():
    tokenizer = build_tokenizer(TokenizerConfig(kind="smiles"), ["C1=CC=CC=C1BrCl[nH]"])
    assert [tokenizer.show(i) for i in tokenizer.encode_batch(["BrCl[nH]"])[0]] == ["Br", "Cl", "[nH]"]


def test_the_fast_encoder_gives_the_same_ids():
    pytest.importorskip("gigatoken", reason="gigatoken is an optional extra")
    texts = [
        d.text
        for p in Stdlib(StdlibConfig(max_documents=12)).pieces(1)
        for d in Stdlib(StdlibConfig(max_documents=12)).read(p)
    ]
    slow = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=1000), texts)
    from components.data.tokenizer import Tokenizer

    fast = Tokenizer(slow.inner, fast=True)
    assert fast._fast is not None
    assert agrees(fast, texts)


def test_every_document_is_placed_or_quarantined():
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")
    documents = [
        Document("good", "abc"),
        Document("with prompt", "ab", "cc"),
        Document("empty", "  "),
        Document("too long", "abcabcabc"),
        Document("unknown", "abz"),
        BadDocument("bad", "not UTF-8 at byte 3"),
    ]
    for layout in ("document", "packed"):
        packed = pack_piece(documents, tokenizer, RowsConfig(length=6, layout=layout), CorpusConfig(validation_share=0))
        placed = sum(packed.counts[f"{s}_documents"] for s in SPLITS)
        assert placed + packed.counts["quarantined"] == packed.counts["documents"] == len(documents)
        assert {b.id for b in packed.bad} >= {"empty", "unknown", "bad"}
        assert all(rows.tokens.shape[1] == 6 for rows in packed.rows.values())
    first = pack_piece(documents, tokenizer, RowsConfig(length=6), CorpusConfig(validation_share=0)).rows["train"]
    assert first.num_prompt.tolist() == [0, 2]
    assert first.tokens[1].tolist() == [*tokenizer.encode_batch(["ccab"])[0], tokenizer.pad_id, tokenizer.pad_id]


def test_a_document_that_is_longer_than_a_row_is_told_cut_or_written_on():
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")
    documents = [Document("long", "abcabcabcab"), Document("short", "ab"), Document("prompt", "aaaa", "bbbb"), Document("no room", "a", "b" * 6)]
    ids = [[*tokenizer.encode_batch([d.prompt + d.text])[0], tokenizer.end_id] for d in documents]

    def rows_of(**changes):
        rows = RowsConfig(length=6, end_token=True, **changes)
        packed = pack_piece(documents[:3] if changes.get("too_long") == "split" else documents, tokenizer, rows, CorpusConfig(validation_share=0))
        return packed, [[t for t in r if t != tokenizer.pad_id] for r in packed.rows["train"].tokens.tolist()]

    told, rows = rows_of()
    assert rows == [ids[1]]
    assert [b.id for b in told.bad] == ["long", "prompt", "no room"]
    cut, rows = rows_of(too_long="cut")
    assert rows == [ids[0][:6], ids[1], ids[2][:6]]
    assert [b.id for b in cut.bad] == ["no room"], "a row of nothing but a prompt teaches nothing"
    assert (cut.counts["cut"], cut.counts["tokens"]) == (2, 6 + 2 + 6)
    split, rows = rows_of(too_long="split")
    assert rows[:2] == [ids[0][:6], ids[0][6:]], "every token once, the end behind the last"
    assert split.counts["train_documents"] + split.counts["quarantined"] == 3


def test_rows_are_filled_up_to_the_next_bucket(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")
    documents = [Document(str(n), "a" * n) for n in (1, 2, 3, 4, 5, 6)]
    packed = pack_piece(documents, tokenizer, RowsConfig(length=6, buckets=(2, 4)), CorpusConfig(validation_share=0))
    assert packed.rows["train"].size.tolist() == [2, 2, 4, 4, 6, 6]
    assert packed.counts["padding"] == 3
    write_rows(tmp_path / "train-0.arrow", packed.rows["train"])
    (tmp_path / "rows.json").write_text(json.dumps({"length": 6, "pad_in_loss": True, "shards": {"train": ["train-0.arrow"]}}))
    rows = TokenRows(tmp_path, "train")
    assert rows.uneven
    assert rows.sizes(np.array([5, 0, 2])).tolist() == rows.take(np.array([5, 0, 2])).size.tolist() == [6, 2, 4]


@pytest.mark.parametrize("length", [7, 4])
def test_packing_loses_no_token(length, monkeypatch):
    """In any batches; the last row is filled up, where it is not full."""
    monkeypatch.setattr(packing, "ENCODE_BATCH", 3)
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")
    documents = [Document(str(i), "abc"[: i % 3 + 1] * 3) for i in range(21)]
    packed = pack_piece(documents, tokenizer, RowsConfig(length=length, layout="packed"), CorpusConfig(validation_share=0))
    stream = packed.rows["train"].tokens.flatten().tolist()
    expected = [t for d in documents for t in [*tokenizer.encode_batch([d.text])[0], tokenizer.end_id]]
    assert len(expected) == 3 * 7 * 7
    assert stream == expected + [tokenizer.pad_id] * (-len(expected) % length)
    assert packed.counts["padding"] == -len(expected) % length
    assert packed.rows["train"].size.tolist() == [length] * (len(stream) // length)


def test_a_broken_line_is_one_bad_document(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(
        b'{"text": "one"}\n{"text": "two"\n\xff\xfe\n{"other": 1}\n[1]\n{"text": "three", "p": "q", "l": 2}\n'
    )
    corpus = JsonLines(JsonlConfig(path=str(path)))
    (piece,) = corpus.pieces(4)
    found = list(corpus.read(piece))
    assert [d.text for d in found if isinstance(d, Document)] == ["one", "three"]
    reasons = [d.reason for d in found if isinstance(d, BadDocument)]
    assert ["broken JSON" in r or "UTF-8" in r or "no field" in r or "not an object" in r for r in reasons] == [
        True
    ] * 4
    prompted = JsonLines(JsonlConfig(path=str(path), prompt_field="p", label_field="l"))
    assert [d for d in prompted.read(piece) if isinstance(d, Document)] == [Document("data.jsonl:6", "three", "q", 2)]


def test_tables_are_read_row_by_row(tmp_path):
    """Quoted fields, line breaks in them, a byte order mark, numbers; a broken row is one bad document."""
    rows = ["\ufeffsmiles,qed,name", 'CC,0.5,"one, two"', '"C\nO",1,x', "N,A", "O,high,x", "P,inf,x", ",0.1,x", "", "F,-2e-1,x"]
    (tmp_path / "a.csv").write_bytes("\r\n".join(rows).encode() + b"\r\n\xff,0.5,x\n")
    (tmp_path / "b.tsv").write_text("smiles\tqed\nS,S\t2\n")
    (tmp_path / "c.csv").write_text("smiles,smiles\nC,C\n")
    corpus = TableFiles(CsvConfig(path=str(tmp_path), text_field="smiles", value_field="qed"))
    found = [d for p in corpus.pieces(9) for d in corpus.read(p)]
    assert [(d.text, d.label) for d in found if isinstance(d, Document)] == [
        ("CC", 0.5), ("C\nO", 1.0), ("", 0.1), ("F", -0.2), ("S,S", 2.0),
    ]  # fmt: skip
    bad = {d.id: d.reason for d in found if isinstance(d, BadDocument)}
    assert bad["a.csv:3"] == "2 fields, and the first row names 3"
    assert "qed = 'high' is no finite number" in bad["a.csv:4"]
    assert "qed = 'inf'" in bad["a.csv:5"]
    assert "no Unicode text" in bad["a.csv:8"]
    assert "two columns are named 'smiles'" in bad["c.csv"]
    named = TableFiles(CsvConfig(path=str(tmp_path / "b.tsv"), text_field="text"))
    (missing,) = (d for p in named.pieces(1) for d in named.read(p))
    assert missing.reason == "no field 'text' (it has smiles, qed)"
    (tmp_path / "d.csv").write_text("text;class\na;2\nb;0.5\n\"never closed;1\nc;0\n")
    classes = TableFiles(CsvConfig(path=str(tmp_path / "d.csv"), separator=";", label_field="class"))
    first, *others = (d for p in classes.pieces(1) for d in classes.read(p))
    assert (first.text, first.label) == ("a", 2)
    assert [o.reason.split(",")[0] for o in others] == ["class = '0.5' is no whole number from 0 to 2147483647", "a quote is opened and never closed"]


def test_text_and_parquet_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.txt").write_text("first\n\nsecond\nline")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    for document, count in (("file", 2), ("line", 4), ("paragraph", 3)):
        corpus = TextFiles(TextConfig(path=str(tmp_path), document=document))
        assert sum(1 for p in corpus.pieces(2) for _ in corpus.read(p)) == count
    pq.write_table(pa.table({"text": ["x", "y", None]}), tmp_path / "c.parquet")
    corpus = ParquetFiles(ParquetConfig(path=str(tmp_path / "*.parquet")))
    found = [d for p in corpus.pieces(2) for d in corpus.read(p)]
    assert [type(d).__name__ for d in found] == ["Document", "Document", "BadDocument"]


def test_a_corpus_that_is_not_there_says_so(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file"):
        JsonLines(JsonlConfig(path=str(tmp_path / "none.jsonl"))).pieces(2)
    for forget in (lambda: monkeypatch.delenv("PROSECO_DATA", raising=False), lambda: monkeypatch.setenv("PROSECO_DATA", "")):
        forget()
        with pytest.raises(DataError, match="PROSECO_DATA is not set"):
            TextFiles(TextConfig(path="$PROSECO_DATA/x.txt")).pieces(2)


def test_the_standard_library_is_there():
    corpus = Stdlib(StdlibConfig(max_documents=20))
    documents = [d for p in corpus.pieces(4) for d in corpus.read(p)]
    assert len(documents) == 20
    assert sum("def " in d.text for d in documents if isinstance(d, Document)) > 5


def test_every_corpus_can_be_listed():
    assert all(p().load() is not None for p in CORPORA.values())


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 4097])
def test_the_order_is_a_permutation_and_depends_on_its_key(size):
    index = np.arange(size)
    first, second = permute(index, size, 1), permute(index, size, 2)
    assert sorted(first) == list(range(size))
    assert np.array_equal(first, permute(index, size, 1))
    assert size < 10 or not np.array_equal(first, second)
    assert permute(np.array([size - 1]), size, 1)[0] == first[-1]


def test_the_order_is_well_mixed():
    """Rank correlation of place and row is within 5 standard deviations of 0."""
    n = 5000
    correlation = np.corrcoef(np.arange(n), permute(np.arange(n), n, 7))[0, 1]
    assert abs(correlation) < 5 / n**0.5


def test_a_mixture_keeps_its_shares_and_visits_every_row_once_an_epoch():
    mixture = Mixture([100, 37], [3.0, 1.0], seed=5)
    corpus, row = mixture.pick(np.arange(BLOCK))
    assert (corpus == 0).sum() == 768
    assert np.array_equal(mixture.pick(np.arange(300, 400))[1], row[300:400])
    for c, size in enumerate((100, 37)):
        assert sorted(row[corpus == c][:size]) == list(range(size))


def test_places_are_picked_alike_in_any_company():
    """One by one, far apart and out of order, over the ends of what is computed at once."""
    one, several = Mixture([1000], [1.0], seed=3), Mixture([100, 37], [3.0, 1.0], seed=3)
    places = np.array([STRETCH, 5, 9 * STRETCH - 1, STRETCH - 1, 5, 7 * STRETCH + 13])
    corpus, row = one.pick(places)
    assert not corpus.any()
    assert row.tolist() == [int(permute(np.array([p % 1000]), 1000, 3 * 1009 * 100_003 + p // 1000)[0]) for p in places.tolist()]
    for mixture in (one, several):
        alone = [mixture.pick(np.array([p])) for p in places]
        assert [(c, r) for c, r in zip(*(x.tolist() for x in mixture.pick(places)), strict=True)] == [(int(c[0]), int(r[0])) for c, r in alone]
    block, place = np.divmod(places, BLOCK)
    whole = [several.pick(np.arange(b * BLOCK, (b + 1) * BLOCK)) for b in block]
    assert several.pick(places)[1].tolist() == [int(rows[p]) for (_, rows), p in zip(whole, place, strict=True)]


def test_rows_travel_through_files(tmp_path):
    from components.data.rows import PackedRow, block_of

    rows = [PackedRow([i, i + 1, i + 2], i % 2, i) for i in range(10)]
    write_rows(tmp_path / "train-0.arrow", block_of(rows[:4], 3, 1, 70000))
    write_rows(tmp_path / "train-1.arrow", block_of(rows[4:], 3, 1, 70000))
    info = {"length": 3, "pad_in_loss": True, "shards": {"train": ["train-0.arrow", "train-1.arrow"], "validation": []}}
    (tmp_path / "rows.json").write_text(json.dumps(info))
    found = TokenRows(tmp_path, "train")
    assert len(found) == 10
    assert len(TokenRows(tmp_path, "validation")) == 0
    block = found.take(np.array([9, 0, 5]))
    assert block.tokens.tolist() == [[9, 10, 11], [0, 1, 2], [5, 6, 7]]
    assert block.num_prompt.tolist() == [1, 0, 1]
    assert block.label.tolist() == [9, 0, 5]
    (tmp_path / "train-1.arrow").write_bytes(b"not arrow")
    with pytest.raises(CorruptArtifact, match="proseco gc"):
        TokenRows(tmp_path, "train")

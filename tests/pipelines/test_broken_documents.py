"""Documents that cannot be used: in = out + quarantined, each with a reason, whatever is wrong with them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora import open_corpus
from components.data.corpora.config import JsonlConfig, ParquetConfig, SourceOptions, TextConfig
from components.data.corpora.records import split
from components.data.documents import BadDocument, Document
from components.data.prompts import PromptsConfig, read_entries
from components.data.rows import TokenRows
from components.data.tokenizer import SPECIAL, Tokenizer, build_tokenizer, load_tokenizer
from components.outside import MAX_DEPTH, MAX_DOCUMENT_BYTES
from components.store.artifact import read_manifest
from pipelines.config.schema import RunConfig
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.workflows.main_job import build

GOOD = ["abc", "a [MASK] b", "[PAD]", "[EOS]", "[MASK]" * 4, "\u00e9\u4e2d\U0001f600", "a\u0000b", "\\ud800", "<mask>"]
LABELLED = '{"text": "abc", "label": %s}'
BROKEN: dict[str, bytes] = {
    "at most 64 levels": b'{"text": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
    "deeply": b"[" * 200_000,
    "4300 digits": b'{"text": "a", "x": ' + b"9" * 5000 + b"}",
    "surrogates not allowed at 1": b'{"text": "a\\ud800", "label": 0}',
    "surrogates not allowed at 0": b'{"text": "\\udfff\\ud800", "label": 0}',
    "label = '1099511627776'": (LABELLED % 2**40).encode(),
    "label = 'True'": (LABELLED % "true").encode(),
    "label = '-1'": (LABELLED % -1).encode(),
    "label = 'nan'": (LABELLED % "NaN").encode(),
    "label = '0.5'": (LABELLED % 0.5).encode(),
    "label = '0'": (LABELLED % '"0"').encode(),
    "no field 'label'": b'{"text": "abc"}',
    "text is no text but of type int": b'{"text": 5, "label": 0}',
    "text is no text but of type list": b'{"text": ["a"], "label": 0}',
    "no field 'text'": b'{"text": null, "label": 0}',
    "not an object": b'"abc"',
    "broken JSON": b'{"text": "ab',
    "not UTF-8": b'{"text": "\xff\xfe", "label": 0}',
    "longer than 8 MiB": b'{"text": "' + b"a" * MAX_DOCUMENT_BYTES + b'", "label": 0}',
    "empty": b'{"text": " \\n", "label": 0}',
}


def stage_of(source: SourceOptions, root: Path, **changes: Any) -> tuple[Path, Tokenizer]:
    """Tokenize a corpus as a run does; the folder of its rows, and its tokenizer."""
    run = RunConfig(
        corpora={"c": CorpusConfig(source=source, validation_share=0, max_bad_share=0.99)},
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=300),
        rows=RowsConfig(length=64, **changes),
    )
    from cluster.config import RuntimeConfig

    stages = build(run)
    execute("c", [stages["tokenize/c"]], RuntimeConfig(executor="local", root=str(root), tracking_uri="none", jobs=1), Screen(True))
    return stages["tokenize/c"].folder(root), load_tokenizer(stages["tokenizer"].folder(root) / "tokenizer.json")


def quarantined(folder: Path) -> list[dict[str, str]]:
    return [row for file in folder.glob("quarantine-*.parquet") for row in pq.read_table(file).to_pylist()]


def test_five_hundred_documents_of_which_a_hundred_are_broken_in_twenty_ways(tmp_path):
    assert len(BROKEN) == 20
    good = [json.dumps({"text": GOOD[i % len(GOOD)], "label": i}).encode() for i in range(400)]
    bad = [line for line in BROKEN.values() for _ in range(5)]
    lines = good + bad
    order = np.random.default_rng(0).permutation(len(lines))
    (tmp_path / "c").mkdir()
    for number in range(5):
        (tmp_path / "c" / f"{number}.jsonl").write_bytes(b"\n".join(lines[i] for i in order[number::5]))
    folder, tokenizer = stage_of(JsonlConfig(path=str(tmp_path / "c"), label_field="label"), tmp_path / "r", pieces=2)
    info = read_manifest(folder).info
    assert (info["documents"], info["quarantined"], info["train_rows"]) == (500, 100, 400)
    assert info["unreadable_files"] == 0
    reasons = [row["reason"] for row in quarantined(folder)]
    for reason in BROKEN:
        assert sum(reason in found for found in reasons) >= 5, reason
    rows = TokenRows(folder, "train").take(np.arange(400))
    assert sorted(rows.label.tolist()) == list(range(400))
    for tokens, label in zip(rows.tokens.tolist(), rows.label.tolist(), strict=True):
        text = [t for t in tokens if t != tokenizer.pad_id]
        assert tokens[len(text) :] == [tokenizer.pad_id] * (64 - len(text)), "padding stands at the end only"
        assert not {tokenizer.mask_id, tokenizer.end_id, tokenizer.unknown_id} & set(text)
        assert tokenizer.decode(text) == GOOD[int(label) % len(GOOD)]


@pytest.mark.parametrize("kind", ["characters", "symbols", "smiles", "bpe"])
@pytest.mark.parametrize("fast", [False, True])
def test_names_of_special_tokens_are_text(kind, fast):
    """Spelled, or where the vocabulary has no symbols to spell them with, unknown: never the special id."""
    for alphabet in (["abc"], ["abc", *SPECIAL]):
        made = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=280), alphabet)
        tokenizer = Tokenizer(made.inner, fast)
        texts = ["abc", *SPECIAL, "a[MASK]b", "[PAD][EOS]", "x [UNK] y"]
        found = tokenizer.encode_batch(texts)
        for text, ids in zip(texts, found, strict=True):
            assert not {tokenizer.mask_id, tokenizer.pad_id, tokenizer.end_id} & set(ids), text
            if tokenizer.unknown_id not in ids and kind != "symbols":
                assert tokenizer.decode(ids) == text
        if kind == "bpe" or (len(alphabet) > 1 and kind == "characters"):
            assert all(tokenizer.unknown_id not in ids for ids in found[:-1])
    assert tokenizer.encode_batch(["abc"]) == [made.inner.encode("abc").ids]


def good_gz() -> bytes:
    return gzip.compress(b"".join(b'{"text": "line %d"}\n' % i for i in range(500)), mtime=0)


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :]


def parquet(table: dict[str, Any], path: Path) -> bytes:
    pq.write_table(pa.table(table), path)
    return path.read_bytes()


FILES = {
    "cut.jsonl.gz": lambda raw: raw[:-9],
    "cut-early.jsonl.gz": lambda raw: raw[: len(raw) // 2],
    "flipped.jsonl.gz": lambda raw: flipped(raw, len(raw) // 2),
    "checksum.jsonl.gz": lambda raw: flipped(raw, len(raw) - 8),
    "garbage.jsonl.gz": lambda raw: b"this is not gzip\n" * 9,
    "empty.jsonl.gz": lambda raw: b"",
    "doubled.jsonl.gz": lambda raw: raw + b"trailing junk",
}


def test_a_shard_that_cannot_be_read_is_quarantined_as_a_whole(tmp_path):
    """Not even the documents before the damage are used: nobody knows whether they are what was written."""
    folder = tmp_path / "c"
    folder.mkdir()
    for name, damage in FILES.items():
        (folder / name).write_bytes(damage(good_gz()))
    (folder / "whole.jsonl.gz").write_bytes(good_gz())
    made, _ = stage_of(JsonlConfig(path=str(folder)), tmp_path / "r")
    info, bad = read_manifest(made).info, quarantined(made)
    assert {row["id"] for row in bad} == set(FILES)
    assert all("the file cannot be read: " in row["reason"] for row in bad)
    assert (info["documents"], info["quarantined"], info["unreadable_files"]) == (500 + len(FILES), len(FILES), len(FILES))
    assert info["train_rows"] == 500


def test_parquet_that_is_cut_empty_or_of_other_types(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    raw = parquet({"text": [f"line {i}" for i in range(2000)]}, folder / "a-good.parquet")
    damaged = {
        "cut.parquet": raw[:-20], "empty.parquet": b"", "magic.parquet": b"PAR1" * 3, "flipped.parquet": flipped(raw, len(raw) // 3),
        "garbage.parquet": b"x" * 500,
    }  # fmt: skip
    for name, content in damaged.items():
        (folder / name).write_bytes(content)
    typed = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string()) if hasattr(pa.Array, "view") else None
    parquet({"text": typed}, folder / "latin.parquet")
    parquet({"text": pa.array([b"raw", None], pa.binary())}, folder / "binary.parquet")
    parquet({"text": [1.5, float("nan")]}, folder / "numbers.parquet")
    parquet({"other": ["a", "b"]}, folder / "other.parquet")
    parquet({"text": pa.array([None, None], pa.string())}, folder / "nulls.parquet")
    parquet({"text": pa.array(["a", "b"]).dictionary_encode()}, folder / "dictionary.parquet")
    made, _ = stage_of(ParquetConfig(path=str(folder)), tmp_path / "r", pieces=3)
    info, bad = read_manifest(made).info, {row["id"]: row["reason"] for row in quarantined(made)}
    assert info["unreadable_files"] == len(damaged)
    assert info["train_rows"] == 2000 + 1 + 2
    assert info["documents"] == info["train_rows"] + info["quarantined"]
    assert info["quarantined"] == len(damaged) + 1 + 2 + 2 + 2 + 2
    assert "the row cannot be read" in bad["latin.parquet:1"]
    assert bad["binary.parquet:0"] == "text is no text but of type bytes"
    assert bad["numbers.parquet:1"] == "text is no text but of type float"
    assert bad["other.parquet:0"] == "no field 'text' (it has other)"


def read(source: SourceOptions) -> Iterator[Document | BadDocument]:
    corpus = open_corpus(source)
    for piece in corpus.pieces(1):
        yield from corpus.read(piece)


@pytest.mark.parametrize(
    ("document", "separator"), [("line", b"\n"), ("paragraph", b"\n\n")]
)  # fmt: skip
def test_what_is_too_long_is_left_out_and_its_neighbours_are_read(document, separator, tmp_path):
    long = b"x" * (MAX_DOCUMENT_BYTES + 1)
    (tmp_path / "a.txt").write_bytes(separator.join([b"one", long, b"two", long[1:], b"three"]))
    found = list(read(TextConfig(path=str(tmp_path / "a.txt"), document=document)))
    assert [d.id for d in found] == [f"a.txt:{i}" for i in range(1, 6)]
    assert [len(d.text) if isinstance(d, Document) else d.reason for d in found] == [3, "longer than 8 MiB", 3, MAX_DOCUMENT_BYTES, 5]


@pytest.mark.parametrize("separator", [b"\n", b"\n\n"])
def test_files_are_split_as_if_they_were_read_at_once(separator, monkeypatch):
    import io

    from components.data.corpora import records

    monkeypatch.setattr(records, "CHUNK", 3)
    for seed in range(300):
        raw = bytes(np.random.default_rng(seed).choice(list(b"ab\n\n\r"), 40).tolist())
        assert list(split(io.BytesIO(raw), separator)) == raw.replace(b"\r\n", b"\n").split(separator), raw
        monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 4)
        short = [part[:5] for part in raw.replace(b"\r\n", b"\n").split(separator)]
        assert list(split(io.BytesIO(raw), separator)) == short, raw
        monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)


PEAK = """
import sys
from pathlib import Path
from components.data.corpora import open_corpus
from components.data.corpora.config import JsonlConfig, TextConfig
from components.data.prompts import PromptsConfig, read_entries

def peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
path, kind = sys.argv[1:]
if kind == "prompts":
    asked = PromptsConfig(path=path)
    found = [e for p in asked.cut() for e in read_entries(asked, p, "prompts")]
else:
    corpus = open_corpus(JsonlConfig(path=path) if kind == "jsonl" else TextConfig(path=path, document=kind))
    found = [d for p in corpus.pieces(1) for d in corpus.read(p)]
assert [e.reason for e in found] == ["longer than 8 MiB"], found
print(peak() - before)
"""


@pytest.mark.parametrize(("kind", "name"), [("jsonl", "a.jsonl.gz"), ("line", "a.txt"), ("file", "a.txt"), ("prompts", "a.jsonl")])
def test_a_line_of_a_hundred_megabytes_takes_less_memory_than_it_has_bytes(kind, name, tmp_path):
    line = b'{"text": "' + b"a" * 100_000_000 + b'"}\n'
    (tmp_path / name).write_bytes(gzip.compress(line, 1) if name.endswith("gz") else line)
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / name, kind], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 80_000_000, done.stdout


def test_depth_is_counted_exactly(tmp_path):
    for depth, kept in ((MAX_DEPTH - 1, True), (MAX_DEPTH, False)):
        line = b'{"text": "a", "x": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        (tmp_path / "a.jsonl").write_bytes(line)
        (found,) = read(JsonlConfig(path=str(tmp_path / "a.jsonl")))
        assert isinstance(found, Document) == kept


def test_prompts_of_parquet_that_are_no_text_are_not_told_as_python_shows_them(tmp_path):
    columns = {"prompt": [b"raw", b"12"], "id": ["a", "b"]}
    parquet(columns, tmp_path / "p.parquet")
    asked = PromptsConfig(path=str(tmp_path / "p.parquet"))
    found = [e for p in asked.cut() for e in read_entries(asked, p, "prompts")]
    assert [e.reason for e in found] == ["Object of type bytes is not JSON serializable"] * 2


def test_a_glob_that_matches_a_folder_takes_the_files_beside_it(tmp_path):
    (tmp_path / "b.jsonl").mkdir()
    (tmp_path / "b.jsonl" / "c.jsonl").write_text('{"text": "below"}')
    (tmp_path / "a.jsonl").write_text('{"text": "beside"}')
    corpus = open_corpus(JsonlConfig(path=f"{tmp_path}/*.jsonl"))
    found = [d for piece in corpus.pieces(2) for d in corpus.read(piece)]
    assert [d.text for d in found] == ["beside"]

"""Every reader of what comes from outside, with the cases that it is given."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save

from components.api import load, sample
from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora import open_corpus
from components.data.corpora.config import CsvConfig, JsonlConfig, ParquetConfig, TextConfig
from components.data.documents import BadDocument, Document
from components.data.packing import SPLITS, pack_piece
from components.data.prompts import Found, PromptsConfig, read_entries
from components.data.tokenizer import build_tokenizer
from components.errors import ProsecoError
from components.options import parse, plain_of
from components.shards.account import Account
from components.store.artifact import MANIFEST, read_manifest, require_unchanged, sealed
from components.store.history import read_history
from components.store.receipts import text_of
from components.store.samples import finished_shard, shard_receipt
from components.training import checkpoint
from components.training.ranges import key_of, write_ranges
from pipelines.commands import named_sampler
from pipelines.config.load import dotted, load_run, over
from pipelines.config.schema import RunConfig
from pipelines.graph.plan import plan
from pipelines.import_weights import import_model
from pipelines.job import describe
from pipelines.lineage import lineage
from pipelines.new.look import look
from pipelines.new.propose import propose
from pipelines.new.write import text_of as text_of_run
from pipelines.stages import prompts, tokenize
from pipelines.stages.spec import PromptsSpec
from pipelines.workflows import build
from pipelines.workflows.one_stage import given_samples
from tests.chaos.harness import RUN
from tests.components.test_export import exported
from tests.components.test_foreign import llama
from tests.fuzz import fitting
from tests.fuzz.cases import as_json, changed, damaged, json_bytes, junk, safetensors
from tests.hostile import manifest


@dataclass(frozen=True)
class Target:
    """A reader: the cases, and what is done with one in a folder of its own."""

    cases: st.SearchStrategy[Any]
    use: Callable[[Path, Any], object]
    long: int = 2000
    """Cases of the long form."""
    results: float = 0.0
    """At least this share of them ends in a result; otherwise refusals are all that is pressed on."""


def in_folder(target: Target, case: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target.use(Path(folder), case)


def put(folder: Path, name: str, raw: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(raw)
    return folder / name


# Runs and overrides.

PLAIN = yaml.safe_load(RUN)
FRAGMENTS = st.sampled_from(
    ["a: ", "- ", "{", "}", "[", "]", "&a ", "*a", "<<: *a", "!!set ", "!!binary ", "!!python/name:os.system ", "? ", "| ", "> ", "\n",
     "\n  ", "\t", ": ", ", ", "'", '"', "\\", "#", "%", "---\n", "...\n", "${name}", "${", "}", "name", "corpora", "train", "workflow: ",
     "extends: ", "run.yaml", "compare", "nightly", "0x" + "f" * 2000, "1e9", ".nan", "~", "\u0000", "\ufeff", "2020-01-01", "1:2:3"]
)  # fmt: skip


def run_files() -> st.SearchStrategy[bytes]:
    texts = st.lists(FRAGMENTS, max_size=25).map(lambda parts: "".join(parts).encode())
    fits = fitting.some(fitting.RUN, 4).map(lambda pairs: as_json(over(PLAIN, fitting.nested(pairs))))
    wrong = st.one_of(changed(PLAIN).map(as_json), changed(PLAIN).map(as_json), texts, damaged(RUN.encode()), st.binary(max_size=60))
    return fitting.mostly(fits, wrong)


def plan_run(folder: Path, raw: bytes, overrides: tuple[str, ...] = ()) -> None:
    """A run that is taken is planned, and what it comes to as plain values is the same run."""
    found = load_run(put(folder, "run.yaml", raw), list(overrides))
    stages = build(found)
    assert {f.state for f in plan(list(stages.values()), folder / "root")} <= {"missing"}
    if isinstance(found, RunConfig):
        assert [s.key for s in build(parse(RunConfig, plain_of(found))).values()] == [s.key for s in stages.values()]


PATHS = [
    "train.base.steps", "train.base.optimizer.lr", "train", "samplers.mdlm.steps", "samplers", "corpora.latin.source.size", "corpora",
    "rows.length", "model.dim", "generate.seeds", "runtime.root", "scorers", "name", "workflow", "steps", "draw.temperature", "corrector",
    "corrector.passes", "schedule", "search.k", "guidance", "unmask", "extends", "metric",
]  # fmt: skip


def overrides() -> st.SearchStrategy[list[str]]:
    names = st.sampled_from(PATHS) | st.lists(st.text("abc.[]0 ", max_size=4), max_size=4).map(".".join)
    values = st.one_of(
        junk().map(lambda v: json.dumps(v)), st.lists(FRAGMENTS, max_size=6).map("".join), st.text(max_size=10), st.sampled_from(["1", "a", ""])
    )
    pairs = st.tuples(names, st.sampled_from(["=", "=", "=", "", "=="]), values).map("".join)
    return fitting.mostly(fitting_overrides(), st.lists(pairs, min_size=1, max_size=3))


def fitting_overrides() -> st.SearchStrategy[list[str]]:
    return (fitting.some(fitting.RUN, 4) | fitting.some(fitting.SAMPLER, 3)).map(fitting.as_overrides)


@cache
def model() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        for name, raw in export_files().items():
            put(Path(folder), name, raw)
        return load(folder)


def use_overrides(folder: Path, given: list[str]) -> None:
    """Of a sampler where all are of one, else of a run. A sampler of few steps draws a row."""
    if not all(override.split("=")[0] in fitting.SAMPLER for override in given):
        plan_run(folder, RUN.encode(), tuple(given))
        return
    config = named_sampler("proseco", dotted(given))
    if config.ticks(9) <= 40:
        (row,) = sample(model(), config, prompts=["1"], length=9, allow_untrained=True)
        assert model().tokenizer.mask_id not in row.sample.tokens


# Documents and prompts.

RECORD = {"text": "123", "prompt": "12", "label": 1, "id": "a", "template": ["1", 2, "3"]}


def records() -> st.SearchStrategy[bytes]:
    lines = st.one_of(
        changed(RECORD).map(as_json), changed(RECORD).map(as_json), damaged(as_json(RECORD)), st.binary(max_size=40),
        st.sampled_from([b"[" * 5000, b'{"text": ' + b"9" * 5000 + b"}", b'{"text": "[MASK][PAD][EOS]"}', b"\r\n", b"\xff", b""]),
    )  # fmt: skip
    return st.lists(lines, min_size=1, max_size=6).map(b"\n".join)


@cache
def tokenizer() -> Any:
    return build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=270), ["123"])


def pack(documents: list[Document | BadDocument]) -> None:
    """In = out + quarantined, and no special id inside a document."""
    words = tokenizer()
    packed = pack_piece(documents, words, RowsConfig(length=16), CorpusConfig())
    placed = sum(packed.counts[f"{s}_documents"] for s in SPLITS)
    assert placed + packed.counts["quarantined"] == packed.counts["documents"] == len(documents)
    assert all(bad.reason for bad in packed.bad)
    for split in SPLITS:
        assert not {words.mask_id, words.end_id, words.unknown_id} & set(packed.rows[split].tokens.flatten().tolist())


def use_documents(folder: Path, raw: bytes) -> None:
    place = str(put(folder, "a.jsonl", raw))
    sources = [JsonlConfig(path=place, prompt_field="prompt", label_field="label"), JsonlConfig(path=place)]
    sources += [TextConfig(path=place, document=kind) for kind in ("file", "line", "paragraph")]  # type: ignore[list-item]
    for source in sources:
        corpus = open_corpus(source)
        pack([d for piece in corpus.pieces(1) for d in corpus.read(piece)])


def use_prompts(folder: Path, raw: bytes) -> None:
    asked = PromptsConfig(path=str(put(folder, "a.jsonl", raw)))
    for wanted in ("prompts", "texts"):
        spec = PromptsSpec(asked, wanted, 16, 3)  # type: ignore[arg-type]
        entries = [e for piece in asked.cut() for e in read_entries(asked, piece, wanted)]  # type: ignore[arg-type]
        found = [e for e in entries if isinstance(e, Found)]
        table, bad = prompts.TABLES[wanted](found, tokenizer(), spec)
        assert table.num_rows + len(bad) == len(found)
        assert sum(bool(line.strip()) for line in raw.replace(b"\r\n", b"\n").split(b"\n")) == len(entries)


@cache
def archives() -> dict[str, bytes]:
    """Files of records, by their names."""
    lines = b"".join(as_json({**RECORD, "text": "123" * (1 + i % 5)}) + b"\n" for i in range(60))
    table = pa.table({"text": ["1", None, "3"] * 9, "prompt": ["a"] * 27, "label": list(range(27))})
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, f"{folder}/a.parquet", row_group_size=10)
        return {"a.jsonl.gz": gzip.compress(lines, mtime=0), "a.parquet": Path(folder, "a.parquet").read_bytes()}


def use_archive(folder: Path, case: tuple[str, bytes]) -> None:
    name, raw = case
    place = str(put(folder, name, raw))
    corpus = open_corpus((ParquetConfig if name.endswith("parquet") else JsonlConfig)(path=place, label_field="label"))
    pack([d for piece in corpus.pieces(1) for d in corpus.read(piece)])
    asked = PromptsConfig(path=place)
    for piece in asked.cut():
        list(read_entries(asked, piece, "prompts"))


CELLS = st.sampled_from(["text", "prompt", "label", "id", "1", "0.5", "nan", "1e999", "CCO", " ", "", '"', '""', '"a,b"', '"a\nb"', "\ufeff", "\x00", "\u2028a: b", "${name}", "\\${", "*a", "[MASK]", "a" * 300])


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes]:
    """Tables most of whose rows have as many fields as the first, and some of which are damaged."""
    name = draw(st.sampled_from(["a.csv", "a.csv", "a.tsv", "a.csv.gz"]))
    comma, end = "\t" if name.endswith("tsv") else ",", draw(st.sampled_from(["\n", "\r\n"]))
    head = draw(st.lists(st.sampled_from(["text", "prompt", "label", "id"]), min_size=1, max_size=4, unique=True) | st.lists(CELLS, max_size=4))
    widths = st.just(max(1, len(head))) | st.integers(0, 6)
    body = [draw(widths.flatmap(lambda n: st.lists(CELLS, min_size=n, max_size=n))) for _ in range(draw(st.integers(0, 6)))]
    raw = end.join(comma.join(row) for row in [head, *body]).encode()
    raw = draw(st.just(raw) | st.just(raw) | damaged(raw))
    return name, gzip.compress(raw, mtime=0) if name.endswith("gz") else raw


def use_table(folder: Path, case: tuple[str, bytes]) -> None:
    name, raw = case
    place = str(put(folder, name, raw))
    for source in (CsvConfig(path=place), CsvConfig(path=place, prompt_field="prompt", label_field="label"), CsvConfig(path=place, value_field="label")):
        with suppress(ProsecoError):
            corpus = open_corpus(source)
            pack([d for piece in corpus.pieces(1) for d in corpus.read(piece)])
    asked = PromptsConfig(path=place)
    for piece in asked.cut():
        list(read_entries(asked, piece, "prompts"))


def somebodys_data() -> st.SearchStrategy[tuple[str, bytes]]:
    plain = st.lists(st.text(max_size=30), max_size=20).map("\n".join).map(str.encode)
    lines = records().map(lambda raw: ("a.jsonl", raw))
    good = st.lists(st.dictionaries(st.sampled_from(["question", "answer", "qed"]), st.text(max_size=9) | st.floats(0, 1), max_size=3), max_size=40)
    return st.one_of(tables(), lines, plain.map(lambda raw: ("a.txt", raw)), good.map(lambda made: ("a.jsonl", b"\n".join(map(as_json, made)))))


def use_new(folder: Path, case: tuple[str, bytes]) -> None:
    """What is proposed for somebody's data is a run that is planned without a problem."""
    looked = look(str(put(folder, *case)), {})
    try:
        stages = build(load_run(put(folder, "run.yaml", text_of_run(propose(looked, "mine", 1.0, "nano"), "Made here.").encode()), []))
        assert {f.state for f in plan(list(stages.values()), folder / "root")} <= {"missing"}
    except ProsecoError as error:
        raise AssertionError(f"what was proposed is refused: {error}") from error


# What stages leave.


@cache
def manifest_of() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        made = manifest(Path(folder) / "m", files=[{"path": "shards/a.parquet", "size_bytes": 1, "sha256": "0" * 64}])
        return json.loads((made / MANIFEST).read_text())


def manifests() -> st.SearchStrategy[bytes]:
    """Also such that were sealed again by whoever knows how."""
    resealed = changed(manifest_of()).map(lambda m: as_json(m | {"seal": sealed(m)}) if isinstance(m, dict) else as_json(m))
    return st.one_of(resealed, resealed, json_bytes(manifest_of()))


def use_manifest(folder: Path, raw: bytes) -> None:
    stage = put(folder / "generate" / ("0" * 16), MANIFEST, raw).parent
    for use in (read_manifest, require_unchanged, given_samples, describe, lineage):
        with suppress(ProsecoError):
            use(stage)


RECEIPT = {
    "rows": 1, "bytes": 3, "sha256": "0" * 64, "account": Account(rows=1).plain(), "files": {"shards/a.parquet": "0" * 64},
    "parts": [["a", 1]], "quarantined": 0, "examples": [], "counts": {"documents": 1}, "number": 0,
}  # fmt: skip
NIGHT = {"date": "2026-11-26", "decision": "first", "candidate": "a" * 16, "missed": 0}


def use_receipt(folder: Path, case: tuple[bytes, bytes]) -> None:
    receipt, night = case
    put(folder / "shards", "a.parquet", b"abc")
    for written in (receipt, with_seal(receipt)):
        put(folder, "a.json", written)
        put(folder / "receipts", "a.json", written)
        use_written_receipt(folder, night)


def with_seal(raw: bytes) -> bytes:
    """A receipt as somebody would forge it who knows how receipts are sealed."""
    with suppress(ValueError, RecursionError):
        if isinstance(plain := json.loads(raw), dict):
            return text_of(plain).encode()
    return raw


def use_written_receipt(folder: Path, night: bytes) -> None:
    for use in (
        lambda: shard_receipt(folder / "shards", "a"),
        lambda: Account.read((shard_receipt(folder / "shards", "a") or RECEIPT)["account"]),
        lambda: tokenize.finished_piece(folder / "a.json", folder),
        lambda: prompts.finished_piece(folder / "a.json", folder),
        lambda: finished_shard(folder / "shards", "a"),
        lambda: read_history(put(folder / "nightly" / "n", "00000001.json", night).parents[2], "n").champion,
    ):
        with suppress(ProsecoError):
            use()


def ranged(shapes: dict[str, list[int]]) -> bytes:
    """The file of a rank that has all of some parameters."""
    tensors = {key_of(kind, name, 0): torch.ones(math.prod(shape)) for kind in checkpoint.KINDS for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_ranges(Path(folder) / "rank", tensors)
        return (Path(folder) / "rank").read_bytes()


RANK = ranged({"a.weight": [2, 3]})
STATE = {"step": 3, "files": {"rank-0-of-1.safetensors": ""}, "shapes": {"a.weight": [2, 3]}}


@st.composite
def other_parameters(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A checkpoint of other names and shapes."""
    shapes = draw(st.dictionaries(st.text("ab./@", min_size=1, max_size=4), st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=3))
    return STATE | {"shapes": shapes}, ranged(shapes)


@st.composite
def whole_tensors(draw: st.DrawFn) -> bytes:
    """Tensors of other names, shapes and types, as other programs write them."""
    names = st.tuples(st.sampled_from([*checkpoint.KINDS, "other"]), st.text("ab./@0", max_size=6)).map("/".join)
    shapes = st.lists(st.integers(0, 4), max_size=3)
    types = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64])
    return save({name: torch.zeros(draw(shapes), dtype=draw(types)) for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))})


def checkpoints() -> st.SearchStrategy[tuple[Any, bytes]]:
    more = st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text(max_size=4), max_size=2)
    fits = st.tuples(more.map(lambda more: more | STATE), st.just(RANK)) | other_parameters()
    wrong = st.tuples(st.just(STATE) | changed(STATE) | st.binary(max_size=40), safetensors(RANK) | whole_tensors())
    return fitting.mostly(fits, wrong)


def use_checkpoint(folder: Path, case: tuple[Any, bytes]) -> None:
    state, rank = case
    folder = folder / "step-00000003"
    file = put(folder, "rank-0-of-1.safetensors", rank)
    if isinstance(state, dict) and isinstance(state.get("files"), dict) and file.name in state["files"]:
        header = rank[8 : 8 + int.from_bytes(rank[:8], "little")]
        state = state | {"files": state["files"] | {file.name: hashlib.sha256(header).hexdigest()}}  # as somebody writes it who means it
    put(folder, "state.json", as_json(state) if isinstance(state, dict) else state)
    list(checkpoint.read(folder, ("weight", "ema")))
    checkpoint.averaged_weights(folder)


# Models.


@cache
def export_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        exported(Path(folder) / "m")
        return {p.name: p.read_bytes() for p in (Path(folder) / "m").iterdir()}


@cache
def foreign_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        llama(Path(folder))
        found = {name: (Path(folder) / name).read_bytes() for name in ("config.json", "model.safetensors")}
    return found | {"tokenizer.json": export_files()["tokenizer.json"]}


def folders_of(files: dict[str, bytes]) -> st.SearchStrategy[dict[str, bytes]]:
    """A model of which one file was changed."""

    def one(name: str) -> st.SearchStrategy[dict[str, bytes]]:
        kind = safetensors(files[name]) if name.endswith("safetensors") else json_bytes(json.loads(files[name]))
        return kind.map(lambda raw: files | {name: raw})

    return st.sampled_from(["config.json", "config.json", "tokenizer.json", "model.safetensors"]).flatmap(one)


def use_export(folder: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        put(folder, name, raw)
    model = load(folder)
    sample(model, "mdlm", steps=2, prompts=["1"], length=min(9, int(model.info["length"])))


def use_foreign(folder: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        put(folder / "source", name, raw)
    said = list(import_model(folder / "source", folder / "out", None, 9))
    assert said
    assert load(folder / "out").network is not None


THIRD = 1 / 3
TARGETS: dict[str, Target] = {
    "runs": Target(run_files(), plan_run, 1500, THIRD),
    "overrides": Target(overrides(), use_overrides, 1800, THIRD),
    "documents": Target(records(), use_documents, 2400),
    "prompts": Target(records(), use_prompts, 2800),
    "archives": Target(
        st.sampled_from(sorted(archives())).flatmap(lambda n: st.tuples(st.just(n), damaged(archives()[n]))), use_archive, 2800
    ),
    "tables": Target(tables(), use_table, 2000),
    "new": Target(somebodys_data(), use_new, 1200),
    "manifests": Target(manifests(), use_manifest, 2800),
    "receipts": Target(st.tuples(json_bytes(RECEIPT), json_bytes(NIGHT)), use_receipt, 2800),
    "checkpoints": Target(checkpoints(), use_checkpoint, 1800, THIRD),
    "exports": Target(folders_of(export_files()), use_export, 1200),
    "foreign weights": Target(folders_of(foreign_files()), use_foreign, 1200),
}

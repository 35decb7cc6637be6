"""Pickles in the place of whatever is read, and code that comes with a model: refused in words, and never run."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.service.bodies import Message
from cluster.service.errors import ApiError
from cluster.service.keys import read_keys
from cluster.service.model import open_model
from components.api import load, sample
from components.data.corpora import open_corpus
from components.data.corpora.config import JsonlConfig, ParquetConfig
from components.data.documents import BadDocument, Document
from components.data.prompts import PromptsConfig
from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.evaluation import trajectory
from components.evaluation.batch_page import Correction, Example, drawn
from components.evaluation.chart import Point, Series, line_chart
from components.evaluation.page import Section, folded, page, table
from components.models.weights import load_model, load_weights
from components.scorers.ngram import Ngrams
from components.shards.prompt import PROMPTS, FilePrompts
from components.store.artifact import read_manifest, require_unchanged
from components.store.history import read_history
from components.store.samples import find_row, made_by, read_shard
from components.training import checkpoint
from pipelines.config.load import load_run
from pipelines.import_weights import import_model
from pipelines.job import describe
from tests.components.test_export import exported
from tests.components.test_foreign import llama
from tests.doubles import token_rows
from tests.hostile import Payload, refused


@pytest.fixture
def payload(tmp_path) -> Payload:
    """That it runs where it is unpickled is seen first."""
    made = Payload(tmp_path / "marker")
    pickle.loads(made.pickled)
    assert made.ran()
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "model"
    exported(folder)
    return folder


def rank_file(folder: Path, raw: bytes) -> Path:
    """A checkpoint that holds the bytes under their own digest."""
    (folder / "rank-0-of-1.safetensors").write_bytes(raw)
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    files = {"rank-0-of-1.safetensors": hashlib.sha256(header).hexdigest()}
    (folder / "state.json").write_text(json.dumps({"step": 1, "files": files, "shapes": {"a": [2, 3]}}))
    return folder


def prompts_with(folder: Path, raw: bytes) -> FilePrompts:
    (folder / "shards").mkdir()
    row = {"prompt_id": "a", "tokens": [1], "label": None, "digest": 1}
    pq.write_table(pa.Table.from_pylist([row], PROMPTS), folder / "shards" / "prompts-0.parquet")
    (folder / "occurrences.npy").write_bytes(raw)
    return FilePrompts(folder, (("prompts-0", 1),), 1, True)


def put(folder: Path, name: str, raw: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(raw)
    return folder / name


READERS = {
    "weights": lambda f, raw: load_weights(put(f, "model.safetensors", raw)),
    "config.json": lambda f, raw: load_model(put(f, "config.json", raw).parent),
    "tokenizer.json": lambda f, raw: load_tokenizer(put(f, "tokenizer.json", raw)),
    "a manifest": lambda f, raw: read_manifest(put(f, "manifest.json", raw).parent),
    "the folder of a stage": lambda f, raw: describe(put(f, "identity.json", raw).parent),
    "state.json": lambda f, raw: list(checkpoint.read(put(f, "state.json", raw).parent, ("weight",))),
    "a rank of a checkpoint": lambda f, raw: list(checkpoint.read(rank_file(f, raw), ("weight",))),
    "rows.json": lambda f, raw: TokenRows(put(f, "rows.json", raw).parent, "train"),
    "rows": lambda f, raw: TokenRows(put(token_rows(f), "train-0.arrow", raw).parent, "train"),
    "a shard": lambda f, raw: read_shard(put(f, "a.parquet", raw)),
    "a row": lambda f, raw: find_row(put(f, "a.parquet", raw), "0-0"),
    "how a shard was made": lambda f, raw: made_by(put(f, "a.parquet", raw)),
    "occurrences of prompts": lambda f, raw: prompts_with(f, raw).take(0, 1),
    "an n-gram model": lambda f, raw: Ngrams(put(f, "ngram.npz", raw)),
    "a saved dataset": lambda f, raw: [
        list(c.read(p)) for c in [PromptsConfig(path=str(put(f, "state.json", raw).parent))] for p in c.cut()
    ],
    "a night": lambda f, raw: read_history(put(f / "nightly" / "n", "00000001.json", raw).parents[2], "n"),
    "keys": lambda f, raw: read_keys(put(f, "keys.yaml", raw)),
    "a run": lambda f, raw: load_run(put(f, "run.yaml", raw), []),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_is_refused(reader, tmp_path, payload):
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(lambda: READERS[reader](folder, payload.pickled))
    assert not payload.ran()


@pytest.mark.parametrize("reader", ["occurrences of prompts", "an n-gram model"])
def test_arrays_of_objects_are_refused(reader, tmp_path, payload):
    """NumPy's own files hold pickles where their type is object."""
    array = np.array([payload], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", vocab_size=array, discount=array, gram_1=array, count_1=array)
    file = tmp_path / ("a.npy" if reader.startswith("occ") else "a.npz")
    found = np.load(file, allow_pickle=True)
    _ = found if isinstance(found, np.ndarray) else found["vocab_size"]
    assert payload.ran()
    (tmp_path / "folder").mkdir()
    refused(lambda: READERS[reader](tmp_path / "folder", file.read_bytes()))
    assert not payload.ran()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "optimizer.bin", "data.pkl"])
def test_torchs_own_files_are_not_imported(name, tmp_path, payload, model):
    source = tmp_path / "source"
    source.mkdir()
    torch.save({"weight": payload}, source / name)
    torch.load(source / name, weights_only=False)
    assert payload.ran()
    shutil.copy(model / "tokenizer.json", source)
    (source / "config.json").write_text("{}")
    said = refused(lambda: list(import_model(source, tmp_path / "out", None, 9)))
    assert "Pickled checkpoints are not read" in said
    (source / name).rename(source / "model.safetensors")
    assert "not a readable safetensors file" in refused(lambda: list(import_model(source, tmp_path / "out", None, 9)))
    assert not payload.ran()
    assert not (tmp_path / "out").exists()


def test_weights_beside_a_pickle_are_imported_without_it(tmp_path, payload, model):
    source = tmp_path / "source"
    llama(source)
    torch.save({"weight": payload}, source / "pytorch_model.bin")
    shutil.copy(model / "tokenizer.json", source)
    list(import_model(source, tmp_path / "out", None, 9))
    assert not payload.ran()
    assert not list((tmp_path / "out").glob("*.bin"))


CODE = "import pathlib\npathlib.Path({marker!r}).touch()\nfrom transformers import PretrainedConfig\n\n\nclass Evil(PretrainedConfig):\n    model_type = 'proseco'\n"


def test_the_code_of_a_model_is_never_run(tmp_path, payload, model):
    """Exports carry code for `transformers`, which runs it when it is told to; nothing here does."""
    from transformers import AutoConfig

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for source in folder.glob("*.py"):
        source.write_text(CODE.format(marker=str(payload.marker)))
    for name in ("config.json", "tokenizer_config.json"):
        plain = json.loads((folder / name).read_text())
        known = dict.fromkeys(["AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoTokenizer"], "configuration_proseco.Evil")
        (folder / name).write_text(json.dumps(plain | {"auto_map": known, "trust_remote_code": True}))
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert payload.ran()
    assert require_unchanged(folder) is None, "it came without a manifest, so nobody says what is in it"
    assert len(sample(load(folder), num_samples=1, steps=2)) == 1
    assert open_model("m", folder, None, 0).special["trust_remote_code"] is True
    assert not payload.ran()


def test_the_code_of_other_weights_is_neither_run_nor_passed_on(tmp_path, payload, model):
    source = tmp_path / "source"
    llama(source)
    shutil.copy(model / "tokenizer.json", source)
    (source / "modeling_evil.py").write_text(CODE.format(marker=str(payload.marker)))
    plain = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(plain | {"auto_map": {"AutoConfig": "modeling_evil.Evil"}}))
    list(import_model(source, tmp_path / "out", None, 9))
    assert not payload.ran()
    assert {p.name for p in (tmp_path / "out").glob("*.py")} == {"configuration_proseco.py", "modeling_proseco.py"}
    assert "evil" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
        "{% for x in messages %}{{ x.__class__.__base__.__subclasses__() }}{% endfor %}",
        "{{ raise_exception.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ range(1000000000) | list }}",
    ],
)
def test_a_chat_template_reaches_nothing(template, tmp_path, payload, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    text = template.replace("MARKER", str(payload.marker))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    served = open_model("m", folder, None, 0)
    try:
        said = served.chat((Message("user", "1"),))
    except ApiError as error:
        said = str(error.body)
    assert "object at 0x" not in said
    assert "<class" not in said
    assert "root:" not in said
    assert not payload.ran()


def test_documents_are_what_their_bytes_say(tmp_path, payload):
    for config, name in ((JsonlConfig, "c.jsonl"), (ParquetConfig, "c.parquet")):
        (tmp_path / name).write_bytes(payload.pickled)
        corpus = open_corpus(config(path=str(tmp_path / name)))
        found = [d for p in corpus.pieces(1) for d in corpus.read(p)]
        assert found
        assert all(isinstance(d, BadDocument) for d in found)
    assert not payload.ran()


class Asked(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def elsewhere():
    """A server that must not be asked."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Asked)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize("kind", ["Image", "Audio", "Video", "Pdf"])
def test_a_row_that_names_a_picture_has_nobody_fetch_it(kind, tmp_path, elsewhere):
    """`datasets` opens what such a field names, a path here or a URL, for whoever reads the row."""
    from datasets import Dataset

    url = f"http://127.0.0.1:{elsewhere.server_port}/x.png"
    rows = {"text": ["hello"], "image": [{"bytes": None, "path": url}]}
    features = {"text": {"dtype": "string", "_type": "Value"}, "image": {"_type": kind}}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    said = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(rows, pa.schema([("text", pa.string()), ("image", struct)], said))
    with pytest.raises((FileNotFoundError, ImportError)):
        _ = Dataset(table)[0]
    assert bool(elsewhere.asked) == (kind == "Image"), "for the others a library is missing here"
    elsewhere.asked.clear()
    pq.write_table(table, tmp_path / "a.parquet")
    corpus = open_corpus(ParquetConfig(path=str(tmp_path / "a.parquet")))
    assert [d for p in corpus.pieces(1) for d in corpus.read(p)] == [Document("a.parquet:0", "hello")]
    Dataset.from_dict({"text": ["hello"]}).save_to_disk(tmp_path / "saved")
    info = json.loads((tmp_path / "saved" / "dataset_info.json").read_text())
    (tmp_path / "saved" / "dataset_info.json").write_text(json.dumps(info | {"features": features}))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    saved = PromptsConfig(path=str(tmp_path / "saved"), pieces=1)
    assert [record["text"] for p in saved.cut() for _, record in saved.read(p)] == ["hello"]
    assert elsewhere.asked == []


def test_pages_show_what_rows_hold_and_run_none_of_it():
    evil = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    frames = trajectory.frames((1, 2, 3, 4), [{"call": 1, "position": 0, "old": 0, "new": 1, "reason": "reveal"}])
    example = Example(evil, (evil,), (evil,), (Correction(1, 0, evil, evil, None),))
    parts = [
        trajectory.draw(frames, lambda token: evil, 0),
        trajectory.draw(frames, lambda token: "<", 0),
        drawn(example),
        folded(evil, {evil: [evil]}),
        table((evil,), [(evil,)]),
        line_chart([Series(evil, (Point(1.0, 0.5), Point(2.0, 0.7)))], evil, evil),
        page(evil, evil, [Section(evil, "")]),
    ]
    for part in parts:
        assert "<script" not in part
        assert "<img" not in part
        assert "<<" not in part

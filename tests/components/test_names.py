"""Names that are read from files are names and not paths, wherever one is read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from components.data.rows import TokenRows
from components.errors import CorruptArtifact
from components.scorers.config import EntropyConfig
from components.store.artifact import read_manifest, sealed, write_manifest
from components.store.names import file_name, relative_path
from components.store.receipts import publish_receipt
from components.store.samples import finished_shard, publish_shard, read_shards
from components.training import checkpoint
from pipelines.commands import score
from pipelines.stages import evaluate, report, tokenize
from pipelines.stages import score as score_stage
from tests.components.test_export import exported
from tests.doubles import token_rows

BAD = [
    "../../victim",
    "/etc/passwd",
    "..",
    ".",
    "",
    ".hidden",
    "a/b",
    "a\\b",
    "a\0b",
    "a\n",
    "é",
    "x" * 129,
    7,
    None,
    ["a"],
]


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_name_is_refused_with_a_remedy(value):
    with pytest.raises(CorruptArtifact, match=r"manifest.json names a file .* get it again"):
        file_name(value, "manifest.json")


@pytest.mark.parametrize("value", ["seed-0-00000", "rank-0-of-2.safetensors", "a", "x" * 128, "a..b", "_x-1.json"])
def test_what_proseco_writes_is_a_name(value):
    assert file_name(value, "manifest.json") == value


@pytest.mark.parametrize("value", ["../x", "a/../../x", "/a", "a//b", "a/", "a/.b", ""])
def test_a_path_in_a_folder_stays_in_it(value):
    assert relative_path("checkpoints/step-00000002/state.json", "m") == "checkpoints/step-00000002/state.json"
    with pytest.raises(CorruptArtifact):
        relative_path(value, "m")


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder two levels down, and a file beside its grandparent that must stay as it is."""
    (tmp_path / "outer").mkdir()
    made = tmp_path / "victim.json"
    made.write_text('{"kept": true}')
    return made


@pytest.mark.parametrize("name", ["../../victim", "absolute"])
def test_scoring_a_folder_of_somebody_else_touches_nothing_outside(victim, tmp_path, name):
    name = str(victim.with_suffix("")) if name == "absolute" else name
    folder = tmp_path / "outer"
    write_manifest(folder, "generate", "generate", 1, {"model": "x"}, 1.0, {"shards": [name]}, [])
    exported(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptArtifact, match="manifest.json names a file"):
        score(folder, tmp_path / "model", "entropy", ("runtime.executor=local",), str(tmp_path / "root"))
    assert victim.read_text() == '{"kept": true}'
    assert sorted(tmp_path.rglob("*")) == before


def test_the_model_of_somebody_elses_samples_is_a_name(victim, tmp_path):
    folder = tmp_path / "outer"
    write_manifest(folder, "generate", "generate", 1, {"model": "../../victim"}, 1.0, {"shards": ["a"]}, [])
    with pytest.raises(CorruptArtifact, match="manifest.json names a file"):
        score(folder, None, "entropy", ("runtime.executor=local",), str(tmp_path / "root"))


@pytest.mark.parametrize("use", [
    lambda folder, name: finished_shard(folder, name),
    lambda folder, name: publish_shard(folder, name, pa.table({"x": [1]}), "score"),
    lambda folder, name: read_shards(folder, [name]),
])  # fmt: skip
def test_shards_are_looked_for_and_published_in_their_folder_only(victim, tmp_path, use):
    with pytest.raises(CorruptArtifact):
        use(tmp_path / "outer" / "shards", "../../victim")
    assert victim.read_text() == '{"kept": true}'


def context(folder: Path, **infos: object) -> SimpleNamespace:
    return SimpleNamespace(
        folder=folder, inputs=dict.fromkeys([*infos, "tokenizer", "model"], folder), infos=infos,
        progress=SimpleNamespace(total=lambda *_: None, to=lambda *_: None, note=lambda *_: None), fence=SimpleNamespace(check=lambda: None),
    )  # fmt: skip


def test_stages_take_the_shards_of_their_inputs_by_name(victim, tmp_path):
    folder = tmp_path / "outer" / "model"
    exported(folder)
    bad = {"shards": ["../../victim"]}
    with pytest.raises(CorruptArtifact):
        score_stage.run(SimpleNamespace(scorers={}, source=None), context(folder, samples=bad))
    given = context(folder, samples_000=bad, scores_000=bad)
    with pytest.raises(CorruptArtifact):
        evaluate.run(SimpleNamespace(compared={"000": None}, scorer=EntropyConfig()), given)
    with pytest.raises(CorruptArtifact):
        report.trajectories([{"sampler": "mdlm", "calls": 1.0, "quality": 0.5}], SimpleNamespace(source=None), given)
    assert victim.read_text() == '{"kept": true}'


def test_a_manifest_lists_files_of_its_folder_only(tmp_path):
    folder = tmp_path / "stage" / "key"
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "a.parquet").write_text("x")
    write_manifest(folder, "stage", "label", 1, {}, 1.0, {}, [folder / "shards" / "a.parquet"])
    raw = json.loads((folder / "manifest.json").read_text())
    assert read_manifest(folder).files[0].path == "shards/a.parquet"
    raw["files"][0]["path"] = "../../../etc/passwd"
    raw["seal"] = sealed(raw)  # whoever wrote it knew how
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(CorruptArtifact, match="names a file"):
        read_manifest(folder)


def test_row_files_are_names(tmp_path):
    folder = token_rows(tmp_path / "rows")
    raw = json.loads((folder / "rows.json").read_text())
    raw["shards"]["train"] = [str((folder / n).absolute()) for n in raw["shards"]["train"]]
    (folder / "rows.json").write_text(json.dumps(raw))
    with pytest.raises(CorruptArtifact, match="rows.json names a file"):
        TokenRows(folder, "train")


def test_the_files_of_a_checkpoint_are_names(tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"step": 1, "files": {"../other/rank-0.safetensors": "0"}, "shapes": {}}))
    with pytest.raises(CorruptArtifact, match="state.json names a file"):
        list(checkpoint.read(folder, ("weight",)))


def test_the_files_of_a_piece_are_names(tmp_path):
    publish_receipt(tmp_path / "piece-00000.json", {"files": {"/etc/passwd": "0"}, "rows": {}, "counts": {}, "examples": []})
    with pytest.raises(CorruptArtifact, match="piece-00000.json names a file"):
        tokenize.finished_piece(tmp_path / "piece-00000.json", tmp_path)

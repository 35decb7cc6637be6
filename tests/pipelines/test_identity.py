"""What a run reads is known by its bytes: a changed byte makes stale what depends on it, a moved folder nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cluster.local import LocalCluster
from components.data.corpora.files import JsonLines
from components.store import content
from components.store.artifact import FORMAT, IDENTITY, write_manifest
from pipelines.cli import main
from pipelines.config.load import load_run
from pipelines.graph.plan import plan
from pipelines.graph.stage import in_order
from pipelines.workflows import build, one_stage
from tests.chaos.harness import LOCAL

RUN = """
corpora:
  first: {source: {name: jsonl, path: DATA/first}}
  second: {source: {name: text, path: DATA/second/*/*.txt, document: line}, max_bad_share: 0.9}
tokenizer: {kind: characters}
rows: {length: 9, pieces: 2}
model: {preset: nano, dim: 16, depth: 1, heads: 2, num_positions: 9}
train:
  base: {objective: {name: mdlm}, steps: 2, batch_rows: 4, checkpoint_every: 2, validation_rows: 2}
  tuned: {objective: {name: mdlm}, init_folder: DATA/model, steps: 2, batch_rows: 4, checkpoint_every: 2}
samplers:
  mdlm: {model: base, sampler: {preset: mdlm}, steps: [4]}
scorers: {entropy: {}}
"""


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    (folder / "first").mkdir(parents=True)
    for n in range(3):
        (folder / "first" / f"part-{n}.jsonl").write_text("".join(f'{{"text": "12{n}{k}"}}\n' for k in range(30)))
    (folder / "second" / "x").mkdir(parents=True)
    (folder / "second" / "x" / "a.txt").write_text("3123\n" * 20 + "too long for a row\n")
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def stages_of(data: Path, *overrides: str):
    run = data.parent / "run.yaml"
    run.write_text(RUN.replace("DATA", str(data)))
    return list(build(load_run(run, list(overrides))).values())


def pretend(stages, root: Path) -> None:
    """Stages as if they had been made."""
    for stage in in_order(stages):
        folder = stage.folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"format": FORMAT, "label": stage.label, "identity": stage.identity}
        (folder / IDENTITY).write_text(json.dumps(record))
        keys = {role: below.key for role, below in stage.inputs.items()}
        write_manifest(folder, stage.name, stage.label, stage.version, keys, 1.0, {}, [])


def states(stages, root: Path) -> dict[str, str]:
    return {f.stage.label: f.state for f in plan(stages, root)}


def reasons(stages, root: Path, label: str) -> list[str]:
    (found,) = [f.reasons for f in plan(stages, root) if f.stage.label == label]
    return list(found[1:])


def flip(path: Path) -> None:
    """Change one byte, and restore the times that a user can restore."""
    before, raw = path.stat(), path.read_bytes()
    path.write_bytes(raw[:10] + bytes([raw[10] ^ 1]) + raw[11:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_one_changed_byte_of_a_corpus_makes_its_rows_stale_and_says_why(data, tmp_path, hashed):
    root = tmp_path / "root"
    pretend(stages_of(data), root)
    flip(data / "first" / "part-1.jsonl")
    after = stages_of(data)
    found = states(after, root)
    assert {found[s] for s in ("tokenizer", "tokenize/first", "train/base", "report")} == {"stale"}
    (line,) = reasons(after, root, "tokenize/first")[:1]
    assert line.startswith("config.content: part-1.jsonl was changed (")
    assert reasons(after, root, "tokenizer")[0].startswith("config.contents.first: part-1.jsonl was changed (")


def test_a_corpus_is_the_business_of_its_own_rows_only(data, tmp_path, hashed):
    root, given = tmp_path / "root", ["tokenizer.kind=file", f"tokenizer.path={data / 'tokenizer.json'}"]
    pretend(stages_of(data, *given), root)
    flip(data / "first" / "part-1.jsonl")
    found = states(stages_of(data, *given), root)
    assert (found["tokenizer"], found["tokenize/first"], found["tokenize/second"]) == ("fresh", "stale", "fresh")


def test_a_moved_or_copied_folder_changes_nothing(data, tmp_path, hashed):
    root = tmp_path / "root"
    before = stages_of(data, "tokenizer.kind=file", f"tokenizer.path={data / 'tokenizer.json'}")
    pretend(before, root)
    copied = shutil.copytree(data, tmp_path / "copied", copy_function=shutil.copyfile)  # with times of its own
    moved = data.rename(tmp_path / "moved")
    for folder in (copied, moved):
        after = stages_of(folder, "tokenizer.kind=file", f"tokenizer.path={folder / 'tokenizer.json'}")
        assert [s.key for s in after] == [s.key for s in before]
        assert set(states(after, root).values()) == {"fresh"}


def test_a_file_more_or_less_makes_rows_stale(data, tmp_path, hashed):
    root = tmp_path / "root"
    pretend(stages_of(data), root)
    more = data / "first" / "part-3.jsonl"
    more.write_text('{"text": "1"}\n')
    assert reasons(stages_of(data), root, "tokenize/first")[0] == "config.content: part-3.jsonl is new"
    more.unlink()
    assert set(states(stages_of(data), root).values()) == {"fresh"}
    (data / "first" / "part-0.jsonl").unlink()
    after = stages_of(data)
    assert reasons(after, root, "tokenize/first")[0] == "config.content: part-0.jsonl is gone"
    assert states(after, root)["tokenize/second"] == "stale", "its tokenizer learned from both"


def test_other_weights_to_start_from_make_a_training_stale(data, tmp_path, hashed):
    root = tmp_path / "root"
    pretend(stages_of(data), root)
    (data / "model" / "model.safetensors").write_bytes(b"Weights")
    after = stages_of(data)
    assert {label for label, state in states(after, root).items() if state != "fresh"} == {
        "train/tuned", "export/tuned", "report"
    }  # fmt: skip
    assert reasons(after, root, "train/tuned")[0].startswith("config.init: model.safetensors was changed (")


def test_another_tokenizer_file_makes_the_tokenizer_stale(data, tmp_path, hashed):
    root, given = tmp_path / "root", ["tokenizer.kind=file", f"tokenizer.path={data / 'tokenizer.json'}"]
    pretend(stages_of(data, *given), root)
    (data / "tokenizer.json").write_text("[]")
    (line,) = reasons(stages_of(data, *given), root, "tokenizer")
    assert line.startswith("config.file: tokenizer.json was changed (")


def test_nothing_is_hashed_twice_in_a_plan_and_nothing_at_all_in_the_next(data, tmp_path, hashed, monkeypatch):
    root = tmp_path / "root"
    plan(stages_of(data), root)
    assert sorted(hashed) == ["a.txt", "model.safetensors", "part-0.jsonl", "part-1.jsonl", "part-2.jsonl"]
    hashed.clear()
    monkeypatch.setattr(content, "_known", {})  # another process
    plan(stages_of(data), root)
    assert hashed == []


def test_ten_gigabytes_are_planned_without_reading_a_byte(data, tmp_path, hashed, monkeypatch):
    with (data / "first" / "large.jsonl").open("wb") as file:
        file.truncate(10 * 2**30)  # takes no room
    monkeypatch.setattr(content, "digest_file", lambda path: "0" * 64)
    before = stages_of(data)
    monkeypatch.setattr(content, "_known", {})
    monkeypatch.setattr(content, "digest_file", None)  # whoever hashes fails
    assert [s.key for s in stages_of(data)] == [s.key for s in before]


def test_a_given_model_is_hashed_once(tmp_path, hashed, monkeypatch):
    for name in one_stage.MODEL_FILES:
        (tmp_path / name).write_text(name)
    before = one_stage.given_model(tmp_path)
    monkeypatch.setattr(content, "_known", {})
    assert one_stage.given_model(tmp_path) == before
    assert sorted(hashed) == sorted(one_stage.MODEL_FILES)
    flip(tmp_path / "model.safetensors")
    assert one_stage.given_model(tmp_path).key != before.key


def proseco(data: Path, *overrides: str) -> tuple[int, str]:
    run = data.parent / "run.yaml"
    run.write_text(RUN.replace("DATA", str(data)))
    own = ["train.tuned.init_folder=''", "train.tuned.init_from=base", f"runtime.root={data.parent / 'root'}"]
    result = CliRunner().invoke(main, ["run", str(run), *LOCAL, *own, *overrides], catch_exceptions=False)
    return result.exit_code, result.output


def test_a_run_of_moved_files_does_nothing_and_rows_do_not_know_where_they_were(data, tmp_path):
    code, said = proseco(data)
    assert code == 0, said
    tables = [pq.read_table(p) for p in sorted((tmp_path / "root").glob("tokenize/*/quarantine-*.parquet"))]
    assert [i for t in tables for i in t["id"].to_pylist()] == ["x/a.txt:21"]
    code, said = proseco(data.rename(tmp_path / "moved"))
    assert code == 0
    assert "nothing to do" in said


def test_a_corpus_that_changes_under_a_stage_stops_it_and_leaves_no_rows(data, tmp_path, monkeypatch):
    plain, victim = JsonLines.read, data / "first" / "part-0.jsonl"
    whole = victim.read_bytes()

    def disturbed(self, piece):
        yield from plain(self, piece)
        victim.write_bytes(b'{"text": "9"}\n')

    monkeypatch.setattr(JsonLines, "read", disturbed)
    code, said = proseco(data)
    assert code == 1
    assert "part-0.jsonl was changed (" in said
    assert "Run the same command again" in said
    assert not list((tmp_path / "root").glob("tokenizer/*/manifest.json"))
    victim.write_bytes(whole)
    monkeypatch.setattr(JsonLines, "read", plain)
    mapped = LocalCluster.map

    def late(self, *arguments):
        made = mapped(self, *arguments)
        victim.write_bytes(b'{"text": "9"}\n')
        return made

    monkeypatch.setattr(LocalCluster, "map", late)
    code, said = proseco(data)
    assert code == 1
    assert "part-0.jsonl was changed (" in said
    stopped = [p for p in (tmp_path / "root" / "tokenize").iterdir() if not (p / "manifest.json").exists()]
    assert [json.loads((p / IDENTITY).read_text())["label"] for p in stopped] == ["tokenize/first"]
    assert not list(stopped[0].glob("piece-*.json")), "nothing that a resumed run would build on"
    monkeypatch.undo()
    assert proseco(data)[0] == 0

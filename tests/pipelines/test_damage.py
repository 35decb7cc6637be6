"""Files of an unfinished stage that were cut off, edited or replaced: made anew, or told with a remedy that works."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from components.store.artifact import MANIFEST
from components.tracking import read_metrics
from pipelines.cli import main
from tests.chaos import harness


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run file, root) of a run that is finished."""
    folder = tmp_path_factory.mktemp("made")
    run, root = folder / "chaos.yaml", folder / "root"
    run.write_text(harness.RUN + "metric: validity\n")
    assert proseco(run, root)[0] == 0
    return run, root


def proseco(run, root):
    options = [*harness.LOCAL, f"runtime.root={root}"]
    result = CliRunner().invoke(main, ["run", str(run), *options], catch_exceptions=False)
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def edit(data: bytes) -> bytes:
    """Another digit in place of the first one, in a text; another byte elsewhere."""
    if data.startswith(b"{"):
        return re.sub(rb"(?<=[ :\[])\d", lambda found: b"%d" % ((int(found[0]) + 1) % 10), data, count=1)
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGES = {
    "a list": lambda data: b"[]",
    "an empty object": lambda data: b"{}",
    "not UTF-8": lambda data: b"\xff\xfe\x80{" + data,
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "nested": lambda data: b"[" * 100_000,
    "edited": edit,
}


def unfinished(made, place, folder):
    """A copy of the root in which the stage of a file is not finished, and that file in it."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(made[1], root)
    path = sorted(root.glob(place))[-1]
    stage = root.joinpath(*path.relative_to(root).parts[:2])
    (stage / MANIFEST).unlink()
    return root, path


@pytest.mark.parametrize(
    "place",
    [
        "tokenizer/*/tokenizer.json", "tokenize/*/piece-*.json", "tokenize/*/rows.json", "tokenize/*/train-*.arrow",
        "tokenize/*/quarantine-*.parquet", "generate/*/shards/*.json", "generate/*/shards/*.parquet",
        "score/*/shards/*.json", "score/*/shards/*.parquet", "export/*/config.json", "export/*/model.safetensors",
        "evaluate/*/results.json",
    ],
)  # fmt: skip
def test_what_is_damaged_in_an_unfinished_stage_is_made_anew(place, made, tmp_path):
    for name, damage in DAMAGES.items():
        root, path = unfinished(made, place, tmp_path)
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        assert path.read_bytes() != whole
        code, said = proseco(made[0], root)
        assert code == 0, f"{name}: {said}"
        assert told_by(path.read_bytes()) == told_by(whole), name


def told_by(data: bytes):
    """What a file says, without the time that a shard took."""
    if b'"busy_s"' not in data:
        return data
    receipt = json.loads(data)
    del receipt["account"]["busy_s"], receipt["seal"]
    return receipt


@pytest.mark.parametrize("place", ["train/*/metrics.jsonl", "generate/*/metrics.jsonl", "score/*/metrics.jsonl"])
def test_lines_of_a_journal_that_can_not_be_read_are_left_out(place, made, tmp_path):
    for name, damage in DAMAGES.items():
        root, path = unfinished(made, place, tmp_path)
        path.write_bytes(damage(path.read_bytes()) + b"\n")
        code, said = proseco(made[0], root)
        assert code == 0, f"{name}: {said}"
    path.write_bytes(b'\xff\n{"step": 1, "a": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1, "a": 2}]


@pytest.mark.parametrize("place", ["train/*/checkpoints/*/state.json", "train/*/checkpoints/*/rank-*.safetensors"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(place, made, tmp_path):
    for name, damage in DAMAGES.items():
        root, path = unfinished(made, place, tmp_path)
        weights = path.parent / "rank-0-of-1.safetensors"
        whole = weights.read_bytes()
        path.write_bytes(damage(path.read_bytes()))
        code, said = proseco(made[0], root)
        assert code == 1, name
        told = re.search(r"Delete the folder (\S+) to resume from the checkpoint before it", said)
        assert told is not None, f"{name}: {said}"
        assert told[1] == str(path.parent)
        shutil.rmtree(path.parent)
        assert proseco(made[0], root)[0] == 0, name
        assert weights.read_bytes() == whole, name


def test_steps_that_were_left_out_are_known_or_told(made, tmp_path):
    root, path = unfinished(made, "train/*/identity.json", tmp_path)
    (path.parent / "skipped.json").write_text('["one"]')
    code, said = proseco(made[0], root)
    assert code == 1
    assert "skipped.json is damaged" in said
    assert f"Move the folder {path.parent} away" in said
    path.parent.rename(tmp_path / "away")
    assert proseco(made[0], root)[0] == 0


def test_an_identity_that_can_not_be_read_is_told(made, tmp_path):
    for name, damage in DAMAGES.items():
        root, path = unfinished(made, "tokenizer/*/identity.json", tmp_path)
        path.write_bytes(damage(path.read_bytes()))
        code, said = proseco(made[0], root)
        assert code == 1, name
        assert "Move it away and run the same command again" in said, name
        path.parent.rename(tmp_path / name)
        assert proseco(made[0], root)[0] == 0, name


@pytest.mark.parametrize(
    "place",
    ["tokenize/*/train-*.arrow", "train/*/metrics.jsonl", "generate/*/shards/*.json", "generate/*/shards/*.parquet"],
)
def test_a_folder_in_place_of_a_file_is_told(place, made, tmp_path):
    root, path = unfinished(made, place, tmp_path)
    path.unlink()
    path.mkdir()
    code, said = proseco(made[0], root)
    assert code == 1
    assert str(path) in said
    assert "Is a directory" in said
    path.rmdir()
    assert proseco(made[0], root)[0] == 0

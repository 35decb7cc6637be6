"""Files of an unfinished stage that were cut off, edited or replaced: made anew, or told with a remedy that works."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from click.testing import CliRunner

from components.store.artifact import MANIFEST, read_manifest, sealed
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
        "tokenize/*/quarantine-*.parquet", "generate/*/receipts/*.json", "generate/*/shards/*.parquet",
        "score/*/receipts/*.json", "score/*/shards/*.parquet", "export/*/config.json", "export/*/model.safetensors",
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
    ["tokenize/*/train-*.arrow", "train/*/metrics.jsonl", "generate/*/receipts/*.json", "generate/*/shards/*.parquet"],
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


EDITS = {
    "tokenizer/*/tokenizer.json": edit, "tokenize/*/rows.json": edit, "tokenize/*/train-*.arrow": edit, "tokenize/*/piece-*.json": edit,
    "train/*/checkpoints/*/rank-*.safetensors": edit, "train/*/checkpoints/*/state.json": edit, "train/*/metrics.jsonl": edit,
    "export/*/model.safetensors": edit, "export/*/config.json": edit, "export/*/README.md": lambda data: data.replace(b"e", b"a", 1),
    "generate/*/shards/*.parquet": edit, "generate/*/receipts/*.json": edit, "score/*/shards/*.parquet": edit,
    "score/*/receipts/*.json": edit, "evaluate/*/results.json": edit, "report/*/report.html": edit,
}  # fmt: skip


@pytest.mark.parametrize("place", EDITS)
def test_an_edit_of_a_finished_stage_is_seen_by_the_next_plan_and_mended_by_the_next_run(place, made, tmp_path):
    """Of the same length, so that only its time and its bytes tell."""
    root = tmp_path / "root"
    shutil.copytree(made[1], root)
    path = sorted(root.glob(place))[-1]
    whole = path.read_bytes()
    path.write_bytes(EDITS[place](whole))
    assert path.read_bytes() != whole
    assert path.stat().st_size == len(whole)
    found = {f["stage"]: f for f in planned(made, root)}
    assert [f["state"] for f in found.values()].count("damaged") == 1
    assert "was changed: its digest is not the manifest's" in json.dumps(found)
    assert proseco(made[0], root)[0] == 0
    assert {f["state"] for f in planned(made, root)} == {"fresh"}
    if path.suffix not in (".jsonl", ".html"):
        assert told_by(path.read_bytes()) == told_by(whole)


def planned(made, root):
    given = ["plan", str(made[0]), *harness.LOCAL, f"runtime.root={root}", "--json"]
    return json.loads(CliRunner().invoke(main, given, catch_exceptions=False).stdout)


@pytest.mark.parametrize("place", ["tokenize/*/train-*.arrow", "export/*/model.safetensors", "generate/*/shards/*.parquet"])
def test_an_edit_that_keeps_size_and_time_is_not_built_upon(place, made, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(made[1], root)
    for stage in ("export", "generate", "evaluate"):  # whoever reads it is to be made
        if stage != place.partition("/")[0]:
            for folder in root.glob(f"{stage}/*"):
                shutil.rmtree(folder)
    for folder in root.glob("train/*") if place.startswith("tokenize") else ():
        shutil.rmtree(folder)
    path = sorted(root.glob(place))[-1]
    stat = path.stat()
    path.write_bytes(edit(path.read_bytes()))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, said = proseco(made[0], root)
    assert code == 1
    assert f"{path} was changed: its digest is not the manifest's" in said
    assert "proseco gc --corrupt --delete" in said


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("tokenizer", "vocab_size"), ("tokenize", "documents"), ("train", "steps"), ("export", "parameters"),
        ("generate", "calls"), ("score", "scored"), ("evaluate", "quality"), ("report", "seconds"),
    ],
)  # fmt: skip
def test_an_edited_number_of_a_manifest_is_noticed_also_where_it_was_sealed_again(place, number, made, tmp_path):
    """The second time by what was made of it, which knows what it had read."""
    root = tmp_path / "root"
    shutil.copytree(made[1], root)
    path = sorted(root.glob(f"{place}/*/{MANIFEST}"))[-1]
    text = path.read_text()
    path.write_text(re.sub(rf'("{number}": )[\d.]+', r"\g<1>0.999", text, count=1))
    assert path.read_text() != text
    code, said = proseco(made[0], root)
    assert code == 1
    assert f"{path} is damaged (its contents are not those that were sealed)" in said
    if place == "report":  # of which nothing is made
        return
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"seal": sealed(plain)}))
    stale = [f for f in planned(made, root) if f["state"] == "stale"]
    assert stale
    assert all("holds something else now" in f["reasons"][0] for f in stale)


def test_what_comes_out_otherwise_has_what_was_made_of_it_made_again(made, tmp_path):
    """Weights of another machine, in the place of those that were lost: all that was sampled with them is of no weights now."""
    root = tmp_path / "root"
    shutil.copytree(made[1], root)
    (path,) = [p for p in root.glob(f"export/*/{MANIFEST}") if "export/proseco" in p.read_text()]
    plain = json.loads(path.read_text())
    plain["info"]["parameters"] += 1
    path.write_text(json.dumps(plain | {"seal": sealed(plain)}))
    code, said = proseco(made[0], root)
    assert code == 0
    assert "generate/proseco@3 (stale)" in said
    assert "generate/mdlm@4" not in said
    assert {f["state"] for f in planned(made, root)} == {"fresh"}


def test_a_report_says_the_digests_that_it_drew(made):
    _, root = made
    (page,) = root.glob("report/*/report.html")
    drew = read_manifest(page.parent).drew
    assert len(drew) == 9
    (evaluated,) = root.glob("evaluate/*")
    assert drew["evaluate"] == read_manifest(evaluated).result
    assert all(digest in page.read_text() for digest in drew.values())

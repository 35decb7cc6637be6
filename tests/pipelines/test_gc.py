"""What may be deleted: stage folders that say that they are ours, in a root that says so, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster.config import RuntimeConfig
from components.errors import ConfigError, StoreError
from components.store.artifact import FORMAT, write_manifest
from components.store.fingerprint import fingerprint
from components.store.lease import Lease
from components.store.root import MARKER, mark_root, remove_stage, require_ours, size
from components.training import checkpoint
from pipelines.cli import main
from pipelines.config.load import load_run
from pipelines.graph.gc import collect
from pipelines.graph.plan import Finding, find
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute, run_stage
from pipelines.graph.stage import Stage, in_order
from pipelines.workflows import build
from tests.chaos import harness


@pytest.fixture
def root(tmp_path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    mark_root(made)
    return made


@pytest.fixture
def run(tmp_path) -> Path:
    made = tmp_path / "chaos.yaml"
    made.write_text(harness.RUN)
    return made


def begun(root: Path, name: str = "train", version: int = 1, **changes: Any) -> Path:
    """A stage folder as a run leaves it that was stopped; ``changes`` are of what identity.json says."""
    identity = {"name": name, "version": version, "config": {}, "inputs": {}}
    folder = root / name / fingerprint(identity)
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps({"format": FORMAT, "label": name, "identity": identity} | changes))
    return folder


def made(root: Path, name: str = "train", version: int = 1) -> Path:
    """A finished one."""
    folder = begun(root, name, version)
    (folder / "file").write_text("hello")
    write_manifest(folder, name, name, version, {}, 1.0, {}, [folder / "file"])
    return folder


def spoil(folder: Path, file: str, **changes: Any) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))


def deleted(root: Path, *runs: str, corrupt: bool = False) -> list[str]:
    return list(collect(root, runs, corrupt, delete=True))


def test_a_folder_that_no_run_marked_is_not_touched(tmp_path, run):
    folder = made(tmp_path / "root")
    for corrupt in (False, True):
        with pytest.raises(StoreError, match=f"{MARKER}.*no root of proseco"):
            deleted(tmp_path / "root", str(run), corrupt=corrupt)
    (tmp_path / "root" / MARKER).write_text("[]")
    with pytest.raises(StoreError, match="no root of proseco"):
        deleted(tmp_path / "root", str(run))
    with pytest.raises(StoreError, match="no root of proseco"):
        deleted(tmp_path / "nowhere", str(run))
    assert folder.exists()
    assert not (tmp_path / "nowhere").exists()


def test_a_run_marks_its_root(tmp_path):
    """Before its first stage: this one fails at once."""
    runtime = RuntimeConfig(root=str(tmp_path / "root"), tracking_uri="none")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        execute("test", [Stage("export", "export", 1, {}, "nowhere:run")], runtime, Screen(quiet=True))
    mark = json.loads((tmp_path / "root" / MARKER).read_text())
    assert mark == {"format": "proseco-root", "version": 1}


def test_stages_of_ours_that_no_run_needs_go_finished_or_not(root, run):
    folders = [made(root), begun(root, "score")]
    assert len(list(collect(root, (str(run),), False, delete=False))) == 3
    assert all(f.exists() for f in folders)
    assert len(deleted(root, str(run))) == 2
    assert not any(f.exists() for f in folders)


@pytest.mark.parametrize("change", [
    lambda folder: spoil(folder, "manifest.json", format="other"),
    lambda folder: spoil(folder, "manifest.json", key="0" * 16),
    lambda folder: spoil(folder, "manifest.json", stage="score"),
    lambda folder: spoil(folder, "identity.json", format="other"),
    lambda folder: spoil(folder, "identity.json", identity={"name": "train"}),
    lambda folder: (folder / "identity.json").write_text("[]"),
    lambda folder: spoil(folder, "identity.json", identity={"name": "train", "x": float("nan")}),
    lambda folder: (folder / "identity.json").unlink(),
    lambda folder: folder.rename(folder.with_name("0" * 16)),
    lambda folder: folder.parent.rename(folder.parents[1] / "mine"),
])  # fmt: skip
def test_what_does_not_say_that_it_is_ours_stays(root, run, change):
    folder = made(root)
    (folder / "file").unlink()  # so that it is damaged, too
    change(folder)
    before = sorted(root.rglob("*"))
    for corrupt in (False, True):
        said = deleted(root, str(run), corrupt=corrupt)
        assert said[0].startswith("left alone")
        assert said[-1] == "nothing to delete"
    assert sorted(root.rglob("*")) == before


def test_somebody_elses_manifests_stay(root, run):
    project = root / "web" / "extension"
    project.mkdir(parents=True)
    (project / "manifest.json").write_text('{"name": "an extension"}')
    deleted(root, str(run))
    deleted(root, corrupt=True)
    assert (project / "manifest.json").exists()


def test_no_link_is_followed(root, run, tmp_path):
    """Neither one in the place of a stage's folder, or of a stage, nor one inside."""
    outside = made(tmp_path / "outside", "export")
    (root / "export").symlink_to(outside.parent)
    (root / "train").mkdir()
    (root / "train" / outside.name).symlink_to(outside)
    folder = made(root, "score")
    (folder / "big").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "much").write_bytes(b"x" * 10_000_000)
    (folder / "much").symlink_to(tmp_path / "outside" / "much")
    assert size(folder) < 5000
    said = deleted(root, str(run))
    assert [line.split(" ")[:2] for line in said] == [["deleted", str(folder)]]
    assert (outside / "manifest.json").exists()
    assert (tmp_path / "outside" / "much").exists()
    with pytest.raises(StoreError, match="it is a link"):
        remove_stage(root / "train" / outside.name)


def test_a_run_is_kept_with_its_overrides(root, run):
    config = load_run(run, ["train.base.steps=8", "samplers={mdlm: {steps: [5]}}"])
    stages = in_order(list(build(config).values()))
    for stage in stages:
        stage.folder(root).mkdir(parents=True)
        record = {"format": FORMAT, "label": stage.label, "identity": stage.identity}
        (stage.folder(root) / "identity.json").write_text(json.dumps(record))
    wanted = f"{run} train.base.steps=8 'samplers={{mdlm: {{steps: [5]}}}}'"
    assert deleted(root, wanted) == ["nothing to delete"]
    would = list(collect(root, (str(run),), False, delete=False))
    assert any("/train/" in line for line in would)
    assert not any("/tokenize/" in line for line in would)
    assert list(collect(root, (str(run), wanted), False, delete=False)) == ["nothing to delete"]


def test_the_root_is_that_of_the_kept_runs(root, run):
    folder = made(root)
    result = CliRunner().invoke(main, ["gc", "--keep", f"{run} runtime.root={root}", "--delete"])
    assert result.exit_code == 0, result.output
    assert not folder.exists()
    with pytest.raises(ConfigError, match="several roots"):
        list(collect(None, (f"{run} runtime.root={root}", str(run)), False, delete=True))


@pytest.mark.parametrize(
    ("keep", "message"), [("'", "close its quotes"), ("", "names no run"), ("{} steps", "no override")]
)
def test_a_run_that_cannot_be_read_keeps_gc_from_starting(root, run, keep, message):
    folder = made(root)
    with pytest.raises(ConfigError, match=message):
        deleted(root, keep.format(run))
    assert folder.exists()


def begin(finding: Finding, root: Path) -> None:
    """Make a stage as a run does; it gets no further than its folder."""
    with Lease(root, "train-0", "test").wait(0) as lease:
        run_stage(finding, root, RuntimeConfig(), lambda: None, lease.fence, None, Screen(quiet=True))  # type: ignore[arg-type, return-value]


def test_gc_leaves_alone_what_is_being_made(root, run):
    folder = made(root)
    with Lease(root, f"train-{folder.name}", "another run").wait(0):
        (line,) = deleted(root, str(run))
    assert line.startswith(f"left alone {folder}: it is being made by another run")
    assert folder.exists()
    assert deleted(root, str(run))[0].startswith("deleted")


def test_a_damaged_stage_is_made_anew_only_if_its_folder_is_ours(root):
    stage = Stage("train", "train", 1, {}, "nowhere:run")
    folder = stage.folder(root)
    folder.mkdir(parents=True)
    (folder / "file").write_text("hello")
    write_manifest(folder, "train", "train", 1, {}, 1.0, {}, [folder / "file"])
    (folder / "file").write_text("hi")
    (folder / "mine").write_text("kept")
    finding = find(stage, root)
    assert finding.state == "damaged"
    with pytest.raises(StoreError, match="not a stage folder of ours"):
        begin(finding, root)
    assert (folder / "mine").read_text() == "kept"


@pytest.mark.parametrize("linked", [True, False])
def test_a_stage_is_not_begun_in_a_folder_of_somebody_else(root, tmp_path, linked):
    stage = Stage("train", "train", 1, {}, "nowhere:run")
    outside = tmp_path / "outside" if linked else stage.folder(root)
    outside.mkdir(parents=True)
    if linked:
        (root / "train").mkdir()
        stage.folder(root).symlink_to(outside)
    else:
        (outside / "mine").write_text("kept")
    before = sorted(outside.iterdir())
    with pytest.raises(StoreError, match="not a stage folder of ours"):
        begin(find(stage, root), root)
    assert sorted(outside.iterdir()) == before


def test_what_a_kill_left_of_an_identity_does_not_keep_a_stage_from_being_begun(root):
    folder = root / "train" / ("0" * 16)
    folder.mkdir(parents=True)
    (folder / ".identity.json.01234567").write_text("{")
    require_ours(folder)


def test_old_checkpoints_go_and_nothing_else(tmp_path):
    for name in ("step-00000002", "step-00000004", "step-by-step", "step-000000009"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    (tmp_path / "step-00000001").symlink_to(tmp_path / "step-by-step")
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000002", "step-00000004"]

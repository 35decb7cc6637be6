"""A file system that takes nothing, met by whatever writes: a sentence, nothing lost; and what only reads goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.store.artifact import MANIFEST
from tests.chaos import harness
from tests.components.test_export import exported
from tests.components.test_foreign import llama

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" "$0" && exec "$@"'
"""Before a command, in a namespace of its own: nobody can write there, whoever they are."""


def with_read_only(place: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """What a command says that can not write to a folder."""
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", READ_ONLY, str(place)]
    return subprocess.run(
        [*inside, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )


def may_mount(folder: Path) -> bool:
    return shutil.which("unshare") is not None and with_read_only(folder, "true").returncode == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run, its root, an export, and a root whose report is missing."""
    folder = tmp_path_factory.mktemp("made")
    if not may_mount(folder):
        pytest.skip("this machine lets nobody mount a folder read-only in a namespace of their own (unshare --map-root-user)")
    (folder / "chaos.yaml").write_text(harness.RUN)
    process = harness.start(folder, folder / "root", "local")
    harness.finish(process)
    shutil.copytree(folder / "root", folder / "partial", symlinks=True)
    shutil.rmtree(folder / "partial" / "report")
    (folder / "empty").mkdir()
    exported(folder / "model")
    llama(folder / "llama")
    shutil.copy(folder / "model" / "tokenizer.json", folder / "llama")
    return folder


def proseco(place: Path, *options: object) -> tuple[int, str]:
    done = with_read_only(place, sys.executable, "-m", "pipelines.cli", *options)
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout


COMMANDS = {
    "run, an empty root": lambda f: ("empty", "run", f / "chaos.yaml", *harness.LOCAL, f"runtime.root={f / 'empty'}"),
    "run, a root with some of it": lambda f: ("partial", "run", f / "chaos.yaml", *harness.LOCAL, f"runtime.root={f / 'partial'}"),
    "run, with MLflow": lambda f: ("partial", "run", f / "chaos.yaml", *harness.LOCAL[:-1], f"runtime.root={f / 'partial'}"),
    "generate": lambda f: ("empty", "generate", f / "model", "--root", f / "empty", "runtime.executor=local"),
    "score": lambda f: ("empty", "score", next((f / "root").glob("generate/*")), "--root", f / "empty", "runtime.executor=local"),
    "import": lambda f: ("empty", "import", f / "llama", "--out", f / "empty" / "model"),
    "list": lambda f: ("empty", "list", "--markdown", f / "empty" / "pages"),
    "list, a folder that is there": lambda f: ("empty", "list", "--markdown", f / "empty"),
    "lineage": lambda f: ("empty", "lineage", next((f / "root").glob("report/*")), "--html", f / "empty" / "page.html"),
    "chaos": lambda f: ("empty", "chaos", f / "chaos.yaml", "--folder", f / "empty" / "chaos"),
    "gc": lambda f: ("partial", "gc", "--root", f / "partial", "--keep", f"{f / 'chaos.yaml'} train.base.steps=5", "--delete"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_can_not_be_written_is_told_in_a_sentence(name, made):
    place, *options = COMMANDS[name](made)
    code, said = proseco(made / place, *options)
    assert code == 1, said
    assert "Read-only file system" in said
    assert str(made / place) in said.replace("\n", "")


def test_what_only_reads_needs_no_place_to_write(made):
    run = (made / "chaos.yaml", *harness.LOCAL, f"runtime.root={made / 'root'}")
    assert proseco(made / "root", "plan", *run)[0] == 0
    assert proseco(made / "root", "show", *run)[0] == 0
    code, said = proseco(made / "root", "run", *run)
    assert code == 0
    assert "nothing to do" in said
    report = next((made / "root").glob("report/*"))
    assert proseco(made / "root", "lineage", report)[0] == 0


def test_the_same_command_goes_on_when_it_can_write_again(made, tmp_path):
    shutil.copytree(made / "partial", tmp_path / "root", symlinks=True)
    before = harness.samples(tmp_path / "root")
    (tmp_path / "chaos.yaml").write_text(harness.RUN)
    run = ("run", tmp_path / "chaos.yaml", *harness.LOCAL, f"runtime.root={tmp_path / 'root'}")
    assert proseco(tmp_path / "root", *run)[0] == 1
    again = subprocess.run([sys.executable, "-m", "pipelines.cli", *map(str, run)], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "1 stages made" in again.stdout
    assert list((tmp_path / "root").glob(f"report/*/{MANIFEST}"))
    assert harness.samples(tmp_path / "root") == before != []

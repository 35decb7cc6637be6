"""A disk that takes no more, met wherever a run writes: a sentence, nothing lost, and no lease kept.

Files may grow to a limit of the process, so libraries that write by themselves meet it, too.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys

import pytest

from tests.chaos import harness


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    said = run(folder)
    assert said.returncode == 0, said.stdout
    return folder / "root"


def run(folder, most_bytes=resource.RLIM_INFINITY, *options):
    (folder / "chaos.yaml").write_text(harness.RUN)
    command = [sys.executable, "-m", "pipelines.cli", "run", str(folder / "chaos.yaml"), *harness.LOCAL, *options, f"runtime.root={folder / 'root'}"]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("most_bytes", "stage", "where"),
    [
        (20, "tokenizer", ".leases"), (700, "tokenizer", "tokenizer.json"), (1_400, "tokenize", ".arrow"), (8_000, "train", "checkpoints"),
        (8_000, "export", "model.safetensors"), (9_000, "generate", "shards"), (1_800, "score", "shards"), (3_000, "report", "identity.json"),
    ],
)  # fmt: skip
def test_a_file_that_can_not_be_written_is_told_in_a_sentence(most_bytes, stage, where, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "root")
    shutil.rmtree(tmp_path / "root" / stage)
    said = run(tmp_path, most_bytes)
    assert said.returncode == 1
    assert "Traceback" not in said.stdout
    assert "could not be written" in said.stdout
    assert where in said.stdout, said.stdout[-1500:]
    again = run(tmp_path)
    assert again.returncode == 0, again.stdout
    assert "is being made by" not in again.stdout, "the lease is free"
    assert harness.samples(tmp_path / "root") == harness.samples(undisturbed)

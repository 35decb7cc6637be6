"""Faults of machines that no other test shows: how soon each is noticed, and what is said of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from cluster import processes
from components.store.lease import Lease
from components.tracking import JOURNAL
from tests.chaos import harness
from tests.components.test_export import exported
from tests.waiting import until

NOTICED_S = 60
LONGER = harness.RUN.replace("objective: {name: mdlm}, steps: 6", "objective: {name: mdlm}, steps: 20000")


def struck(folder, executor, strike):
    """What a run says, and how long it goes on, that is struck amid its training."""
    process = harness.start(folder, folder / "root", executor)
    try:
        until(lambda: list((folder / "root").glob(f"train/*/{JOURNAL}")), 150)
        strike(process)
        begun = time.monotonic()
        said, _ = process.communicate(timeout=NOTICED_S)
        return process.returncode, said, time.monotonic() - begun
    finally:
        harness.kill(process)


def leases_are_free(root):
    for chain in (root / ".leases").iterdir():
        lease = Lease(root, chain.name, "the next run")
        assert lease.take() is None, f"{chain.name} is held"
        lease.release()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(("program", "named"), [(b"raylet", "The raylet"), (b"gcs_server", "The GCS")])
def test_a_run_whose_cluster_dies_ends_with_a_sentence(program, named, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RUN", LONGER)

    def strike(process):
        for below in processes.descendants([process.pid]):
            if processes.command(below.pid).partition(b"\0")[0].endswith(b"/" + program):
                os.kill(below.pid, signal.SIGKILL)

    code, said, _ = struck(tmp_path, "ray", strike)
    assert code == 1
    assert f"{named}, a process of the cluster that was started for this run, died" in said
    assert "Traceback" not in said
    leases_are_free(tmp_path / "root")


def test_a_run_that_is_told_to_end_closes_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RUN", LONGER)
    code, said, seconds = struck(tmp_path, "local", lambda process: process.send_signal(signal.SIGTERM))
    assert code == 130
    assert "stopped; the same command resumes" in said
    assert seconds < 30
    leases_are_free(tmp_path / "root")


@pytest.mark.parametrize("command", ["generate", "nightly"])
def test_every_long_command_closes_what_it_holds_when_it_is_told_to_end(command, tmp_path):
    root = tmp_path / "root"
    if command == "generate":
        exported(tmp_path / "model")
        options = [tmp_path / "model", "--num-samples", 1_000_000, "--root", root, "generate.shard_rows=64"]
        begun = "generate/*/receipts/*.json"
    else:
        gate = "gate: {sampler: mdlm, better: entropy, guarded: {}}"
        (tmp_path / "run.yaml").write_text(f"workflow: nightly\n{LONGER}{gate}\n")
        options = [tmp_path / "run.yaml", *harness.LOCAL, "generate.num_samples=40", f"runtime.root={root}"]
        begun = f"train/*/{JOURNAL}"
    given = [sys.executable, "-m", "pipelines.cli", command, *map(str, options), "runtime.executor=local", "runtime.jobs=1"]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or list(root.glob(begun)), 150)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=NOTICED_S)
    finally:
        harness.kill(process)
    assert process.returncode == 130, said
    assert said.rstrip().endswith("stopped; the same command resumes")
    leases_are_free(root)

"""Faults of machines that no other test shows: how soon each is noticed, and what is said of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from cluster import processes
from components.store.lease import Lease
from components.tracking import JOURNAL
from tests.chaos import harness
from tests.cluster.nodes import nodes
from tests.components.test_export import exported
from tests.waiting import until

NOTICED_S = 60
LONGER = harness.RUN.replace("objective: {name: mdlm}, steps: 6", "objective: {name: mdlm}, steps: 20000")


def struck(folder, executor, strike, *options, **variables):
    """What a run says, and how long it goes on, that is struck amid its training."""
    process = harness.start(folder, folder / "root", executor, None, *options, **variables)
    try:
        until(lambda: list((folder / "root").glob(f"train/*/{JOURNAL}")), 150)
        strike(process)
        begun = time.monotonic()
        said, _ = process.communicate(timeout=NOTICED_S)
        return process.returncode, said, time.monotonic() - begun
    finally:
        harness.kill(process)


def running(process, program):
    """The processes of a program, or of a title that Ray gives, that a process has started."""
    commands = {p: processes.command(p.pid) for p in processes.descendants([process.pid])}
    return [p for p, said in commands.items() if said.partition(b"\0")[0].endswith(b"/" + program) or said.startswith(program)]


def kill(process, program):
    for below in running(process, program):
        os.kill(below.pid, signal.SIGKILL)


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

    code, said, _ = struck(tmp_path, "ray", lambda process: kill(process, program))
    assert code == 1
    assert f"{named}, a process of the cluster that was started for this run, died" in said
    assert "Traceback" not in said
    leases_are_free(tmp_path / "root")


@pytest.mark.ray
@pytest.mark.long
def test_a_run_that_loses_the_cluster_which_it_joined_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RUN", LONGER)
    with nodes(1, cpus=4) as made:
        options, variables = [f"runtime.address={made.address}"], made.environment
        code, said, _ = struck(tmp_path, "ray", lambda process: kill(made.process, b"gcs_server"), *options, **variables)
    assert code == 1
    assert "the head of the cluster, did not answer for 30 s" in said
    assert "Traceback" not in said
    leases_are_free(tmp_path / "root")


@contextmanager
def serving(folder):
    """``proseco serve``, from its start."""
    exported(folder / "model")
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(folder / "model"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        yield process
    finally:
        harness.kill(process)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("starting", [False, True])
def test_a_service_whose_cluster_dies_ends_with_a_sentence(starting, tmp_path):
    with serving(tmp_path) as process:
        if starting:
            until(lambda: running(process, b"ray::ServeController"), 120)
        else:
            until(lambda: "serving model" in process.stdout.readline(), 120)
        below = processes.descendants([process.pid])
        kill(process, b"raylet")
        said, _ = process.communicate(timeout=NOTICED_S)
    assert process.returncode == 1
    assert "The raylet, a process of the cluster that was started for this run, died" in said
    assert "Traceback" not in said
    assert not [p for p in below if p.lives()]


@pytest.mark.ray
def test_a_service_that_is_told_to_end_while_it_starts_leaves_nothing_behind(tmp_path):
    with serving(tmp_path) as process:
        until(lambda: running(process, b"raylet"), 60)
        below = processes.descendants([process.pid])
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=NOTICED_S)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        until(lambda: not [p for p in below if p.lives()], 10)


def test_a_run_that_is_told_to_end_closes_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RUN", LONGER)
    code, said, seconds = struck(tmp_path, "local", lambda process: process.send_signal(signal.SIGTERM))
    assert code == 130
    assert "stopped; the same command resumes" in said
    assert seconds < 30
    leases_are_free(tmp_path / "root")


def generating(folder, root):
    exported(folder / "model")
    return [folder / "model", "--num-samples", 1_000_000, "--root", root, "generate.shard_rows=64"], "generate/*/receipts/*.json"


def scoring(folder, root):
    exported(folder / "model")
    (folder / "texts.txt").write_text("123\n" * 10_000)
    options = ["--model", folder / "model", "--scorers", "nelbo", "--root", root, "nelbo.draws=32"]
    return [folder / "texts.txt", *options], "score/*/receipts/*.json"


def nightly(folder, root):
    gate = "gate: {sampler: mdlm, better: entropy, guarded: {}}"
    (folder / "run.yaml").write_text(f"workflow: nightly\n{LONGER}{gate}\n")
    options = [*harness.LOCAL, "generate.num_samples=40", f"runtime.root={root}"]
    return [folder / "run.yaml", *options], f"train/*/{JOURNAL}"


@pytest.mark.parametrize(("command", "prepared"), [("generate", generating), ("score", scoring), ("nightly", nightly)])
def test_every_long_command_closes_what_it_holds_when_it_is_told_to_end(command, prepared, tmp_path):
    root = tmp_path / "root"
    options, begun = prepared(tmp_path, root)
    given = [sys.executable, "-m", "pipelines.cli", command, *map(str, options), "runtime.executor=local", "runtime.jobs=1"]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or list(root.glob(begun)), 150)
        below = processes.descendants([process.pid])
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=NOTICED_S)
        assert not [p for p in below if p.lives()]
    finally:
        harness.kill(process)
    assert process.returncode == 130, said
    assert said.rstrip().endswith("stopped; the same command resumes")
    leases_are_free(root)

"""Replicas of a batch job on Ray: more of them while shards remain, and the shards of one that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster import processes
from tests.cluster.test_serve import until
from tests.components.test_export import exported

ROWS, SHARD_ROWS = 1600, 32
MANY_ROWS = 32_000
"""More than one replica makes, however fast, before another one has started."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("replicas") / "model"
    exported(folder)
    return folder


class Job:
    """A running ``proseco generate`` whose shards take two seconds or so."""

    def __init__(self, model: Path, root: Path, rows: int, *runtime: str):
        self.root = root
        command = [
            sys.executable, "-m", "pipelines.cli", "generate", str(model), "--sampler", "proseco", "--root", str(root),
            "--num-samples", str(rows), "--show", "0", f"generate.shard_rows={SHARD_ROWS}",
            "steps=9", "corrector.inner=sample", "corrector.passes=40",
            "runtime.executor=ray", "runtime.tracking_uri=none", *(f"runtime.{setting}" for setting in runtime),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def replicas(self) -> set[processes.Process]:
        everybody = processes.descendants([self.process.pid])
        return {p for p in everybody if b"ServeReplica:proseco:replica" in processes.command(p.pid)}

    def finished(self) -> int:
        return len(list(self.root.glob("generate/*/shards/*.json")))

    def journal(self) -> dict[str, float]:
        (path,) = self.root.glob("generate/*/metrics.jsonl")
        return json.loads(path.read_text().splitlines()[-1])

    def rows(self) -> list[str]:
        tables = self.root.glob("generate/*/shards/*.parquet")
        return [row for path in tables for row in pq.read_table(path, columns=["row_id"])["row_id"].to_pylist()]


@contextlib.contextmanager
def job(model: Path, root: Path, rows: int, *runtime: str) -> Iterator[Job]:
    made = Job(model, root, rows, *runtime)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.send_signal(signal.SIGINT)
            made.process.wait(timeout=60)


def test_there_are_more_replicas_while_shards_remain(model, tmp_path):
    with job(model, tmp_path, MANY_ROWS, "replicas=1", "max_replicas=2") as running:
        until(lambda: running.finished(), 180)
        assert len(running.replicas()) == 1
        until(lambda: len(running.replicas()) == 2 or running.process.poll() is not None, 180)
        assert running.process.poll() is None, "the job ended before there was a second replica"


def test_the_shards_of_a_replica_that_hangs_are_made_by_another(model, tmp_path):
    with job(model, tmp_path, ROWS, "replicas=2") as running:
        until(lambda: running.finished() >= 4, 180)
        replicas = running.replicas()
        hanging = min(replicas, key=lambda p: p.pid)
        os.kill(hanging.pid, signal.SIGSTOP)
        assert running.process.wait(timeout=300) == 0
        assert len(set(running.rows())) == len(running.rows()) == ROWS
        # Its own two at least would be missing else; on a slow machine one of the other replica may count as late, too.
        assert running.journal()["reissued"] >= 1
    assert not hanging.lives(), "a process of the job outlived it"

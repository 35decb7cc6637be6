"""Replicas of a batch job on Ray: more of them while shards remain, and the shards of one that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster import processes
from cluster.config import RuntimeConfig
from cluster.serving import foreseen
from tests.components.test_export import exported
from tests.waiting import until

FEW_ROWS, KILLED_ROWS, ROWS, SHARD_ROWS = 320, 800, 960, 32
NOTICED_S = 60
"""A killed process is noticed within so long."""
MANY_ROWS = 32_000
"""More than two replicas make, however fast, before it was looked at them."""


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

    def controller(self) -> set[processes.Process]:
        return {p for p in processes.descendants([self.process.pid]) if processes.command(p.pid).startswith(b"ray::ServeController")}

    def finished(self) -> int:
        return len(list(self.root.glob("generate/*/receipts/*.json")))

    def journal(self) -> list[dict[str, float]]:
        (path,) = self.root.glob("generate/*/metrics.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

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


@pytest.mark.parametrize(("shards", "wanted"), [(0, 2), (1, 2), (4, 2), (5, 3), (9, 5), (1000, 5)])
def test_as_many_replicas_are_wanted_as_have_shards_within_the_limits(shards, wanted):
    stream, number = foreseen(iter(range(shards)), RuntimeConfig(replicas=2, max_replicas=5))
    assert number == wanted
    assert list(stream) == list(range(shards))


def test_there_are_more_replicas_while_shards_remain(model, tmp_path):
    with job(model, tmp_path, MANY_ROWS, "replicas=1", "max_replicas=2") as running:
        until(lambda: len(running.replicas()) == 2 or running.process.poll() is not None, 180)
        until(lambda: running.finished() >= 4, 180)
        assert len(running.replicas()) == 2
        assert {row["in_flight"] for row in running.journal()} >= {4}, "the second replica got nothing to do"


def test_a_job_goes_on_with_the_replicas_that_there_is_room_for(model, tmp_path):
    with job(model, tmp_path, FEW_ROWS, "replicas=1", "max_replicas=2", "cpus=1", "workers=1") as running:
        assert running.process.wait(timeout=300) == 0
        assert len(set(running.rows())) == len(running.rows()) == FEW_ROWS
        assert {row["in_flight"] for row in running.journal()} <= {0, 1, 2}, "shards waited for a replica that was not there"


def test_the_shards_of_a_replica_that_hangs_are_made_by_another(model, tmp_path):
    with job(model, tmp_path, ROWS, "replicas=2") as running:
        until(lambda: running.finished() >= 4, 180)
        time.sleep(1)  # shards of a size end together, and a replica that stands still between them has nothing to lose
        replicas = running.replicas()
        hanging = min(replicas, key=lambda p: p.pid)
        os.kill(hanging.pid, signal.SIGSTOP)
        assert running.process.wait(timeout=300) == 0
        assert len(set(running.rows())) == len(running.rows()) == ROWS
        # Its own two at least would be missing else; on a slow machine one of the other replica may count as late, too.
        assert running.journal()[-1]["reissued"] >= 1
    assert not hanging.lives(), "a process of the job outlived it"


def test_a_replica_that_is_killed_is_noticed_soon_and_its_shards_are_made_again(model, tmp_path):
    with job(model, tmp_path, KILLED_ROWS, "replicas=2") as running:
        until(lambda: running.finished() >= 4, 180)
        time.sleep(0.5)  # shards of a size end together, and a replica that is killed between them has nothing to lose
        os.kill(min(p.pid for p in running.replicas()), signal.SIGKILL)
        killed = time.time()
        assert running.process.wait(timeout=300) == 0
        assert len(set(running.rows())) == len(running.rows()) == KILLED_ROWS
        told = next(row["time_s"] for row in running.journal() if row["retries"])
        assert 0 < told - killed < NOTICED_S


def test_a_controller_that_is_killed_is_started_again_and_shards_do_not_wait_for_it(model, tmp_path):
    """The new one shows that it is at work by replacing a replica."""
    with job(model, tmp_path, KILLED_ROWS, "replicas=2") as running:
        until(lambda: running.finished() >= 4, 180)
        (former,) = running.controller()
        os.kill(former.pid, signal.SIGKILL)
        before = running.finished()
        until(lambda: running.controller() - {former}, NOTICED_S)
        until(lambda: running.finished() > before, NOTICED_S)
        lost = min(running.replicas(), key=lambda p: p.pid)
        os.kill(lost.pid, signal.SIGKILL)
        until(lambda: len(running.replicas() - {lost}) == 2, NOTICED_S)
        assert running.process.wait(timeout=300) == 0
        assert len(set(running.rows())) == len(running.rows()) == KILLED_ROWS

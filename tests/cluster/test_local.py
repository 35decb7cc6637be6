"""Processes of this machine that several stages share: deaths, errors, and a run that is stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.cluster import Stopped, TrainLaunch
from cluster.config import RuntimeConfig
from cluster.environment import Prepared
from cluster.local import LocalCluster
from cluster.processes import descendants
from cluster.worker import failure_file
from components.errors import ClusterError, ProsecoError, TrainingError
from components.store.files import exists, publish_text
from pipelines.graph.plan import Finding
from pipelines.graph.progress import Screen
from pipelines.graph.resources import Resources
from pipelines.graph.schedule import Schedule
from pipelines.graph.stage import Stage
from tests.doubles import TINY, job, token_rows
from tests.waiting import until


@pytest.fixture
def cluster():
    made = LocalCluster(RuntimeConfig(executor="local", replicas=2, cpus=2, workers=1, engine="torch"), Prepared())
    yield made
    made.close()


class Odd(Exception):
    """Pickles, and can not be read again."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def die_once(path: str) -> str:
    """The process of the item ``c`` dies the first time."""
    if path.endswith("c") and not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path


def die(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def odd(item: int) -> int:
    raise Odd(item, item)


def square(item: int) -> int:
    return item * item


def nap(item: int) -> int:
    time.sleep(60)
    return item


def quiet(number: int, result: object) -> None:
    """Nobody is told."""


def test_an_item_whose_process_dies_is_done_again_and_each_is_told_once(cluster, tmp_path):
    told = []
    items = [str(tmp_path / name) for name in "abcd"]
    assert cluster.map(die_once, items, lambda number, result: told.append(number)) == items
    assert sorted(told) == [0, 1, 2, 3]


def test_processes_that_died_are_left_to_nobody(cluster):
    with pytest.raises(ClusterError, match=r"died 3 times \(runtime.max_attempts\)"):
        cluster.map(die, [1], quiet)
    assert cluster.map(square, [1, 2, 3], quiet) == [1, 4, 9]


def test_an_error_comes_back_whatever_it_is(cluster):
    with pytest.raises(RuntimeError, match="Odd: 7 and 7"):
        cluster.map(odd, [7], quiet)


def test_a_stopped_run_ends_its_items_soon_and_starts_nothing_more(cluster, tmp_path):
    begun = time.monotonic()
    threading.Timer(3, cluster.stop).start()
    with pytest.raises(Stopped):
        cluster.map(nap, [1, 2], quiet)
    assert time.monotonic() - begun < 20
    with pytest.raises(Stopped):
        cluster.map(square, [1], quiet)
    launch = TrainLaunch(
        job=job(tmp_path, token_rows(tmp_path / "rows")), model=TINY, init=None, runtime=cluster.runtime
    )
    with pytest.raises(Stopped):
        cluster.train(launch)


def starts(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["time_s"] for row in rows if "params" in row]


@pytest.mark.distributed
@pytest.mark.parametrize("max_failures", [0, 1])
def test_a_training_whose_process_is_killed_is_started_again_as_often_as_is_allowed(max_failures, tmp_path):
    runtime = RuntimeConfig(executor="local", cpus=2, workers=1, engine="torch", max_failures=max_failures)
    made = LocalCluster(runtime, Prepared())
    long = job(tmp_path, token_rows(tmp_path / "rows"), steps=300, checkpoint_every=50)
    launch = TrainLaunch(job=long, model=TINY, init=None, runtime=runtime)
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(made.train, launch)
        until(lambda: list(tmp_path.glob("checkpoints/*/state.json")), 120)
        (process,) = made.trainings[0].processes
        os.kill(process.pid, signal.SIGKILL)
        killed = time.time()
        if max_failures:
            training.result(timeout=120)
            assert 0 < starts(tmp_path)[-1] - killed < 60
        else:
            with pytest.raises(TrainingError, match="died more than 0 times .*SIGKILL"):
                training.result(timeout=60)
    assert len(starts(tmp_path)) == 1 + max_failures
    assert exists(tmp_path / "checkpoints" / "step-00000300") == bool(max_failures)
    made.close()


@pytest.mark.distributed
def test_a_training_that_is_stopped_ends_its_processes(cluster, tmp_path):
    made = job(tmp_path, token_rows(tmp_path / "rows"), steps=1_000_000)
    launch = TrainLaunch(job=made, model=TINY, init=None, runtime=cluster.runtime)
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(cluster.train, launch)
        deadline = time.monotonic() + 120
        while not (tmp_path / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = {p for p in descendants([os.getpid()]) if p.lives()}
        cluster.stop()
        with pytest.raises(Stopped):
            training.result(timeout=30)
    deadline = time.monotonic() + 30
    while [c for c in cluster.trainings if any(p.is_alive() for p in c.processes)]:
        assert time.monotonic() < deadline
    assert started


def test_an_error_that_an_earlier_try_left_is_not_told_as_a_new_one(cluster, tmp_path):
    made = job(tmp_path, token_rows(tmp_path / "rows"))
    publish_text(failure_file(made), '{"type": "OutOfMemory", "message": "long ago"}')
    cluster.train(TrainLaunch(job=made, model=TINY, init=None, runtime=cluster.runtime))
    assert not failure_file(made).exists()


class Panic(BaseException):
    """As what a library in Rust raises."""


def test_whatever_ends_a_stage_in_a_thread_does_not_leave_the_run_waiting(tmp_path):
    def make(finding, lease):
        raise Panic if finding.stage.label == "a" else ProsecoError("in words")

    todo = [Finding(Stage(name, name, 1, {}, "nowhere:run"), "missing", ()) for name in "ab"]
    runtime = RuntimeConfig(root=str(tmp_path), executor="local")
    outcome = Schedule(
        todo, tmp_path, "test", runtime, lambda: Resources(2), make, lambda: None, Screen(quiet=True)
    ).run()
    assert {stage.label: type(error) for stage, error in outcome.failed.values()} == {"a": Panic, "b": ProsecoError}

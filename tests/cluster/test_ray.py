"""The same small run on a Ray cluster of several nodes on loopback: same samples as without Ray."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cluster.config import RuntimeConfig
from cluster.open import open_cluster
from cluster.processes import command, read
from components.errors import ConfigError
from tests.chaos import harness
from tests.cluster.nodes import nodes
from tests.waiting import until

pytestmark = pytest.mark.ray

NOTICED_S = 60
"""A killed process is noticed, and its work gone on with, within so long."""


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes that is ready, with a token that the user's environment names."""
    user = pytest.MonkeyPatch()
    with nodes(2) as made:
        for name, value in made.environment.items():
            user.setenv(name, value)
        try:
            joined = open_cluster(RuntimeConfig(address=made.address))
            import ray

            until(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 2, 90)
            joined.close()
            yield made
        finally:
            user.undo()


def run_on(runtime_options: list[str], folder: Path) -> None:
    from pipelines.config.load import load_run
    from pipelines.graph.progress import Screen
    from pipelines.graph.runner import execute
    from pipelines.workflows.main_job import build

    run = folder / "chaos.yaml"
    run.write_text(harness.RUN)
    config = load_run(run, runtime_options)
    execute("test", list(build(config).values()), config.runtime, Screen(quiet=True))


def test_a_cluster_of_two_nodes_gives_the_samples_of_one_process(cluster, tmp_path, monkeypatch):
    """Tasks, Ray Train with DeepSpeed on two workers and Serve replicas, against the local executor with
    the same threads and world size: equal, row for row. The roots are relative: nodes and workers are in other folders."""
    monkeypatch.chdir(tmp_path)
    shared = ["runtime.workers=2", "runtime.zero_stage=2", "runtime.tracking_uri=none"]
    run_on([*shared, "runtime.executor=local", "runtime.root=local"], tmp_path)
    import ray

    run_on([*shared, f"runtime.address={cluster.address}", "runtime.root=ray"], tmp_path)
    assert harness.samples(tmp_path / "ray") == harness.samples(tmp_path / "local")
    assert not ray.is_initialized()


class Deadly:
    """A task that dies the first time."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, item: int) -> int:
        mark = self.folder / str(item)
        if item == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * 2


def test_a_task_whose_process_dies_is_done_again(cluster, tmp_path):

    joined = open_cluster(RuntimeConfig(address=cluster.address))
    try:
        done = []
        assert joined.map(Deadly(tmp_path), [0, 1, 2], lambda i, r: done.append(i)) == [0, 2, 4]
        assert sorted(done) == [0, 1, 2]
    finally:
        joined.close()


def test_a_rank_that_stops_on_purpose_ends_the_training_with_its_message(cluster, tmp_path):
    from cluster.cluster import TrainLaunch
    from components.errors import NonFiniteLoss
    from tests.doubles import TINY, diverging, job, token_rows

    runtime = RuntimeConfig(address=cluster.address, workers=2, zero_stage=1)
    ruined = job(tmp_path, token_rows(tmp_path / "rows"), 4, optimizer=diverging())
    joined = open_cluster(runtime)
    try:
        launch = TrainLaunch(job=ruined, model=TINY, init=None, runtime=runtime)
        with pytest.raises(NonFiniteLoss, match="Lower optimizer.lr"):
            joined.train(launch)
    finally:
        joined.close()


def kill_when_checkpointed(folder: Path, killed: list[float], which: str) -> None:
    """SIGKILL to the first rank, whose process number the journal has, or to the process that watches over the ranks,
    once a checkpoint is there. Leaves when that was."""
    while not list((folder / "checkpoints").glob("*/state.json")):
        time.sleep(0.01)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    pids = {"rank": [first["params"]["pid"]], "controller": controllers()}[which]
    killed.append(time.time())
    os.kill(pids[-1], signal.SIGKILL)


def controllers() -> list[int]:
    """Processes that watch over trainings, the oldest first: those of trainings that have ended may be there for a while."""
    found = [int(p.name) for p in Path("/proc").glob("[0-9]*")]
    found = [pid for pid in found if command(pid).startswith(b"ray::TrainController")]
    return sorted(found, key=lambda pid: (read(pid) or (0, 0, False))[1])


def trained(cluster, folder: Path, killed: list[float] | None = None, which: str = "") -> dict[str, object]:
    """The last weights of a training on two workers, one of whose processes is killed meanwhile where that is asked for.
    The cluster has room for no more than those two."""
    from ray.util.placement_group import placement_group, remove_placement_group

    from cluster.cluster import TrainLaunch
    from components.training import checkpoint
    from tests.doubles import TINY, job, token_rows

    folder.mkdir()
    rows = token_rows(folder / "rows")
    runtime = RuntimeConfig(address=cluster.address, workers=2, zero_stage=1, max_failures=2)
    joined = open_cluster(runtime)
    others = placement_group([{"CPU": 1}] * 2)
    try:
        if killed is not None:
            threading.Thread(target=kill_when_checkpointed, args=(folder, killed, which), daemon=True).start()
        made = job(folder, rows, 4, steps=300, checkpoint_every=50)
        joined.train(TrainLaunch(job=made, model=TINY, init=None, runtime=runtime))
    finally:
        remove_placement_group(others)
        joined.close()
    last = checkpoint.latest(folder / "checkpoints")
    assert last.name == "step-00000300"
    return {f"{k}/{n}": t for k, n, t in checkpoint.read(last, ("weight", "ema"))}


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory) -> dict[str, object]:
    return trained(cluster, tmp_path_factory.mktemp("undisturbed") / "t")


@pytest.mark.parametrize("which", ["rank", "controller"])
def test_a_training_one_of_whose_processes_is_killed_resumes_from_its_checkpoint(which, cluster, undisturbed, tmp_path):
    """SIGKILL after a checkpoint; the result equals an undisturbed training, bit for bit, and is gone on with soon."""
    killed: list[float] = []
    found = trained(cluster, tmp_path / "killed", killed, which)
    rows = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    starts = [row["time_s"] for row in rows if "params" in row]
    assert len(killed) == 1
    assert len(starts) == 2
    assert 0 < starts[1] - killed[0] < NOTICED_S
    assert all(bool((undisturbed[k] == found[k]).all()) for k in undisturbed)


def test_what_finds_no_room_is_told_after_a_while(cluster, tmp_path):
    from cluster.cluster import TrainLaunch
    from components.errors import ClusterError
    from tests.doubles import TINY, job, token_rows

    runtime = RuntimeConfig(address=cluster.address, workers=5, start_wait_s=1)
    joined = open_cluster(runtime)
    try:
        launch = TrainLaunch(job=job(tmp_path, token_rows(tmp_path / "rows")), model=TINY, init=None, runtime=runtime)
        with pytest.raises(
            ClusterError, match="runtime.workers = 5 asks for 5 CPUs, and the cluster, which has 4 CPUs"
        ):
            joined.train(launch)
    finally:
        joined.close()


def test_room_of_a_watcher_that_died_is_given_back_and_no_other(cluster):
    joined = open_cluster(RuntimeConfig(address=cluster.address))
    try:
        import ray
        from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

        from cluster.ray_train import free_room

        @ray.remote(num_cpus=0)
        class Watcher:
            def take(self):
                self.group = placement_group([{"CPU": 1}])
                ray.get(self.group.ready())
                return self.group

        lives, dies = Watcher.remote(), Watcher.remote()
        kept, freed = ray.get([lives.take.remote(), dies.take.remote()])
        own = placement_group([{"CPU": 1}])
        ray.get(own.ready())
        ray.kill(dies)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(dies.take.remote())
        assert placement_group_table(freed)["state"] == "CREATED", "Ray keeps it"
        free_room()
        assert [placement_group_table(g)["state"] for g in (freed, kept, own)] == ["REMOVED", "CREATED", "CREATED"]
        remove_placement_group(own)
    finally:
        joined.close()


def test_room_is_given_back_before_workers_are_started_anew(cluster, tmp_path, monkeypatch):
    from ray.exceptions import RayActorError

    from cluster import ray_train
    from cluster.cluster import TrainLaunch
    from components.errors import TrainingError
    from tests.doubles import TINY, job, token_rows

    done = []

    def fit(launch):
        done.append("fit")
        raise RayActorError

    monkeypatch.setattr(ray_train, "fit", fit)
    monkeypatch.setattr(ray_train, "free_room", lambda: done.append("free"))
    runtime = RuntimeConfig(address=cluster.address, max_failures=1)
    launch = TrainLaunch(job=job(tmp_path, token_rows(tmp_path / "rows")), model=TINY, init=None, runtime=runtime)
    with pytest.raises(TrainingError, match="died more than 1 times"):
        ray_train.train(launch, threading.Event())
    assert done == ["fit", "free", "fit", "free"]


def test_workers_that_find_no_room_any_more_are_told_of_after_a_while(cluster, tmp_path, monkeypatch):
    """As where a node is lost amid a training, which was given room at its start."""
    from cluster import ray_train
    from cluster.cluster import TrainLaunch
    from components.errors import ClusterError
    from tests.doubles import TINY, job, token_rows

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    runtime = RuntimeConfig(address=cluster.address, workers=5, start_wait_s=4)
    joined = open_cluster(runtime)
    try:
        launch = TrainLaunch(job=job(tmp_path, token_rows(tmp_path / "rows")), model=TINY, init=None, runtime=runtime)
        begun = time.monotonic()
        with pytest.raises(ClusterError, match="found no room on the cluster in 4 s"):
            ray_train.train(launch, threading.Event())
        assert 4 < time.monotonic() - begun < 40
    finally:
        joined.close()


def test_inside_a_ray_job_no_second_cluster_is_started(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(ConfigError, match="set runtime.address=auto"):
        open_cluster(RuntimeConfig())


def test_workers_and_replicas_that_could_never_start_are_refused():
    (problem,) = RuntimeConfig(cpus=1).problems()
    assert problem.path == "cpus"
    assert "at least one for each of 2 workers and 2 replicas" in problem.rule
    assert not list(RuntimeConfig(cpus=2).problems())
    from cluster.ray_cluster import cpus_of

    assert cpus_of(RuntimeConfig(workers=99)) >= 99


def test_in_a_container_an_embedded_cluster_has_the_cpus_of_its_limit(monkeypatch):
    from ray._private import utils

    from cluster.ray_cluster import cpus_of

    monkeypatch.setattr(utils.multiprocessing, "cpu_count", lambda: 64)
    monkeypatch.setattr(utils, "_get_docker_cpus", lambda: 3.0)
    assert cpus_of(RuntimeConfig(workers=1, replicas=1)) == 3
    assert cpus_of(RuntimeConfig(workers=1, replicas=5)) == 5

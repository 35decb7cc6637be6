"""Ray Train workers, each one rank of a DeepSpeed group.

Checkpoints are ours and lie in the stage's folder on shared storage, so a worker group that Ray
restarts, on fewer or other nodes, resumes from the newest by itself; Ray's own checkpoint object is
not used.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import threading
import uuid
from dataclasses import dataclass
from typing import Any

import ray
import torch.distributed as dist
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import (
    DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from cluster.cluster import Stopped, TrainLaunch
from cluster.config import RuntimeConfig
from cluster.worker import failure_file, failure_of, train_rank
from components.errors import ClusterError, TrainingError
from components.store.files import exists


def train(launch: TrainLaunch, stopped: threading.Event) -> None:
    """Run the training to its end.

    The process that watches over the workers may die, too; then a new one starts them again.

    Raises:
        TrainingError: a rank stopped on purpose, or workers or who watches over them died more often than allowed.
        ClusterError: workers that had died found no room in time.
    """
    runtime, folder = launch.runtime, launch.job.folder
    for _ in range(runtime.max_failures + 1):
        try:
            fit(launch)
            return
        except (RayActorError, ControllerError) as error:
            if stopped.is_set():
                raise Stopped from error
            if (failure := failure_of(launch.job)) is not None:
                raise failure from error
            if isinstance(error, ControllerError) and isinstance(
                error.controller_failure, WorkerGroupStartupTimeoutError
            ):
                raise ClusterError(
                    f"{folder.name}: training workers that had died found no room on the cluster in {runtime.start_wait_s:g} s "
                    f"(runtime.start_wait_s). Their checkpoints are kept; give the same command again when there is room, lower "
                    f"runtime.workers, or let it go on with fewer by runtime.min_workers."
                ) from error
            died = error
            free_room()
    raise TrainingError(
        f"The process that watches over the training workers died more than {runtime.max_failures} times "
        f"(runtime.max_failures): {last_line(died)}. What they had written as checkpoints is kept in "
        f"{folder / 'checkpoints'}; running again resumes."
    ) from died


def fit(launch: TrainLaunch) -> None:
    """Start a worker group and wait for its end.

    Raises:
        TrainingError: a rank stopped on purpose, or workers died more often than allowed.
        RayActorError: the process that watches over them died.
        ControllerError: it failed.
    """
    runtime, folder = launch.runtime, launch.job.folder
    failure_of(launch.job)  # one of an earlier run is not ours
    on_gpu = runtime.on_gpu
    with tempfile.TemporaryDirectory(prefix="proseco-train-") as scratch:
        trainer = TorchTrainer(
            functools.partial(_worker, launch),
            torch_config=meeting(runtime, scratch),
            scaling_config=ScalingConfig(
                num_workers=(runtime.min_workers, runtime.workers) if runtime.min_workers else runtime.workers,
                elastic_resize_monitor_interval_s=runtime.resize_every_s,
                use_gpu=on_gpu,
                resources_per_worker={"CPU": 1, "GPU": 1} if on_gpu else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=f"{folder.parent.name}-{folder.name}",
                storage_path=scratch,
                failure_config=FailureConfig(
                    max_failures=runtime.max_failures, controller_failure_limit=starts(runtime.start_wait_s)
                ),
            ),
        )
        try:
            trainer.fit()
        except ControllerError:
            raise
        except TrainingFailedError as failed:
            raise failure_of(launch.job) or TrainingError(
                f"The training workers failed more than {runtime.max_failures} times (runtime.max_failures): "
                f"{last_line(failed)}. What they had written as checkpoints is kept in {folder / 'checkpoints'}; running "
                f"again resumes."
            ) from failed
        failure = failure_of(launch.job)
        if failure is not None:
            raise failure


def starts(seconds: float) -> int:
    """How often Ray Train may ask anew for room for its workers, so that it gives up after so many seconds."""
    each = float(os.environ.get(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, DEFAULT_WORKER_GROUP_START_TIMEOUT_S))
    return math.ceil(seconds / each)


def free_room() -> None:
    """Give back the CPUs and GPUs of workers whose watcher died. Ray has a process that does so, but it asks the server of the
    dashboard who lives; without one nothing is ever freed, and the next workers wait for the room of the last."""
    job = ray.get_runtime_context().get_job_id()
    for packed in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(packed)
        of_actor = not ray.ActorID(group.creator_actor_id).is_nil()  # what a driver takes counts as of a dead one
        if of_actor and group.creator_actor_dead and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def meeting(runtime: RuntimeConfig, scratch: str) -> TorchConfig:
    """How the ranks of a training find each other: on one machine through a file, elsewhere by an address."""
    backend = "nccl" if runtime.on_gpu else "gloo"
    return TorchConfig(backend=backend) if runtime.address else FileConfig(backend=backend, folder=scratch)


@dataclass
class FileConfig(TorchConfig):
    """The ranks of one machine meet through a file. torch's store of addresses listens on every interface and asks
    nobody who he is, so a cluster that is closed to others does without it."""

    folder: str = ""
    """Where the file lies."""

    @property
    def backend_cls(self) -> type[Backend]:
        return FileBackend


class FileBackend(Backend):
    """Makes the process group of a worker group, and again of the one that is started after a death."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: FileConfig) -> None:
        url = f"file://{backend_config.folder}/{uuid.uuid4().hex}"
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(rank, join_group, backend_config.backend, url, rank, size)
                for rank in range(size)
            ]
        )


def join_group(backend: str, url: str, rank: int, world_size: int) -> None:
    """Make this worker a rank of the group that meets at ``url``."""
    os.environ["LOCAL_RANK"] = str(ray.train.get_context().get_local_rank())
    dist.init_process_group(backend, init_method=url, rank=rank, world_size=world_size)


def _worker(launch: TrainLaunch) -> None:
    os.environ.setdefault("LOCAL_RANK", "0")
    # A rank that stops on purpose leaves its error behind and raises, so that Ray ends the other ranks,
    # which wait for it. Ray then starts them again; trying again would fail in the same way, so they end.
    if not exists(failure_file(launch.job)):
        train_rank(launch, functools.partial(leaves, ray.get_runtime_context().get_node_id()))


def leaves(node: str) -> bool:
    """Is a node drained, as one is that will be taken away?"""
    return node in state.get_draining_nodes()


def is_training(command: bytes) -> bool:
    """Is a process, by its command line, one of a training?"""
    return command.startswith((b"ray::TrainController", b"ray::RayTrainWorker"))


def last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

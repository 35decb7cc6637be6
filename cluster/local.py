"""Everything on this machine without a cluster: tasks and shards in this process, training in as many
processes as there are workers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException, spawn

from cluster.cluster import Done, TrainLaunch
from cluster.config import RuntimeConfig
from cluster.environment import Prepared
from cluster.worker import do_shard, failure_of, train_rank


class LocalCluster:
    """See ``cluster.cluster.Cluster``."""

    def __init__(self, runtime: RuntimeConfig, prepared: Prepared):
        self.runtime = runtime
        self.prepared = prepared

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        results = []
        for number, item in enumerate(items):
            results.append(work(item))
            done(number, results[-1])
        return results

    def train(self, launch: TrainLaunch) -> None:
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{folder}/meeting"
            if self.runtime.workers == 1 and self.runtime.engine == "torch":
                train_rank(launch)
                return
            # DeepSpeed keeps its groups in globals, so each training gets processes of its own.
            try:
                spawn(in_group, (self.runtime.workers, meeting, launch), nprocs=self.runtime.workers)
            except ProcessRaisedException:
                failure = failure_of(launch.job.folder)
                if failure is not None:
                    raise failure from None
                raise

    def serve(self, shards: Sequence[Any], done: Done) -> list[Any]:
        return self.map(lambda shard: do_shard(shard, self.runtime.threads), shards, done)

    def close(self) -> None:
        self.prepared.close()


def in_group(rank: int, world_size: int, meeting: str, launch: TrainLaunch) -> None:
    """One training process. They meet through a file: no port can be taken."""
    os.environ["LOCAL_RANK"] = str(rank)
    backend = "nccl" if launch.runtime.on_gpu else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world_size)
    try:
        train_rank(launch)
    finally:
        dist.destroy_process_group()

"""The Ray cluster of a run: started here for its time, or joined at an address."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

# Before the import: Ray reads these once.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}.items():
    os.environ.setdefault(_name, _value)

import ray

from cluster import ray_tasks, ray_train, serving
from cluster.api import Done, TrainLaunch
from cluster.config import RuntimeConfig
from components.models.cpu import ALLOCATOR


class RayCluster:
    """See ``cluster.api.Cluster``. Replicas start with the first shard and stay until the end."""

    def __init__(self, runtime: RuntimeConfig):
        self.runtime = runtime
        self._pool: serving.Pool | None = None
        threads = {"OMP_NUM_THREADS": str(runtime.threads), "TOKENIZERS_PARALLELISM": "false"}
        threads |= {} if runtime.gpus else ALLOCATOR
        if runtime.address:
            ray.init(address=runtime.address, log_to_driver=False, runtime_env={"env_vars": threads})
            return
        # Loopback only: nothing outside this machine can reach the embedded cluster. "local" keeps Ray
        # from joining a cluster that somebody else has, or had, on this machine.
        ray.init(
            address="local",
            num_cpus=runtime.cpus or os.cpu_count(),
            num_gpus=runtime.gpus or None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": threads},
        )

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        return ray_tasks.map_items(work, items, done, self.runtime.max_attempts)

    def train(self, launch: TrainLaunch) -> None:
        self._close_pool()  # its CPUs are wanted by the workers
        ray_train.train(launch)

    def serve(self, kind: str, shards: Sequence[Any], done: Done) -> list[Any]:
        if self._pool is None:
            self._pool = serving.Pool(self.runtime)
        return self._pool.run(kind, shards, done)

    def close(self) -> None:
        self._close_pool()
        ray.shutdown()

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

"""The Ray cluster of a run: started here for its time, or joined at an address."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from cluster import processes, ray_tasks, ray_train, serving
from cluster.cluster import Done, TrainLaunch
from cluster.config import RuntimeConfig
from cluster.environment import Prepared
from components.errors import ConfigError
from components.models.cpu import ALLOCATOR

PATIENCE_S = 5.0
"""How long the processes of an embedded cluster may take to end by themselves."""


class RayCluster:
    """See ``cluster.cluster.Cluster``. Replicas start with the first shard and stay until the end."""

    def __init__(self, runtime: RuntimeConfig, prepared: Prepared):
        self.runtime = runtime
        self.prepared = prepared
        self._pool: serving.Pool | None = None
        self._started: set[processes.Process] = set()
        """The processes of a cluster of our own."""
        # Ray keeps what an earlier cluster of this process was told, and replaces the handler of SIGTERM
        # by one that aborts, so that nothing would be closed.
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        on_sigterm = signal.getsignal(signal.SIGTERM)
        before = processes.children()
        try:
            self._connect()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
            self._see(processes.children() - before)
        except BaseException:
            self._see(processes.children() - before)
            self.close()
            raise

    def _connect(self) -> None:
        runtime = self.runtime
        threads = {"OMP_NUM_THREADS": str(runtime.threads), "TOKENIZERS_PARALLELISM": "false"}
        threads |= {} if runtime.on_gpu else ALLOCATOR
        if runtime.address:
            ray.init(address=runtime.address, log_to_driver=False, runtime_env={"env_vars": threads})
            return
        if ray.util.get_node_ip_address() != "127.0.0.1":
            raise ConfigError(
                "Ray was imported, or started, before this cluster, so it would listen to the whole network instead of "
                "this machine alone. Open the cluster before Ray is imported, or set runtime.address to one that runs."
            )
        # "local" keeps Ray from joining a cluster that somebody else has, or had, on this machine.
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

    def serve(self, shards: Sequence[Any], done: Done) -> list[Any]:
        if self._pool is None:
            self._pool = serving.Pool(self.runtime)
        return self._pool.run(shards, done)

    def close(self) -> None:
        """Leave the cluster; one that was started here is gone afterwards, with every process of it."""
        self._see(self._started)
        try:
            self._close_pool()
        finally:
            ray.shutdown()
            processes.end(self._started, PATIENCE_S)
            self.prepared.close()

    def _see(self, roots: set[processes.Process]) -> None:
        """Remember processes and all below them; those whose parent dies can not be found later."""
        self._started = roots | processes.descendants(p.pid for p in roots if p.lives())

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

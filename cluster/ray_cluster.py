"""The Ray cluster of a run: started here for its time, or joined at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from unittest.mock import patch

import ray
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.util.placement_group import placement_group, remove_placement_group

from cluster import processes, ray_life, ray_tasks, ray_train, serving
from cluster.cluster import Done, Stopped, TrainLaunch, Watcher
from cluster.config import RuntimeConfig
from cluster.environment import Prepared, joined, of_workers, on_loopback
from cluster.ray_tasks import POLL_S, first_line
from components.errors import ClusterError, ConfigError

T = TypeVar("T")

PATIENCE_S = 5.0
"""How long the processes of an embedded cluster may take to end by themselves."""


EXPECTED = re.compile(r"Task ServeController\.\w+ failed\. There are infinite retries remaining")
"""What Ray tells whenever Serve is shut down, in red and on standard output, although nothing failed."""


def tell(data: dict[str, Any], ignore_prefix: bool = True, write: Callable[..., None] = ray_worker.print_to_stdstream) -> None:
    """Ray's own way to tell a driver of errors, to standard error, because standard output holds results."""
    lines = [line for line in data["lines"] if not EXPECTED.search(line)]
    if lines:
        write(data | {"lines": lines, "is_err": True}, ignore_prefix)


ray_worker.print_to_stdstream = tell


def cpus_of(runtime: RuntimeConfig) -> int:
    """CPUs that an embedded cluster says that it has: on a small machine as many as workers and replicas need to start. In a
    container they are those of its limit, since Ray starts a process for each ahead of the work."""
    return runtime.cpus or max(int(ray_utils.get_num_cpus(override_docker_cpu_warning=True)), runtime.workers, runtime.replicas)


@contextlib.contextmanager
def without_daemons() -> Iterator[None]:
    """Have a cluster of our own start without what follows logs, nodes to add, and the dashboard's server: nobody reads
    what they find out, their start takes two seconds, and then replicas need their time."""

    def nothing(node: Any, **options: Any) -> None:
        node._webui_url = ""

    with patch.multiple(Node, start_log_monitor=nothing, start_monitor=nothing, start_api_server=nothing):
        yield


@contextlib.contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Have Ray leave the handler of SIGTERM alone: its own ends the process at once, and a later one aborts it, so that nothing
    would be closed."""
    before = signal.getsignal(signal.SIGTERM)
    with patch.object(ray_utils, "set_sigterm_handler"):
        yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class RayCluster:
    """See ``cluster.cluster.Cluster``. Replicas start with the first shard and stay until the end."""

    def __init__(self, runtime: RuntimeConfig, prepared: Prepared):
        self.runtime = runtime
        self.prepared = prepared
        self._pool: serving.Pool | serving.Served | None = None
        self._serving = 0
        """Stages that use the pool now."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._closing = threading.Event()
        self._started: set[processes.Process] = set()
        """The processes of a cluster of our own."""
        self._lost = ""
        """What the cluster was lost with, where it was."""
        # Ray keeps what an earlier cluster of this process was told.
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        before = processes.children()
        try:
            with keeping_sigterm():
                self._connect()
            self._see(processes.children() - before)
            self._look = ray_life.of_joined() if runtime.address else ray_life.of_own(self._started)
            threading.Thread(target=self._watch, daemon=True, name="watch").start()
        except BaseException:
            self._see(processes.children() - before)
            self.close()
            raise

    def _connect(self) -> None:
        runtime = self.runtime
        if on_loopback(runtime) and ray.util.get_node_ip_address() != "127.0.0.1":
            raise ConfigError(
                "Ray was imported, or started, before this cluster, so it would listen to the whole network, or look there "
                "for a cluster that listens to this machine alone. Open the cluster before Ray is imported."
            )
        if runtime.address:
            if address := joined(runtime):
                ray_life.require_answer(address)
            ray.init(address=runtime.address, log_to_driver=False, runtime_env={"env_vars": of_workers(runtime)})
            return
        # "local" keeps Ray from joining a cluster that somebody else has, or had, on this machine.
        with without_daemons():
            ray.init(
                address="local",
                num_cpus=cpus_of(runtime),
                num_gpus=runtime.gpus or None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        return self.alive(lambda: self._map(work, items, done))

    def train(self, launch: TrainLaunch) -> None:
        self.alive(lambda: self._train(launch))

    def serve(self, shards: Iterable[Any], watcher: Watcher) -> None:
        self.alive(lambda: self._serve(shards, watcher))

    def size(self) -> tuple[float, float]:
        return self.alive(self._size)

    def _map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        self._make_room()
        return ray_tasks.map_items(work, items, done, self.runtime.max_attempts, self._stopped)

    def _train(self, launch: TrainLaunch) -> None:
        self._make_room()
        self._wait_for_room("workers", self.runtime.min_workers or self.runtime.workers)
        ray_train.train(launch, self._stopped)

    def _serve(self, shards: Iterable[Any], watcher: Watcher) -> None:
        shards, number = serving.foreseen(shards, self.runtime)
        with self._lock:
            if isinstance(self._pool, serving.Pool) and self._pool.number < number and not self._serving:
                self._close_pool()
            if self._pool is None:
                if self.runtime.service:
                    self._pool = serving.Served(self.runtime)
                else:
                    self._wait_for_room("replicas", self.runtime.replicas)
                    self._pool = serving.Pool(self.runtime, number)
            pool = self._pool
            self._serving += 1
        try:
            pool.run(shards, watcher)
        finally:
            with self._lock:
                self._serving -= 1

    def _size(self) -> tuple[float, float]:
        found = ray.cluster_resources()
        return float(found.get("CPU", 0)), float(found.get("GPU", 0))

    def alive(self, work: Callable[[], T]) -> T:
        """Raises ClusterError also in place of what the death of processes raises that were tried again in vain."""
        try:
            return ray_life.watched(work, self._stopped)
        except (Stopped, RayTaskError, ConnectionError):
            self.check()
            raise
        except (RayError, RayServeException) as error:
            self._lost = self._lost or self._look()
            self.check()
            raise ClusterError(
                f"Processes of the cluster were lost, and what they did with them, as often as it is tried (runtime.max_attempts "
                f"= {self.runtime.max_attempts}): {first_line(error)}. What was finished stays; run the same command again, and "
                f"it goes on from there. Where it happens again, see whether the machines have memory left (`proseco doctor`), "
                f"and have fewer processes share it (runtime.replicas, runtime.workers, runtime.cpus)."
            ) from error

    def check(self) -> None:
        if self._lost:
            raise ClusterError(
                f"{self._lost}. What was finished stays; run the same command again, and it goes on from there. Where it "
                f"happens again, see whether its machines have memory left (`proseco doctor`)."
            )

    def _watch(self) -> None:
        """Notice when the cluster is lost: what waits for it would wait for ever."""
        while not self._closing.wait(POLL_S):
            if lost := self._look():
                self._lost = lost
                self.stop()
                return

    def _make_room(self) -> None:
        """End replicas that idle: they hold their CPUs all the time."""
        with self._lock:
            if not self._serving:
                self._close_pool()

    def _wait_for_room(self, field: str, number: int) -> None:
        """Wait until so many processes find a CPU each, and a GPU where they need one; a cluster that grows is asked to.

        Raises:
            ClusterError: they do not in time.
        """
        each = {"CPU": 1.0, "GPU": 1.0} if self.runtime.on_gpu else {"CPU": 1.0}
        group = placement_group([each] * number)
        try:
            start = time.monotonic()
            while not group.wait(POLL_S):
                if self._stopped.is_set():
                    raise Stopped
                if time.monotonic() - start > self.runtime.start_wait_s:
                    cpus, gpus = self._size()
                    raise ClusterError(
                        f"runtime.{field} = {number} asks for {number} CPUs{' and GPUs' if self.runtime.on_gpu else ''}, and "
                        f"the cluster, which has {cpus:g} CPUs and {gpus:g} GPUs, gave them to nobody in "
                        f"{self.runtime.start_wait_s:g} s (runtime.start_wait_s). Lower runtime.{field}, or use a larger "
                        f"cluster, or one that is less busy."
                    )
        finally:
            remove_placement_group(group)

    def stop(self) -> None:
        self._stopped.set()
        if self._pool is not None:
            self._pool.closing.set()
        # A training waits for its controller without an end, and is told by the end of it.
        self._see(self._started)
        for process in self._started:
            if ray_train.is_training(processes.command(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave the cluster; one that was started here is gone afterwards, with every process of it."""
        self._closing.set()
        self._see(self._started)
        if self._lost:  # nobody answers any more, and Ray's own complaints of that help nobody
            logging.getLogger("ray").setLevel(logging.CRITICAL)
            processes.end(self._started, 0.0)
            self._pool = None
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

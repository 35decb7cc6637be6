"""Ray Serve replicas that sample and score, and the dispatcher that feeds them whole shards.

One request is one shard of hundreds of rows, so the cost of a call is nothing; what is in flight is
bounded, a lost replica's shard is tried again, and since a shard is published once, under its
receipt, it does not matter how often it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from cluster.aside import aside
from cluster.benches import Benches
from cluster.cluster import Stopped, Watcher
from cluster.config import RuntimeConfig
from cluster.dispatch import Dispatch, pause_s
from cluster.ray_tasks import cause_of
from components.errors import ClusterError
from components.models.cpu import share_of_cpus

APP, REPLICA = "proseco", "replica"
MODEL = "model-"
"""Begins the names of a service's applications, one for each model."""
AT_WORK = 2
"""Shards of a replica at a time."""
STATUS_S = 60.0
"""How long Serve's controller may take to say what there is."""
LOOK_S = 0.1
"""How often it is looked whether the first replicas are there."""
GROW_S = 1.0
"""And how often whether more are."""
PATIENCE_S = 2.0
"""How long a shard is waited for at a time: seldom, because whoever waits takes time from the replicas."""


class Replica:
    """Does shards in threads, off the event loop so that health checks are answered. Several are at work at a time: their
    rows share forwards, so that no lane is idle while the last rows of one end and its table is written."""

    def __init__(self, threads: int, alone: int = 0):
        """
        Args:
            alone: how many replicas there are at most, where nothing else is at work on their machine; 0 where that is
                not known.
        """
        number = serve.get_replica_context().rank.rank
        self.benches = Benches(threads, share_of_cpus(number, alone, threads) if alone else frozenset())

    async def shard(self, shard: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self.benches.do, shard)


def foreseen(shards: Iterable[Any], runtime: RuntimeConfig) -> tuple[Iterable[Any], int]:
    """The shards, and how many replicas they keep at work: at least ``runtime.replicas``, at most ``max_replicas``."""
    stream = iter(shards)
    first = list(itertools.islice(stream, AT_WORK * runtime.most_replicas))
    return itertools.chain(first, stream), max(runtime.replicas, math.ceil(len(first) / AT_WORK))


def applications() -> dict[str, ApplicationStatusOverview]:
    """What Serve runs, by name. Raises ClusterError where its controller hangs."""
    try:
        return aside(serve.status).result(STATUS_S).applications
    except TimeoutError:
        raise ClusterError(
            f"Serve's controller says nothing in {STATUS_S:g} s. Run the same command again; where it happens again, see whether "
            f"the machine of the cluster's head is overloaded, or has no memory left (`proseco doctor`)."
        ) from None


def num_running(app: str) -> int:
    """How many replicas of an application run. Serve's own way to wait for them looks once a second, waits for all, and for
    ever.

    Raises:
        ClusterError: they can not be started, or nobody says.
    """
    found = applications()[app]
    if found.status == ApplicationStatus.DEPLOY_FAILED:
        raise ClusterError(f"The replicas could not be started: {found.message}")
    states = found.deployments[REPLICA].replica_states if REPLICA in found.deployments else {}
    return int(states.get("RUNNING", 0))


def wait_for_replicas(look: Callable[[], int], number: int, start_wait_s: float, closing: threading.Event) -> None:
    """Wait until so many replicas run.

    Raises:
        ClusterError: they can not be started, or do not run after ``start_wait_s``.
        Stopped: ``closing`` was set.
    """
    begun = time.monotonic()
    while (running := look()) < number:
        if closing.wait(LOOK_S):
            raise Stopped
        if time.monotonic() - begun > start_wait_s:
            raise ClusterError(
                f"Of {number} replicas {running} run after {start_wait_s:g} s. See by `proseco doctor` whether the machines have "
                f"memory left for so many models, use fewer replicas, or, for a run, raise runtime.start_wait_s."
            )


class Pool:
    """Replicas of one deployment, held open over many stages.

    All that are wanted are asked for at once; a cluster that grows starts them as it finds room, and the work begins
    with ``runtime.replicas``. Serve's own autoscaling does not see the shards that wait here, and may stay at one for ever.
    """

    def __init__(self, runtime: RuntimeConfig, number: int):
        """
        Args:
            number: replicas that are wanted.
        """
        self.runtime, self.number = runtime, number
        self.running = 0
        """Replicas that were there when it was looked last."""
        self.closing = threading.Event()
        """Set when nothing is to be tried again."""
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            name=REPLICA,
            num_replicas=number,
            max_ongoing_requests=AT_WORK,
            # Shards take minutes on a GPU: the defaults of 20 and 30 s would end replicas at work.
            graceful_shutdown_timeout_s=5,
            health_check_period_s=10,
            health_check_timeout_s=300,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if runtime.on_gpu else 0},
        )(Replica)
        alone = 0 if runtime.address or runtime.on_gpu else number
        target = serve.RunTarget(deployment.bind(runtime.threads, alone), name=APP, route_prefix=None)
        self.handle: DeploymentHandle = serve.run_many([target], wait_for_applications_running=False)[0]
        wait_for_replicas(self.look, runtime.replicas, runtime.start_wait_s, self.closing)
        threading.Thread(target=self._grow, daemon=True, name="grow").start()

    def look(self) -> int:
        """How many replicas run. Raises ClusterError where they can not be started."""
        self.running = num_running(APP)
        return self.running

    def _grow(self) -> None:
        """Notice replicas that start later."""
        while self.running < self.number and not self.closing.wait(GROW_S):
            with contextlib.suppress(RayError, RayServeException, ClusterError, KeyError):  # shards in flight tell of what died
                self.look()

    def run(self, shards: Iterable[Any], watcher: Watcher) -> None:
        """Have all shards done. As many are in flight as replicas take on: one that waits for a place makes the router
        ask them for it all the time, and they have another at work while a new one is on its way."""
        attempt = Attempt(lambda shard: self.handle, self.runtime.max_attempts, self.closing)
        Dispatch(attempt, watcher, lambda: AT_WORK * max(self.running, self.runtime.replicas), self.closing).run(shards)

    def close(self) -> None:
        self.closing.set()
        serve.shutdown()


class Served:
    """The replicas of a service on the cluster that was joined. Their people come first; nothing of them is ours to end."""

    def __init__(self, runtime: RuntimeConfig):
        self.runtime = runtime
        self.closing = threading.Event()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        names = [name for name in applications() if name.startswith(MODEL)]
        self.handles = {self.folder_of(h): h for h in (serve.get_deployment_handle(REPLICA, n) for n in names)}

    def folder_of(self, handle: DeploymentHandle) -> str:
        """The model that replicas have. Raises ClusterError where they say nothing."""
        try:
            return str(handle.folder.remote().result(timeout_s=self.runtime.start_wait_s))
        except TimeoutError:
            raise ClusterError(
                f"The replicas of {handle.app_name} say nothing in {self.runtime.start_wait_s:g} s (runtime.start_wait_s). See "
                f"whether that service answers people, and start it anew where it does not."
            ) from None

    def run(self, shards: Iterable[Any], watcher: Watcher) -> None:
        """Have all shards done. Raises ClusterError where nobody serves their model."""
        attempt = Attempt(self.handle_of, self.runtime.max_attempts, self.closing)
        Dispatch(attempt, watcher, lambda: AT_WORK * self.runtime.most_replicas, self.closing).run(shards)

    def handle_of(self, shard: Any) -> DeploymentHandle:
        handle = self.handles.get(str(shard.model))
        if handle is None:
            served = ", ".join(self.handles) or "none"
            raise ClusterError(
                f"runtime.service = true asks for the replicas of a service of {shard.model}, and this cluster serves "
                f"{served}. Start `proseco serve {shard.model}` there, or leave runtime.service out."
            )
        return handle

    def close(self) -> None:
        self.closing.set()


@dataclass(frozen=True)
class Attempt:
    """Does one shard on a replica, and again with growing, jittered pauses where that was lost. See ``dispatch.Work``."""

    handle_of: Callable[[Any], DeploymentHandle]
    max_attempts: int
    closing: threading.Event

    def __call__(self, shard: Any, again: Callable[[str], None]) -> Any:
        for attempt in itertools.count(1):
            try:
                return self.wait(self.handle_of(shard).shard.remote(shard))
            except RayTaskError as error:
                raise cause_of(error) from None
            except (RayError, RayServeException) as error:
                if attempt == self.max_attempts or self.closing.wait(pause_s(attempt)):
                    raise
                again(type(error).__name__)
        raise AssertionError("the last attempt returns or raises")

    def wait(self, response: Any) -> Any:
        """The receipt. A shard that nobody waits for any more is given up."""
        while True:
            try:
                return response.result(timeout_s=PATIENCE_S)
            except TimeoutError:
                if self.closing.is_set():
                    response.cancel()
                    raise Stopped from None

"""Ray Serve replicas that sample and score, and the dispatcher that feeds them whole shards.

One request is one shard of hundreds of rows, so the cost of a call is nothing; what is in flight is
bounded, a lost replica's shard is tried again, and since a shard is published once, under its
receipt, it does not matter how often it was made.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.benches import Benches
from cluster.cluster import Stopped, Watcher
from cluster.config import RuntimeConfig
from cluster.dispatch import Dispatch, pause_s
from cluster.ray_tasks import cause_of
from components.errors import ClusterError
from components.models.cpu import share_of_cpus

APP = "proseco"
MODEL = "model-"
"""Begins the names of a service's applications, one for each model."""
AT_WORK = 2
"""Shards of a replica at a time."""
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


def scale(runtime: RuntimeConfig) -> dict[str, Any]:
    """How many replicas there are. Where they may grow, the shards in flight say how many: as many as there is room for
    while shards remain, and fewer at the end. One at work asks for a replica, although each takes on several: shards that
    wait are not counted while a replica turns them away."""
    if not runtime.max_replicas:
        return {"num_replicas": runtime.replicas}
    limits = {"min_replicas": runtime.replicas, "max_replicas": runtime.most_replicas, "target_ongoing_requests": 1}
    return {"autoscaling_config": limits | {"upscale_delay_s": 5, "downscale_delay_s": 60}}


class Pool:
    """Replicas of one deployment, held open over many stages."""

    def __init__(self, runtime: RuntimeConfig):
        self.runtime = runtime
        self.closing = threading.Event()
        """Set when nothing is to be tried again."""
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            name="replica",
            **scale(runtime),
            max_ongoing_requests=AT_WORK,
            # Shards take minutes on a GPU: the defaults of 20 and 30 s would end replicas at work.
            graceful_shutdown_timeout_s=5,
            health_check_period_s=10,
            health_check_timeout_s=300,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if runtime.on_gpu else 0},
        )(Replica)
        alone = 0 if runtime.address or runtime.on_gpu else runtime.most_replicas
        self.handle: DeploymentHandle = serve.run(deployment.bind(runtime.threads, alone), name=APP, route_prefix=None)

    def run(self, shards: Iterable[Any], watcher: Watcher) -> None:
        """Have all shards done. As many are in flight as replicas take on: one that waits for a place makes the router
        ask them for it all the time, and they have another at work while a new one is on its way."""
        attempt = Attempt(lambda shard: self.handle, self.runtime.max_attempts, self.closing)
        Dispatch(attempt, watcher, AT_WORK * self.runtime.most_replicas, self.closing).run(shards)

    def close(self) -> None:
        self.closing.set()
        serve.shutdown()


class Served:
    """The replicas of a service on the cluster that was joined. Their people come first; nothing of them is ours to end."""

    def __init__(self, runtime: RuntimeConfig):
        self.runtime = runtime
        self.closing = threading.Event()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        names = [name for name in serve.status().applications if name.startswith(MODEL)]
        self.handles = {h.folder.remote().result(): h for h in (serve.get_deployment_handle("replica", n) for n in names)}

    def run(self, shards: Iterable[Any], watcher: Watcher) -> None:
        """Have all shards done. Raises ClusterError where nobody serves their model."""
        attempt = Attempt(self.handle_of, self.runtime.max_attempts, self.closing)
        Dispatch(attempt, watcher, AT_WORK * self.runtime.most_replicas, self.closing).run(shards)

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

"""Ray Serve replicas that sample and score, and the dispatcher that feeds them whole shards.

One request is one shard of hundreds of rows, so the cost of a call is nothing; what is in flight is
bounded, a lost replica's shard is tried again, and since a shard is published once, under its
receipt, it does not matter how often it was made.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.cluster import Watcher
from cluster.config import RuntimeConfig
from cluster.dispatch import Dispatch, pause_s
from cluster.ray_tasks import cause_of
from cluster.worker import do_shard

APP = "proseco"


class Replica:
    """Does shards one at a time, off the event loop so that health checks are answered."""

    def __init__(self, threads: int):
        self.threads = threads

    async def shard(self, shard: Any) -> dict[str, Any]:
        return await asyncio.to_thread(do_shard, shard, self.threads)


def scale(runtime: RuntimeConfig) -> dict[str, Any]:
    """How many replicas there are. Where they may grow, the shards in flight say how many: as many as there is room for
    while shards remain, and fewer at the end."""
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
            max_ongoing_requests=1,
            # Shards take minutes on a GPU: the defaults of 20 and 30 s would end replicas at work.
            graceful_shutdown_timeout_s=5,
            health_check_period_s=10,
            health_check_timeout_s=300,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if runtime.on_gpu else 0},
        )(Replica)
        self.handle: DeploymentHandle = serve.run(deployment.bind(runtime.threads), name=APP, route_prefix=None)

    def run(self, shards: Iterable[Any], watcher: Watcher) -> None:
        """Have all shards done. One more than there are replicas is in flight, so that none of them waits."""
        Dispatch(self._attempt, watcher, self.runtime.most_replicas + 1, self.closing).run(shards)

    def _attempt(self, shard: Any, again: Callable[[str], None]) -> Any:
        """One shard, tried again with growing, jittered pauses when its replica was lost."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self.handle.shard.remote(shard).result()
            except RayTaskError as error:
                raise cause_of(error) from None
            except (RayError, RayServeException) as error:
                if attempt == self.runtime.max_attempts or self.closing.wait(pause_s(attempt)):
                    raise
                again(type(error).__name__)

    def close(self) -> None:
        self.closing.set()
        serve.shutdown()

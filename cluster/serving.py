"""Ray Serve replicas that sample and score, and the dispatcher that feeds them whole shards.

One request is one shard of hundreds of rows, so the cost of a call is nothing; what is in flight is
bounded, a lost replica's shard is tried again, and since a shard is published once, under its
receipt, it does not matter how often it was made.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.cluster import Done, Stopped
from cluster.config import RuntimeConfig
from cluster.ray_tasks import POLL_S, cause_of
from cluster.worker import do_shard

APP = "proseco"


class Replica:
    """Does shards one at a time, off the event loop so that health checks are answered."""

    def __init__(self, threads: int):
        self.threads = threads

    async def shard(self, shard: Any) -> dict[str, Any]:
        return await asyncio.to_thread(do_shard, shard, self.threads)


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
            num_replicas=runtime.replicas,
            max_ongoing_requests=1,
            # Shards take minutes on a GPU: the defaults of 20 and 30 s would end replicas at work.
            graceful_shutdown_timeout_s=5,
            health_check_period_s=10,
            health_check_timeout_s=300,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if runtime.on_gpu else 0},
        )(Replica)
        self.handle: DeploymentHandle = serve.run(deployment.bind(runtime.threads), name=APP, route_prefix=None)

    def run(self, shards: Sequence[Any], done: Done) -> list[Any]:
        """Receipts in the order of the shards. One shard more than there are replicas is in flight,
        so that none of them waits."""
        return dispatch(self._attempt, shards, self.runtime.replicas + 1, done, self.closing)

    def _attempt(self, shard: Any) -> Any:
        """One shard, tried again with growing, jittered pauses when its replica was lost."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self.handle.shard.remote(shard).result()
            except RayTaskError as error:
                raise cause_of(error) from None
            except (RayError, RayServeException):
                if attempt == self.runtime.max_attempts or self.closing.wait(random.uniform(0.5, 1.0) * 2**attempt):
                    raise

    def close(self) -> None:
        self.closing.set()
        serve.shutdown()


def dispatch(
    work: Callable[[Any], Any], items: Sequence[Any], width: int, done: Done, stopped: threading.Event
) -> list[Any]:
    """Results in the order of the items, ``width`` of them in flight at a time.

    What ends the caller, such as Ctrl-C, is not kept waiting for what is in flight.

    Raises:
        Stopped: ``stopped`` was set.
    """
    results: list[Any] = [None] * len(items)
    queue = iter(enumerate(items))
    threads = ThreadPoolExecutor(width, thread_name_prefix="dispatch")
    try:
        in_flight = {threads.submit(work, item): number for number, item in islice(queue, width)}
        while in_flight:
            finished, _ = wait(in_flight, POLL_S, FIRST_COMPLETED)
            if stopped.is_set():
                raise Stopped
            for future in finished:
                number = in_flight.pop(future)
                results[number] = future.result()
                done(number, results[number])
                in_flight |= {threads.submit(work, item): number for number, item in islice(queue, 1)}
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return results

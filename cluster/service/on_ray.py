"""Replicas as deployments of Ray Serve, one deployment a model, reached by handles and not through Serve's proxy."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.config import RuntimeConfig
from cluster.ray_tasks import cause_of
from cluster.replicas import Replicas
from cluster.service.backend import Job, ReplicaNumbers
from cluster.service.limits import ServiceLimits
from cluster.service.replica import Replica
from cluster.serving import MODEL, REPLICA, num_running, wait_for_replicas
from cluster.shared_engine import Busy, News

NUMBERS_S = 2.0
NUMBERS = itertools.count()
"""Serve's applications are numbered, because the same model may be served by two for a while."""


class OnRay:
    """The replicas of one model. See ``cluster.service.backend.Backend``."""

    def __init__(self, folder: Path, replicas: Replicas, limits: ServiceLimits):
        self.folder, self.replicas, self.limits = folder, replicas, limits
        self.app = f"{MODEL}{next(NUMBERS)}"
        """What Serve calls it."""
        self.handle: DeploymentHandle | None = None
        """None until they have started."""

    @property
    def num_replicas(self) -> int:
        return self.replicas.count

    def start(self) -> None:
        """Start the replicas; returns when they answer."""
        self.handle = deploy(self.app, self.folder, self.replicas, self.limits)

    def end(self) -> None:
        """End the replicas, with what they are at."""
        self.handle = None
        serve.delete(self.app)

    @property
    def started(self) -> DeploymentHandle:
        if self.handle is None:
            raise Busy("The model is still being loaded. Ask again in a moment.")
        return self.handle

    async def sample(self, job: Job) -> AsyncGenerator[list[News], None]:
        response = self.started.options(stream=True).sample.remote(job)
        try:
            async for news in response:
                yield news
        except (RayError, RayServeException) as error:
            raise told(error) from error
        finally:
            response.cancel()

    async def score(self, texts: Sequence[str], scorers: Sequence[str]) -> dict[str, list[float]]:
        response = self.started.score.remote(texts, scorers)
        try:
            columns: dict[str, list[float]] = await response
        except (RayError, RayServeException) as error:
            raise told(error) from error
        finally:
            response.cancel()
        return columns

    async def numbers(self) -> list[ReplicaNumbers]:
        if self.handle is None:
            return []
        found = await self.handle.broadcast("numbers").results_async(timeout_s=NUMBERS_S, return_exceptions=True)
        return [numbers for told in found if not isinstance(told, BaseException) for numbers in told]

    async def ready(self) -> bool:
        return self.handle is not None and bool(await self.handle.ready.remote())


def told(error: Exception) -> Exception:
    """What an error of Ray means to whoever asked."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, TimeoutError) else cause_of(error)
    return Busy("The replica was lost, or is overrun. The same request gives the same rows: ask again in a moment.")


def deploy(app: str, folder: Path, replicas: Replicas, limits: ServiceLimits) -> DeploymentHandle:
    """Start the replicas of one model; returns when they answer.

    Raises:
        ClusterError: they can not be started, or are not after a while.
    """
    deployment = serve.deployment(
        name=REPLICA,
        # What is at work is bounded by the application; Serve's own bounds are behind it.
        max_ongoing_requests=2 * limits.max_requests + 16,
        max_queued_requests=2 * limits.max_requests,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=10,
        health_check_timeout_s=60,
        **replicas.wanted(),
    )(Replica)
    bound = deployment.bind(str(folder), replicas.placement, replicas.threads, limits)
    target = serve.RunTarget(bound, name=app, route_prefix=None)
    handle = serve.run_many([target], wait_for_applications_running=False)[0]
    wait_for_replicas(lambda: num_running(app), replicas.count, RuntimeConfig.start_wait_s, threading.Event())
    return handle


def start() -> None:
    """Serve without its proxy."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled")


def how_to_join(limits: ServiceLimits) -> str:
    """What a batch job of the same user is given to run on these replicas."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    environment = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    address = ray.get_runtime_context().gcs_address
    options = [f"runtime.address={address}", "runtime.service=true", f"generate.lanes={limits.forward_lanes}"]
    return " ".join([*environment, "proseco generate EXPORT", *options])


def shutdown() -> None:
    serve.shutdown()

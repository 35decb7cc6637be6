"""A replica: one model, and one engine for all who want rows of it."""

from __future__ import annotations

import asyncio
import os
import platform
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from cluster.service.backend import Job, ReplicaNumbers
from cluster.service.limits import ServiceLimits
from cluster.service.model import useful
from cluster.service.planning import vocabulary_of
from cluster.shared_engine import News, SharedEngine
from components.api import load, score
from components.models.cpu import use_threads
from components.models.denoiser import Prediction
from components.models.device import Placement
from components.samplers.config import SamplerConfig
from components.samplers.contract import Row, Sample
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler
from components.scorers.base import ScorerSetting
from components.shards.reward import reward_of

OVERTIME_S = 5.0
"""How long after its deadline a job is dropped here, if whoever asked for it did not do so."""


class Metered:
    """A network that counts its forwards."""

    def __init__(self, network: Any):
        self.network, self.forwards, self.lanes = network, 0, 0

    def __call__(self, tokens: Any, **given: Any) -> Prediction:
        self.forwards += 1
        self.lanes += len(tokens)
        said: Prediction = self.network(tokens, **given)
        return said


class Replica:
    """See ``cluster.service.backend.Backend``, which one replica is by itself."""

    num_replicas = 1

    def __init__(self, folder: str, placement: Placement, threads: int, limits: ServiceLimits):
        self.limits, self.threads, self.shards = limits, threads, 0
        self.model = load(folder, placement.device, placement.dtype)
        self.network = Metered(self.model.network)
        self.setting = ScorerSetting(self.model.tokenizer, None, self.model.network, {}, device=self.model.device)
        set_up = partial(use_threads, threads)
        self.engine = SharedEngine(Engine(self.open_session), set_up, limits.max_rows, self.useful)
        self.scoring = ThreadPoolExecutor(1, "scores", set_up)

    def open_session(self, config: SamplerConfig, length: int) -> Session:
        return Session(
            self.network,
            build_sampler(config, vocabulary_of(self.model.tokenizer), self.model.extras),
            length,
            num_lanes=self.limits.max_lanes,
            device=self.model.device,
            reward=reward_of(config, self.setting),
            forward_lanes=self.limits.forward_lanes,
            max_bytes=self.limits.max_lanes_bytes,
        )

    def useful(self, row: Row, sample: Sample) -> int:
        return useful(self.model.tokenizer, sample.tokens, row.fixed)[0]

    async def sample(self, job: Job) -> AsyncGenerator[list[News], None]:
        found = self.engine.sample(job.sampler, job.rows, job.watched, job.deadline_s + OVERTIME_S)
        try:
            async for news in found:
                yield news
        finally:
            await found.aclose()

    async def score(self, texts: Sequence[str], scorers: Sequence[str]) -> dict[str, list[float]]:
        """One request at a time; who leaves while waiting is not scored."""
        return await asyncio.get_running_loop().run_in_executor(self.scoring, score, self.model, texts, scorers)

    async def shard(self, shard: Any) -> Any:
        """Batch work: ``shard.work(run)``, whose rows have the lanes that people leave."""
        stop = threading.Event()
        try:
            receipt = await asyncio.to_thread(shard.work, partial(self.engine.run, stop=stop))
        finally:
            stop.set()
        self.shards += 1
        return receipt

    async def numbers(self) -> list[ReplicaNumbers]:
        engine, now = self.engine.numbers, time.monotonic()
        ages = [0.0 if since is None else now - since for since in engine.since]
        name, network = f"{platform.node()}-{os.getpid()}", self.network
        return [ReplicaNumbers(name, engine, (ages[0], ages[1]), network.forwards, network.lanes, self.shards)]

    async def ready(self) -> bool:
        return self.engine.alive

    def check_health(self) -> None:
        """Asked by Serve, which starts a replica anew that raises."""
        if not self.engine.alive:
            raise RuntimeError("the engine's thread has ended")

    def close(self) -> None:
        self.scoring.shutdown(wait=False, cancel_futures=True)
        self.engine.close()

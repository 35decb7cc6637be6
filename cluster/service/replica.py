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
from cluster.shared_engine import News, SharedEngine
from components.api import load, score
from components.errors import ConfigError, Problem
from components.models.cpu import use_threads
from components.models.device import Placement
from components.samplers.config import SamplerConfig
from components.samplers.contract import Row, Sample
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler
from components.scorers.base import ScorerSetting
from components.shards.model import Metered, vocabulary_of
from components.shards.reward import reward_of
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard

OVERTIME_S = 5.0
"""How long after its deadline a job is dropped here, if whoever asked for it did not do so."""


class Replica:
    """See ``cluster.service.backend.Backend``, which one replica is by itself."""

    num_replicas = 1

    def __init__(self, folder: str, placement: Placement, threads: int, limits: ServiceLimits):
        self.limits, self.threads, self.shards = limits, threads, 0
        self.exported, self.placement = folder, placement
        self.model = load(folder, placement.device, placement.dtype)
        self.network = Metered(self.model.network)
        self.setting = ScorerSetting(self.model.tokenizer, None, self.model.network, {}, device=self.model.device)
        set_up = partial(use_threads, threads)
        self.engine = SharedEngine(Engine(self.open_session, sizes=self.model.sizes), set_up, limits.max_rows, self.useful)
        self.scoring = ThreadPoolExecutor(1, "scores", set_up)

    def open_session(self, config: SamplerConfig, length: int) -> Session:
        network = self.model.network
        return Session(
            self.network,
            build_sampler(config, vocabulary_of(self.model.tokenizer), self.model.extras),
            length,
            num_lanes=self.limits.max_lanes,
            device=self.model.device,
            reward=reward_of(config, self.setting),
            forward_lanes=self.limits.forward_lanes,
            max_bytes=self.limits.max_lanes_bytes,
            row_bytes=network.config.kept_bytes(length, network.embed.weight.element_size()) if config.blocks.cache else 0,
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

    async def folder(self) -> str:
        """Of the model."""
        return self.exported

    async def shard(self, shard: SampleShard | ScoreShard) -> Any:
        """A shard of a batch job. Its rows have the lanes that people leave; scores wait for those of people.

        Raises:
            ConfigError: its rows would not be those that it asks for.
        """
        if isinstance(shard, ScoreShard):
            return await asyncio.get_running_loop().run_in_executor(self.scoring, shard.work)
        self.require_equal(shard)
        stop = threading.Event()
        try:
            receipt = await asyncio.to_thread(shard.work, partial(self.engine.run, stop=stop))
        finally:
            stop.set()
        self.shards += 1
        return receipt

    def require_equal(self, shard: SampleShard) -> None:
        """Raises ConfigError where forwards are made here in another way than a shard's identity says."""
        lanes, dtype = self.limits.forward_lanes, self.placement.dtype
        if shard.sampling.num_lanes != lanes or not shard.sampling.deterministic:
            rule = f"{lanes}, and generate.deterministic=true, on this service (limits.forward_lanes)"
            problem = Problem("generate.lanes", shard.sampling.num_lanes, rule, f"set generate.lanes={lanes}")
            raise ConfigError([problem])
        if shard.placement.dtype != dtype:
            remedy = f"set --dtype {dtype}, or serve with --dtype {shard.placement.dtype}"
            raise ConfigError([Problem("runtime.dtype", shard.placement.dtype, f"{dtype} on this service", remedy)])

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

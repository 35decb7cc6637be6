"""The engines of a process that does shards: one for each model and way of making forwards, shared by its shards."""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cluster.shared_engine import SharedEngine
from components.models.cpu import keep_to, use_threads
from components.samplers.config import SamplerConfig
from components.shards.model import Metered, engine_of, loaded
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard

KEPT = 4
"""Engines that stay open; as many as models that stay loaded."""


@dataclass
class Bench:
    """An engine, and the network whose forwards it makes."""

    engine: SharedEngine
    network: Metered
    users: int = 0
    """Shards that are at work with it."""
    told: int = 0
    """Lanes that an account has already."""

    def lanes(self) -> int:
        """Inputs of the forwards since this was asked last, by whichever shard."""
        now = self.network.lanes
        found, self.told = now - self.told, now
        return found


class Benches:
    """Does shards, from several threads at once."""

    def __init__(self, threads: int, cpus: frozenset[int] = frozenset()):
        """
        Args:
            cpus: that engines keep to; any where none are given.
        """
        self.threads, self.cpus = threads, cpus
        self.lock = threading.Lock()
        self.scoring = threading.Lock()
        self.open: OrderedDict[bytes, Bench] = OrderedDict()

    def do(self, shard: SampleShard | ScoreShard) -> dict[str, Any]:
        """One shard; its receipt."""
        use_threads(self.threads)
        if isinstance(shard, ScoreShard):
            with self.scoring:  # two at once would each wait for the other's threads
                return shard.work()
        with self.bench(shard) as bench:
            return shard.work(bench.engine.run, bench.lanes)

    def settle(self) -> None:
        """Set up the thread of an engine."""
        keep_to(self.cpus)
        use_threads(self.threads)

    @contextmanager
    def bench(self, shard: SampleShard) -> Iterator[Bench]:
        """The engine for a shard, around its model; open at least as long as the block."""
        plain = replace(shard.sampling, sampler=SamplerConfig())
        key = pickle.dumps((shard.model, shard.placement, plain))
        with self.lock:
            if key not in self.open:
                model = loaded(shard.model, shard.placement)
                network = Metered(model.network)
                engine = SharedEngine(engine_of(model, plain, network), self.settle)
                self.open[key] = Bench(engine, network)
            bench = self.open[key]
            bench.users += 1
            self.open.move_to_end(key)
        try:
            yield bench
        finally:
            with self.lock:
                bench.users -= 1
                for other, unused in list(self.open.items()):  # those that nobody used for longest first
                    if len(self.open) > KEPT and not unused.users:
                        self.open.pop(other).engine.close()

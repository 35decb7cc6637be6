"""What stages share that are made shard by shard: a shard with a receipt is not made again.

All that is known of a job lies in the store: tables and receipts, and the journal that says how it goes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shards.account import Account
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard
from components.store.artifact import IDENTITY
from components.store.files import read_json
from components.store.samples import finished_shard
from components.tracking import JOURNAL, JsonlTracker
from pipelines.graph.stage import Context

TOLD_EVERY_S = 2.0

Shard = SampleShard | ScoreShard


@dataclass
class Made:
    """How far a job is. Follows its shards (``cluster.cluster.Watcher``)."""

    context: Context
    number: int
    """Shards of the whole job."""
    finished: int = 0
    account: Account = field(default_factory=Account)
    """Of all shards that are finished, by whomever."""
    retries: int = 0
    reissues: int = 0
    begun: float = field(default_factory=time.monotonic)
    """When replicas were there and the first shard was asked for."""
    here: Account = field(default_factory=Account)
    """Of those that were made by this execution."""
    finished_here: int = 0
    told: float = -math.inf

    def __post_init__(self) -> None:
        self.tracker = JsonlTracker(self.context.folder / JOURNAL, self.context.fence.check)
        self.context.progress.total(self.number, "shards")

    @property
    def rows_per_s(self) -> float:
        """Of this execution."""
        return self.here.rows / max(1e-9, time.monotonic() - self.begun)

    def begins(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards, and a note of when they begin."""
        self.begun = time.monotonic()
        yield from shards

    def found(self, receipt: dict[str, Any]) -> None:
        """A shard that was made before."""
        self.account += Account.read(receipt["account"])
        self.finished += 1

    def done(self, number: int, receipt: dict[str, Any]) -> None:
        self.found(receipt)
        self.here += Account.read(receipt["account"])
        self.finished_here += 1
        self.context.progress.to(self.finished)

    def retried(self, number: int, why: str) -> None:
        self.retries += 1
        self.context.progress.say(f"a shard is tried again: {why}")

    def reissued(self, number: int) -> None:
        self.reissues += 1
        self.context.progress.say("a shard takes unusually long; another replica does it as well")

    def waits(self, in_flight: int, oldest_s: float) -> None:
        now = time.monotonic()
        if now - self.told < TOLD_EVERY_S and self.finished < self.number:
            return
        self.told, passed_s = now, now - self.begun
        self.tracker.metrics(
            {
                "shards": self.number,
                "rows": self.account.rows,
                "quarantined": self.account.quarantined,
                "rows_per_s": self.rows_per_s,
                "corrections_per_s": self.here.edits / passed_s,
                **({"left_s": (self.number - self.finished) * passed_s / self.finished_here} if self.finished_here else {}),
                "in_flight": in_flight,
                "queue_age_s": oldest_s,
                "retries": self.retries,
                "reissued": self.reissues,
                **self.here.rates(),
            },
            self.finished,
        )


def make_shards(shards: Iterable[Shard], names: Sequence[str], context: Context) -> Made:
    """Have replicas make all shards that are not there yet.

    Args:
        names: of all shards.
    """
    made = Made(context, len(names))
    there = set()
    for name in names:
        receipt = finished_shard(context.folder / "shards", name)
        if receipt is not None:
            there.add(name)
            made.found(receipt)
    context.progress.to(made.finished)
    if made.finished < made.number:
        context.cluster().serve(made.begins(s for s in shards if s.name not in there), made)
    return made


def trained_scorers(context: Context) -> dict[str, Path]:
    """Folders of the scorers that were trained for this stage, by name."""
    return {role.removeprefix("fit_"): p for role, p in context.inputs.items() if role.startswith("fit_")}


def key_of(context: Context, role: str) -> str:
    """What an input is known by."""
    return str(read_json(context.folder / IDENTITY)["identity"]["inputs"][role])

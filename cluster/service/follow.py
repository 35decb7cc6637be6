"""Serve the champion of a nightly run, whoever it is: a new one is started beside the old one, tried on its own, then on
a share of the requests, and takes over where nothing of it failed. The old one answers until then, and what it has begun.

A version that is refused is told of and not tried again until the history says something else. A step back is a change of
the champion like any other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.service.backend import Backend, Job
from cluster.service.limits import ServiceLimits
from cluster.service.model import ServedModel, open_model
from cluster.service.shelf import Shelf
from cluster.service.work import samples_of
from components.errors import StoreError
from components.samplers import preset
from components.shards.canvas import canvas
from components.shards.prompt import Prompt
from components.store.artifact import require_unchanged
from components.store.files import exists
from components.store.history import FOLDER, History, read_history

PROBES = 4
"""Rows that a version makes before anybody is sent to it."""
DRAIN_POLL_S = 0.5


def is_history(folder: Path) -> bool:
    """Is it the folder of a nightly run's history, and no export?"""
    return folder.parent.name == FOLDER and not exists(folder / "config.json")


def history_at(folder: Path) -> History:
    """Raises StoreError where there is no champion yet."""
    history = read_history(folder.parent.parent, folder.name)
    if not history.champion:
        raise StoreError(
            f"{folder} names no champion yet, so there is nothing to serve. Make a night first: `proseco nightly RUN`."
        )
    return history


@dataclass
class Follower:
    """What one name of the service is served from, looked at again and again."""

    name: str
    folder: Path
    """Of the history."""
    shelf: Shelf
    start: Callable[[Path], Backend]
    """Starts replicas of an export; returns when they answer."""
    end: Callable[[Any], None]
    limits: ServiceLimits
    say: Callable[[str], None]
    stop: threading.Event
    served: str
    """Key of the champion that is served."""
    refused: set[tuple[int, str]] = field(default_factory=set)
    """Length of the history, and champion."""

    def follow(self) -> None:
        """Look until told to stop. What can not be read now may be the next time."""
        while not self.stop.wait(self.limits.follow_s):
            try:
                self.look()
            except Exception as error:  # whatever it is, the old version goes on
                self.say(f"{self.name}: {self.folder} was not followed: {error}")

    def look(self) -> None:
        """Have the champion served, if it is not."""
        history = history_at(self.folder)
        key, state = history.champion, (len(history.entries), history.champion)
        if key == self.served or state in self.refused:
            return
        self.say(f"{self.name}: {key} is champion in place of {self.served}; it is started")
        backend: Backend | None = None
        try:
            folder = history.export(key)
            require_unchanged(folder)
            backend = self.start(folder)
            model = open_model(self.name, folder, backend, int(time.time()))
            asyncio.run(probe(model, self.limits))
        except Exception as error:
            self.refuse(state, f"it can not be started ({error})", backend)
            self.shelf.outcomes[self.name, "refused"] += 1
            return
        counted = self.shelf.try_out(model, self.limits.trial_share)
        begun = time.monotonic()
        while not counted.failed and time.monotonic() - begun < self.limits.trial_s:
            if self.stop.wait(min(0.1, self.limits.trial_s)):
                return
        left = self.shelf.settle(model, not counted.failed)
        if counted.failed:
            why = f"{counted.failed} of {counted.failed + counted.answered} requests failed"
            self.refuse(state, why, left.backend)
            return
        self.served = key
        self.say(f"{self.name}: {key} is served, after {counted.answered} requests on trial")
        self.drain(left.backend)

    def refuse(self, state: tuple[int, str], why: str, backend: Backend | None) -> None:
        self.refused.add(state)
        self.say(f"{self.name}: {state[1]} was refused, because {why}; {self.served} is still served. See `proseco rollback`.")
        if backend is not None:
            self.end(backend)

    def drain(self, backend: Backend) -> None:
        """End replicas when they have answered what they have begun, or after the grace."""
        begun = time.monotonic()
        while time.monotonic() - begun < self.limits.grace_s and not self.stop.wait(DRAIN_POLL_S):
            if not asyncio.run(at_work(backend)):
                break
        self.end(backend)


async def at_work(backend: Backend) -> int:
    """Rows of people that have not ended."""
    return int(sum(n.engine.waiting[0] + n.engine.running[0] for n in await backend.numbers()))


async def probe(model: ServedModel, limits: ServiceLimits) -> None:
    """Have a version make some rows. Raises ApiError where it fails, StoreError where they are not written to the end."""
    length = min(int(model.info["length"]), limits.max_length)
    mask = model.tokenizer.mask_id
    rows = tuple(canvas(Prompt(number, (), None), length, mask, seed=0) for number in range(PROBES))
    made = await samples_of(model.backend, Job(preset(model.default_sampler), rows, False, limits.deadline_s))
    if any(mask in sample.tokens for sample in made):
        raise StoreError(f"{model.version} left positions of a row unwritten.")

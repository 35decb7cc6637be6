"""The models of a service by name, and a version on trial beside one of them, which a share of its requests goes to.

A request is of one version from its first check to its last event, because each version brings its own tokenizer, shape
and replicas along.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from cluster.service.backend import Backend, Job, ReplicaNumbers
from cluster.service.model import ServedModel
from cluster.shared_engine import Busy, News
from components.errors import ProsecoError


@dataclass
class OnTrial:
    """Replicas whose requests are counted. See ``cluster.service.backend.Backend``."""

    backend: Backend
    answered: int = 0
    failed: int = 0

    @property
    def num_replicas(self) -> int:
        return self.backend.num_replicas

    async def sample(self, job: Job) -> AsyncGenerator[list[News], None]:
        try:
            async for news in self.backend.sample(job):
                self.failed += sum(isinstance(found.outcome, BaseException) for found in news)
                yield news
            self.answered += 1
        except (Busy, GeneratorExit):  # there was no room, or the client left
            raise
        except Exception:
            self.failed += 1
            raise

    async def score(self, texts: Sequence[str], scorers: Sequence[str]) -> dict[str, list[float]]:
        try:
            found = await self.backend.score(texts, scorers)
        except (Busy, ProsecoError):
            raise
        except Exception:
            self.failed += 1
            raise
        self.answered += 1
        return found

    async def numbers(self) -> list[ReplicaNumbers]:
        return await self.backend.numbers()

    async def ready(self) -> bool:
        return await self.backend.ready()


@dataclass
class Place:
    """What is served under one name."""

    model: ServedModel
    trial: ServedModel | None = None
    share: float = 0.0
    """Of the requests, for the version on trial."""
    turn: Iterator[int] = field(default_factory=itertools.count)


class Shelf:
    """All models of a service. Written by whoever brings versions, read by the application."""

    def __init__(self, models: Sequence[ServedModel]):
        self.places = {model.name: Place(model) for model in models}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Trials that have ended, by name and ``taken`` or ``refused``."""

    def __contains__(self, name: str) -> bool:
        return name in self.places

    @property
    def names(self) -> list[str]:
        return list(self.places)

    def pick(self, name: str) -> ServedModel:
        """The version for a request."""
        place = self.places[name]
        trial, share = place.trial, place.share
        if trial is None:
            return place.model
        turn = next(place.turn)
        return trial if int(turn * share) > int((turn - 1) * share) else place.model

    def current(self) -> list[ServedModel]:
        """The models without those on trial."""
        return [place.model for place in self.places.values()]

    def all(self) -> list[ServedModel]:
        """All versions."""
        return self.current() + [place.trial for place in self.places.values() if place.trial is not None]

    def try_out(self, model: ServedModel, share: float) -> OnTrial:
        """Send a share of the requests for a name to another version."""
        place, counted = self.places[model.name], OnTrial(model.backend)
        place.share, place.turn = share, itertools.count(1)
        place.trial = dataclasses.replace(model, backend=counted)
        return counted

    def settle(self, model: ServedModel, taken: bool) -> ServedModel:
        """End a trial. Returns the version that nobody is sent to any more."""
        place = self.places[model.name]
        left = place.model if taken else model
        if taken:
            place.model = model
        place.trial = None
        self.outcomes[model.name, "taken" if taken else "refused"] += 1
        return left

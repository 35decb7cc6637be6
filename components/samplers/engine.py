"""The engine: sessions by sampler and length, the rows that wait for lanes in them, and whose turn it is.

Rows of people are given lanes first and step in every round; rows of batch jobs have sessions of their own, which step
in every round where there are no people and in every ``BATCH_EVERY``-th where there are. So neither waits for the
other's rows to end, and none of them for ever. Within one priority rows are admitted in the order in which they came:
where as many sessions are open as there may be, nobody who came later is admitted before the one who waits for a
session.

Sessions of one length share forwards, too: samplers of other budgets ask the same network. An error is its row's
alone: where a step fails, its rows are run again from their start, each in a session of its own, and only one that
fails there ends with the error. Rows do not depend on their company, so the others are what they would have been.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from components.errors import SamplingError
from components.samplers.config import SamplerConfig
from components.samplers.contract import Answer, Query, Row, Sample
from components.samplers.forward import answer, measure
from components.samplers.joint import Manner, joined, manner, parted
from components.samplers.session import Session
from components.samplers.sizes import Sizes
from components.samplers.trace import Held, Watch

__all__ = ["BATCH", "PEOPLE", "Engine", "Session"]

PEOPLE, BATCH = 0, 1
"""Priorities."""
BATCH_EVERY = 4
"""Rounds of people for one of batch jobs, while there are both."""

Ended = dict[int, Sample | SamplingError]


@dataclass(frozen=True)
class Key:
    """What rows of one session have in common."""

    sampler: SamplerConfig
    length: int
    priority: int
    alone: int | None = None
    """The ticket of a row that runs by itself, because a step that it was in has failed."""

    @cached_property
    def _hash(self) -> int:
        return hash((self.sampler, self.length, self.priority, self.alone))

    def __hash__(self) -> int:
        """Kept, because a sampler is deep and every step looks sessions up many times."""
        return self._hash


class Engine:
    """See the module's docstring. Not for several threads at once.

    Batch jobs hand their rows to ``run``. A service submits rows as they come, and steps as long as it is not idle.
    """

    def __init__(
        self, open_session: Callable[[SamplerConfig, int], Session], max_sessions: int = 32, sizes: Sizes | None = None
    ):
        """
        Args:
            open_session: makes a session for a sampler and a length; it is closed when it has no more rows. All
                sessions are around one network.
            max_sessions: of each priority; what comes for another one waits.
            sizes: of forwards, known from other engines around the network.
        """
        self.open_session, self.max_sessions = open_session, max_sessions
        self.sessions: dict[Key, Session] = {}
        self.waiting: dict[Key, deque[Held]] = {}
        self.sizes = sizes or Sizes()
        self.tickets = itertools.count()
        self._last = Key(SamplerConfig(), 0, PEOPLE)
        """Of the row that came last: the next is often of its kind, and a key's hash is worked out once."""
        self.rounds = 0
        self.num_live = 0
        """Inputs that rows asked for so far."""

    @property
    def idle(self) -> bool:
        """No row runs or waits."""
        return not self.waiting and not self.sessions

    def num_rows(self, priority: int) -> tuple[int, int]:
        """Rows that (wait, run)."""
        waiting = sum(len(rows) for key, rows in self.waiting.items() if key.priority == priority)
        running = sum(s.num_rows for key, s in self.sessions.items() if key.priority == priority)
        return waiting, running

    def submit(self, sampler: SamplerConfig, row: Row, priority: int = PEOPLE, watch: Watch | None = None) -> int:
        """Have a row sampled as soon as there are lanes for it; ``watch`` is told of its edits. Returns its ticket."""
        ticket = next(self.tickets)
        key = Key(sampler, len(row.canvas), priority)
        if key != self._last:
            self._last = key
        self._queue(self._last, Held(ticket, row, watch))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Stop a row, running or waiting. Nothing more is heard of it."""
        for session in self.sessions.values():
            session.cancel(ticket)
        self.waiting = {key: deque(h for h in rows if h.ticket != ticket) for key, rows in self.waiting.items()}
        self._close()

    def step(self) -> Ended:
        """One step of the sessions whose turn it is, waiting rows first admitted where lanes are free. Returns what
        rows ended with, by ticket; see ``Session.step``."""
        ended: Ended = {}
        for priority in (PEOPLE, BATCH):
            self._admit(priority, ended)
        self.rounds += 1
        people = any(key.priority == PEOPLE for key in self.sessions)
        turn = [k for k in self.sessions if k.priority == PEOPLE or not people or self.rounds % BATCH_EVERY == 0]
        self._step(turn, ended)
        self._close()
        return ended

    def run(self, sampler: SamplerConfig, rows: Iterable[Row]) -> Iterator[Sample]:
        """Samples of rows of any lengths, in the order in which they finish. The engine must be idle.

        Raises:
            SamplingError: the network lacks what the sampler needs, a row needed more calls than its sampler promised,
                or others are at work here.
        """
        if not self.idle:
            raise SamplingError("This engine has other rows, whose samples would be lost. Use submit and step.")
        for row in rows:
            self.submit(sampler, row)
        while not self.idle:
            for sample in self.step().values():
                if isinstance(sample, SamplingError):
                    raise sample
                yield sample

    def _queue(self, key: Key, held: Held) -> None:
        self.waiting.setdefault(key, deque()).append(held)

    def _admit(self, priority: int, ended: Ended) -> None:
        """Open sessions and fill their lanes, first come, first served."""
        waiting = [key for key, rows in self.waiting.items() if key.priority == priority and rows]
        waiting.sort(key=lambda key: self.waiting[key][0].ticket)
        if len({k for k in self.sessions if k.priority == priority}.union(waiting)) > self.max_sessions:
            # One whose rows have all ended makes room, also where more of its kind wait: they come later.
            self.sessions = {k: s for k, s in self.sessions.items() if not s.idle or k.priority != priority}
        room = self.max_sessions - sum(key.priority == priority for key in self.sessions)
        for key in [key for key in waiting if key not in self.sessions][: max(0, room)]:
            try:
                self.sessions[key] = self.open_session(key.sampler, key.length)
            except SamplingError as error:  # the network lacks what this sampler needs
                ended |= dict.fromkeys((held.ticket for held in self.waiting.pop(key)), error)
        shut_out = [self.waiting[k][0].ticket for k in waiting if k in self.waiting and k not in self.sessions]
        for key in waiting:
            rows, session = self.waiting.get(key), self.sessions.get(key)
            while rows and session and (not shut_out or rows[0].ticket < shut_out[0]):
                if not session.take(rows[0]):
                    break
                rows.popleft()

    def _step(self, keys: list[Key], ended: Ended) -> None:
        """One step of some sessions. Where it fails, their rows are isolated."""
        asked: dict[Manner | Key, list[tuple[Key, Query]]] = {}
        for key in keys:
            with self._isolating([key], ended):
                query, batching = self.sessions[key].ask(), self.sessions[key].batching
                by_itself = key.alone is not None or query.window is not None  # whose rows have a cache of their own
                asked.setdefault(key if by_itself else manner(query, batching), []).append((key, query))
        for pairs in asked.values():
            group = [key for key, _ in pairs]
            with self._isolating(group, ended):
                answers = self._answers(group, [query for _, query in pairs])
                for (key, query), said in zip(pairs, answers, strict=True):
                    with self._isolating([key], ended):
                        ended |= self.sessions[key].tell(query, said)

    @torch.inference_mode()
    def _answers(self, keys: Sequence[Key], queries: Sequence[Query]) -> list[Answer]:
        """What the network says to sessions whose queries are of one manner."""
        sessions = [self.sessions[key] for key in keys]
        first = sessions[0]
        query = queries[0] if len(queries) == 1 else joined(queries, [len(s.labels) for s in sessions])
        extent = measure(query)
        self.num_live += sum(extent.active)
        labels = torch.cat([s.labels for s in sessions]) if any(s.labelled for s in sessions) else None
        num_classes = max(s.num_classes for s in sessions)
        said = answer(first.denoiser, query, extent, first.batching, labels, num_classes, first.cache, self.sizes)
        return list(parted(said, extent, queries))

    @contextlib.contextmanager
    def _isolating(self, keys: Sequence[Key], ended: Ended) -> Iterator[None]:
        """Have the rows of sessions run by themselves, each from its start, where a step of them fails."""
        try:
            yield
        except Exception as error:
            self._isolate(keys, error, ended)

    def _isolate(self, keys: Sequence[Key], error: Exception, ended: Ended) -> None:
        """What becomes of the rows of a step that failed."""
        failed = [
            (key, session, h) for key in keys for session in [self.sessions.pop(key)] for h in session.groups if h
        ]
        if len(failed) == 1:
            failure = error if isinstance(error, SamplingError) else SamplingError(f"The row failed: {error!r}")
            failure.__cause__ = None if failure is error else error
            ended[failed[0][2].ticket] = failure
            return
        for key, session, held in failed:
            held.begin_again(session.seen_by(held))
            self._queue(replace(key, alone=held.ticket), held)

    def _close(self) -> None:
        """Let go of sessions that have no more rows, and of queues that are empty."""
        self.waiting = {key: rows for key, rows in self.waiting.items() if rows}
        self.sessions = {k: s for k, s in self.sessions.items() if not s.idle or k in self.waiting}

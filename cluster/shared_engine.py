"""One engine for all requests of a replica: their rows share forwards, and come and go while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.errors import SamplingError
from components.samplers.config import SamplerConfig
from components.samplers.contract import Row, Sample
from components.samplers.engine import Engine


@dataclass(frozen=True, eq=False)
class Wanted:
    """One row of a request, and where its sample goes."""

    sampler: SamplerConfig
    row: Row
    sample: asyncio.Future[Sample]


class SharedEngine:
    """Steps an engine in a thread as long as anybody waits for a row. All methods belong to one event loop.

    A request that is cancelled takes its rows with it: what nobody waits for is not computed.
    """

    def __init__(self, engine: Engine, in_thread: Callable[[], None]):
        """``in_thread`` is called before every step, in the thread of the step, to set it up."""
        self.engine, self.in_thread = engine, in_thread
        self.arrived: list[Wanted] = []
        """Rows that the engine has not been given yet: it is touched between its steps only."""
        self.running: dict[int, Wanted] = {}
        """By ticket."""
        self.loop: asyncio.Task[None] | None = None

    async def sample(self, sampler: SamplerConfig, rows: Sequence[Row]) -> list[Sample]:
        """Samples in the order of the rows.

        Raises:
            SamplingError: the network lacks what the sampler needs, or a row took more calls than promised.
        """
        futures = [asyncio.get_running_loop().create_future() for _ in rows]
        self.arrived += [Wanted(sampler, row, future) for row, future in zip(rows, futures, strict=True)]
        if self.loop is None or self.loop.done():
            self.loop = asyncio.create_task(self._run())
        return list(await asyncio.gather(*futures))

    async def _run(self) -> None:
        while self.arrived or self.running:
            self._take_in()
            try:
                ended = await asyncio.to_thread(self._step)
            except Exception as error:  # it concerns every row that is there, and must not be lost with the task
                ended = dict.fromkeys(self.running, error)
                for ticket in self.running:
                    self.engine.cancel(ticket)
            for ticket, sample in ended.items():
                future = self.running.pop(ticket).sample
                if future.done():
                    continue
                if isinstance(sample, Exception):
                    future.set_exception(sample)
                else:
                    future.set_result(sample)

    def _step(self) -> dict[int, Sample | SamplingError | Exception]:
        self.in_thread()
        return dict(self.engine.step())

    def _take_in(self) -> None:
        """Give the engine what has arrived, and take from it what nobody waits for any more."""
        for ticket, wanted in list(self.running.items()):
            if wanted.sample.done():
                self.engine.cancel(ticket)
                del self.running[ticket]
        arrived, self.arrived = self.arrived, []
        for wanted in arrived:
            if wanted.sample.done():
                continue
            try:
                self.running[self.engine.submit(wanted.sampler, wanted.row)] = wanted
            except SamplingError as error:
                wanted.sample.set_exception(error)

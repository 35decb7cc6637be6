"""People and batch jobs that share one engine: each gets what it would get alone, and who leaves takes its rows along."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import pytest

from cluster.shared_engine import Busy, News, SharedEngine
from components.errors import SamplingError
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Row, Sample
from components.samplers.engine import BATCH, PEOPLE, Engine, Session
from tests.decoding import rows_of, sampler_of
from tests.oracle import Oracle

MDLM = preset("mdlm", steps=5)


@contextlib.contextmanager
def shared(oracle: Oracle, num_lanes: int = 4, **options) -> Iterator[SharedEngine]:
    def open_session(config: SamplerConfig, length: int) -> Session:
        return Session(oracle, sampler_of(oracle, config), length, num_lanes=num_lanes)

    engine = SharedEngine(Engine(open_session), **options)
    try:
        yield engine
    finally:
        engine.close()


def alone(oracle: Oracle, config: SamplerConfig, row: Row) -> Sample:
    session = Session(oracle, sampler_of(oracle, config), oracle.length, num_lanes=1)
    return next(Engine(lambda sampler, length: session).run(config, [row]))


def seeded(oracle: Oracle, count: int, seed: int) -> list[Row]:
    return [dataclasses.replace(row, seed=seed) for row in rows_of(oracle, count)]


async def samples_of(engine: SharedEngine, config: SamplerConfig, rows: list[Row]) -> list[Sample | SamplingError]:
    found: dict[int, Sample | SamplingError] = {}
    async for news in engine.sample(config, rows):
        found |= {n.index: n.outcome for n in news if n.outcome is not None}
    return [found[i] for i in range(len(rows))]


class Held(Oracle):
    """A network that says nothing until it is let go."""

    def __init__(self):
        super().__init__(num_tokens=3, length=6, seed=3)
        self.asked, self.free = threading.Event(), threading.Event()

    def __call__(self, tokens, **given):
        self.asked.set()
        assert self.free.wait(60)
        return super().__call__(tokens, **given)


def test_requests_of_other_samplers_and_seeds_and_a_batch_job_get_what_each_gets_alone():
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    asked = [
        (MDLM, seeded(oracle, 6, 0)),
        (MDLM, seeded(oracle, 6, 9)),
        (preset("confidence", steps=3), seeded(oracle, 6, 0)),
    ]
    job = seeded(oracle, 9, 4)

    async def together(engine: SharedEngine):
        batch = asyncio.to_thread(engine.run, MDLM, job)
        return await asyncio.gather(batch, *(samples_of(engine, config, rows) for config, rows in asked))

    with shared(oracle) as engine:
        done, *people = asyncio.run(together(engine))
        assert engine.numbers.rows == 27
    for (config, rows), samples in zip(asked, people, strict=True):
        assert samples == [alone(oracle, config, row) for row in rows]
    assert done == {row.id: alone(oracle, MDLM, row) for row in job}
    assert engine.numbers.calls == sum(s.calls for s in [*done.values(), *(s for found in people for s in found)])


def test_whoever_leaves_takes_running_and_waiting_rows_along_and_nobody_elses():
    oracle = Held()
    rows = seeded(oracle, 3, 1)

    async def one_leaves(engine: SharedEngine):
        leaving = asyncio.create_task(samples_of(engine, MDLM, seeded(oracle, 400, 2)))
        await asyncio.to_thread(oracle.asked.wait, 60)
        staying = asyncio.create_task(samples_of(engine, MDLM, rows))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        oracle.free.set()
        return await staying

    with shared(oracle, num_lanes=8) as engine:
        samples = asyncio.run(one_leaves(engine))
    assert samples == [alone(oracle, MDLM, row) for row in rows]
    assert engine.engine.idle
    assert engine.numbers.rows == 3
    assert engine._held == [0, 0]
    assert oracle.calls < 8 + 3 * 6 + 100, "the rows that nobody waited for were computed all the same"


def test_what_a_batch_job_wanted_is_dropped_when_it_is_told_to_stop():
    oracle, stop, told = Held(), threading.Event(), []

    def job(engine: SharedEngine) -> None:
        try:
            engine.run(MDLM, seeded(oracle, 300, 0), stop=stop)
        except SamplingError as error:
            told.append(str(error))

    with shared(oracle) as engine:
        thread = threading.Thread(target=job, args=[engine])
        thread.start()
        assert oracle.asked.wait(60)
        stop.set()
        thread.join(60)
        oracle.free.set()
    assert told == ["Whoever wanted these rows is gone."]
    assert engine.engine.idle


def test_an_error_is_told_to_whose_row_it_is_and_the_next_request_is_served():
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    steered = preset("fk_steering", steps=4, search={"reward": "entropy"})
    with shared(oracle) as engine:
        wrong = asyncio.run(samples_of(engine, steered, seeded(oracle, 2, 0)))
        assert all("given none" in str(error) for error in wrong)
        assert engine.numbers.failed == 2
        assert all(isinstance(s, Sample) for s in asyncio.run(samples_of(engine, MDLM, seeded(oracle, 2, 0))))


def test_rows_of_people_beyond_the_room_are_refused_and_those_of_batch_jobs_wait():
    oracle = Held()

    async def fill(engine: SharedEngine):
        first = asyncio.create_task(samples_of(engine, MDLM, seeded(oracle, 5, 0)))
        await asyncio.to_thread(oracle.asked.wait, 60)
        batch = asyncio.create_task(asyncio.to_thread(engine.run, MDLM, seeded(oracle, 40, 0)))
        with pytest.raises(Busy, match="limits.max_rows = 6"):
            await samples_of(engine, MDLM, seeded(oracle, 2, 1))
        last = asyncio.create_task(samples_of(engine, MDLM, seeded(oracle, 1, 1)))
        await asyncio.sleep(0)
        oracle.free.set()
        return len(await first), len(await batch), len(await last)

    with shared(oracle, max_rows=6) as engine:
        assert asyncio.run(fill(engine)) == (5, 40, 1)


def test_a_deadline_ends_the_wait_and_drops_the_rows():
    oracle = Held()

    async def wait(engine: SharedEngine):
        with pytest.raises(TimeoutError):
            async for _ in engine.sample(MDLM, seeded(oracle, 3, 0), deadline_s=0.05):
                pass

    with shared(oracle) as engine:
        asyncio.run(wait(engine))
        oracle.free.set()
    assert engine.engine.idle
    assert engine.numbers.rows == 0


def test_numbers_tell_who_waits_and_since_when():
    oracle = Held()
    with shared(oracle, num_lanes=2) as engine:
        job = threading.Thread(target=engine.run, args=[MDLM, seeded(oracle, 7, 0)])
        job.start()
        assert oracle.asked.wait(60)
        engine._count()  # its own thread stands in the network
        assert engine.numbers.waiting == (0, 5)
        assert engine.numbers.running == (0, 2)
        assert engine.numbers.since[PEOPLE] is None
        assert engine.numbers.since[BATCH] is not None
        oracle.free.set()
        job.join(60)
    assert engine.numbers.waiting == engine.numbers.running == (0, 0)
    assert engine.numbers.since == (None, None)
    assert engine.numbers.useful == 7 * 6
    assert engine.numbers.inputs == engine.numbers.calls > 0


def test_a_watched_row_tells_its_edits_before_its_end():
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    row = seeded(oracle, 1, 3)[0]

    async def watch(engine: SharedEngine) -> list[News]:
        return [news async for several in engine.sample(MDLM, [row], watched=True) for news in several]

    with shared(oracle) as engine:
        news = asyncio.run(watch(engine))
    assert [bool(n.edits) for n in news] == [True] * (len(news) - 1) + [False]
    assert news[-1].outcome == alone(oracle, MDLM, row)
    shown = list(row.canvas)
    for edit in (edit for n in news for edit in n.edits):
        shown[edit.position] = edit.new
    assert tuple(shown) == news[-1].outcome.tokens


def test_an_engine_that_is_closed_leaves_nobody_waiting():
    oracle = Held()
    found: list[object] = []

    async def wait(engine: SharedEngine):
        task = asyncio.create_task(samples_of(engine, MDLM, seeded(oracle, 2, 0)))
        await asyncio.to_thread(oracle.asked.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        await asyncio.sleep(0)
        oracle.free.set()
        found.extend(await task)
        await closing
        with pytest.raises(Busy, match="about to stop"):
            await samples_of(engine, MDLM, seeded(oracle, 1, 0))

    with shared(oracle) as engine:
        asyncio.run(wait(engine))
    assert len(found) == 2
    with pytest.raises(Busy, match="about to stop"):
        engine.run(MDLM, seeded(oracle, 1, 0))

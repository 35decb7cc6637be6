"""Requests that share one engine: each gets what it would get alone."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from cluster.shared_engine import SharedEngine
from components.errors import SamplingError
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Row, Sample
from components.samplers.engine import Engine, Session
from tests.decoding import rows_of, sampler_of
from tests.oracle import Oracle


def shared(oracle: Oracle, num_lanes: int = 4) -> SharedEngine:
    def open_session(config: SamplerConfig, length: int) -> Session:
        return Session(oracle, sampler_of(oracle, config), length, num_lanes=num_lanes, deterministic=False)

    return SharedEngine(Engine(open_session), lambda: None)


def alone(oracle: Oracle, config: SamplerConfig, row: Row) -> Sample:
    session = Session(oracle, sampler_of(oracle, config), oracle.length, num_lanes=1, deterministic=False)
    return next(Engine(lambda sampler, length: session).run(config, [row]))


def seeded(oracle: Oracle, count: int, seed: int):
    return [dataclasses.replace(row, seed=seed) for row in rows_of(oracle, count)]


def test_requests_of_other_samplers_and_seeds_get_what_each_gets_alone():
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    asked = [(preset("mdlm", steps=5), seeded(oracle, 6, 0)), (preset("mdlm", steps=5), seeded(oracle, 6, 9)),
             (preset("confidence", steps=3), seeded(oracle, 6, 0))]  # fmt: skip

    async def together():
        engine = shared(oracle)
        return await asyncio.gather(*(engine.sample(config, rows) for config, rows in asked))

    for (config, rows), samples in zip(asked, asyncio.run(together()), strict=True):
        assert samples == [alone(oracle, config, row) for row in rows]


def test_a_request_that_is_given_up_costs_nothing_more_and_harms_nobody():
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    config, rows = preset("mdlm", steps=6), seeded(oracle, 4, 1)

    async def one_leaves():
        engine = shared(oracle, num_lanes=8)
        leaving = asyncio.create_task(engine.sample(config, seeded(oracle, 400, 2)))
        staying = asyncio.create_task(engine.sample(config, rows))
        while not engine.running:
            await asyncio.sleep(0)
        leaving.cancel()
        samples = await staying
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await engine.loop
        return samples, engine

    samples, engine = asyncio.run(one_leaves())
    assert samples == [alone(oracle, config, row) for row in rows]
    assert engine.engine.idle
    assert oracle.calls < 400, "the rows that nobody waited for were computed all the same"


def test_an_error_reaches_every_row_that_it_concerns_and_the_next_request_is_served():
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    steered = preset("fk_steering", steps=4, search={"reward": "entropy"})

    async def fail_and_go_on():
        engine = shared(oracle)
        with pytest.raises(SamplingError, match="given none"):
            await engine.sample(steered, seeded(oracle, 2, 0))
        return await engine.sample(preset("mdlm", steps=4), seeded(oracle, 2, 0))

    assert len(asyncio.run(fail_and_go_on())) == 2

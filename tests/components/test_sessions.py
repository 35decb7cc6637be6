"""Sessions: rows come and go while others run, and each is what it would be alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.errors import SamplingError
from components.samplers import PRESETS, SamplerConfig, preset
from components.samplers.contract import Row, Sample
from components.samplers.engine import Engine, Session
from components.samplers.options.correctors import ProsecoCorrectorConfig, RemdmConfig
from components.samplers.options.schedules import FirstHittingConfig
from components.samplers.options.search import SelfRewardingConfig, SteeringConfig
from tests.decoding import decode, likes_last, rows_of, sampler_of
from tests.oracle import Oracle

ORACLE = Oracle(num_tokens=3, length=6, seed=3)
CONFIGS = {
    "plain": SamplerConfig(steps=6),
    "remasking": SamplerConfig(steps=6, corrector=RemdmConfig(eta=0.3)),
    "proseco": SamplerConfig(steps=6, corrector=ProsecoCorrectorConfig(passes=2)),
    "smc": SamplerConfig(steps=6, search=SelfRewardingConfig(particles=3, every=2)),
    "particle gibbs": SamplerConfig(steps=6, search=SteeringConfig(particles=2, sweeps=2, every=2, reward="x")),
}


def session_of(config: SamplerConfig, num_rows: int, denoiser=ORACLE) -> Session:
    sampler = sampler_of(ORACLE, config)
    return Session(denoiser, sampler, ORACLE.length, num_rows * sampler.width, reward=likes_last)


def solo(config: SamplerConfig, row: Row) -> Sample:
    return decode(ORACLE, sampler_of(ORACLE, config), [row], 1, reward=likes_last)[row.id]


def finish(session: Session) -> dict[int, Sample | SamplingError]:
    ended = {}
    while not session.idle:
        ended |= session.step()
    return ended


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_different_seeds_share_a_session(name):
    """The seed is the row's: equal rows of three seeds differ, and each is what it is alone."""
    row = rows_of(ORACLE, 1, prompt=1)[0]
    rows = [replace(row, seed=seed) for seed in (0, 1, 2**62)]
    session = session_of(CONFIGS[name], 3)
    assert all(session.admit(ticket, row) for ticket, row in enumerate(rows))
    ended = finish(session)
    assert [ended[ticket] for ticket in range(3)] == [solo(CONFIGS[name], row) for row in rows]
    assert len({sample.tokens for sample in ended.values()}) > 1


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_admitted_in_the_middle_of_others_is_what_it_is_alone(name):
    config, rows = CONFIGS[name], [replace(row, seed=5) for row in rows_of(ORACLE, 6, prompt=1)]
    session = session_of(config, 3)
    ended: dict[int, Sample | SamplingError] = {}
    waiting = list(enumerate(rows))
    for _ in range(200):
        if waiting and session.admit(*waiting[0]):  # one a step, so that no two stand at the same tick
            waiting.pop(0)
        ended |= session.step()
        if session.idle and not waiting:
            break
    assert [ended[ticket] for ticket in range(6)] == [solo(config, row) for row in rows]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_cancelled_row_frees_its_lane_and_changes_no_mate(name, after):
    """Before its first step, too, and while a search's group waits for its rewards. Nothing of it comes out later."""
    config, rows = CONFIGS[name], rows_of(ORACLE, 4, prompt=1)
    session = session_of(config, 3)
    for ticket in range(3):
        assert session.admit(ticket, rows[ticket])
    assert not session.admit(3, rows[3])
    for _ in range(after):
        assert not session.step()
    assert session.cancel(1)
    assert not session.cancel(1)
    assert session.num_free == 1
    ended = session.step()
    assert session.admit(3, rows[3])
    ended |= finish(session)
    assert ended == {ticket: solo(config, rows[ticket]) for ticket in (0, 2, 3)}


def test_a_group_that_waits_for_its_rewards_asks_for_none_once_it_is_cancelled():
    scored: list[int] = []

    def reward(tokens: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        assert len(tokens) == len(rows)
        scored.extend(row.id for row in rows)
        return likes_last(tokens, rows)

    sampler = sampler_of(ORACLE, CONFIGS["particle gibbs"])
    session = Session(ORACLE, sampler, ORACLE.length, 4, reward=reward)
    rows = rows_of(ORACLE, 2, prompt=1)
    for row in rows:
        session.admit(row.id, row)
    while not bool(session.state["awaits_reward"][:2].all()):
        session.step()
    before = scored.count(rows[0].id)
    session.cancel(rows[0].id)
    ended = finish(session)
    assert scored.count(rows[0].id) == before
    assert set(ended) == {rows[1].id}


def test_a_cancelled_row_costs_no_further_call():
    oracle, rows = Oracle(num_tokens=3, length=6, seed=3), rows_of(ORACLE, 2)
    sampler = sampler_of(oracle, CONFIGS["proseco"])
    session = Session(oracle, sampler, oracle.length, 2, deterministic=False)
    for ticket, row in enumerate(rows):
        session.admit(ticket, row)
    session.step()
    session.cancel(0)
    before = oracle.calls - int(session.calls[1])
    ended = finish(session)
    assert oracle.calls - before == ended[1].calls


def test_a_session_outlives_all_its_rows():
    config, rows = CONFIGS["proseco"], rows_of(ORACLE, 3)
    session = session_of(config, 2)
    session.admit(0, rows[0])
    session.admit(1, rows[1])
    session.step()
    assert session.cancel(0)
    assert session.cancel(1)
    assert session.idle
    assert session.step() == {}
    assert session.admit(2, rows[2])
    assert finish(session) == {2: solo(config, rows[2])}


def test_a_row_with_nothing_to_write_ends_without_a_call():
    session = session_of(CONFIGS["plain"], 2)
    session.admit(0, Row(0, (1,) * 6, (True,) * 6))
    assert session.step() == {0: Sample(0, (1,) * 6, 0, 0.0, 0, 0)}


def test_a_session_refuses_other_lengths_and_tickets_that_are_taken():
    session = session_of(CONFIGS["plain"], 2)
    row = rows_of(ORACLE, 1)[0]
    with pytest.raises(SamplingError, match="5 positions cannot join a session of 6"):
        session.admit(0, replace(row, canvas=row.canvas[:5], fixed=row.fixed[:5]))
    session.admit(0, row)
    with pytest.raises(SamplingError, match="ticket 0"):
        session.admit(0, row)


def test_a_row_beyond_the_promised_calls_ends_with_an_error_and_the_others_go_on():
    """First hitting needs a call for each mask. The promise is broken to three."""
    sampler = sampler_of(ORACLE, SamplerConfig(steps=0, schedule=FirstHittingConfig()))
    sampler.max_calls = lambda length: 3
    session = Session(ORACLE, sampler, ORACLE.length, 2)
    session.admit(0, rows_of(ORACLE, 1)[0])
    session.admit(1, Row(1, (0, 1, 2, 0, 3, 3), (True,) * 4 + (False,) * 2))
    ended = finish(session)
    assert isinstance(ended[0], SamplingError)
    assert "promised at most 3" in str(ended[0])
    assert isinstance(ended[1], Sample)
    with pytest.raises(SamplingError, match="promised at most 3"):
        decode(ORACLE, sampler, rows_of(ORACLE, 1))


def engine_of(lanes: int) -> Engine:
    return Engine(lambda config, length: Session(ORACLE, sampler_of(ORACLE, config), length, lanes, reward=likes_last))


def test_an_engine_runs_rows_of_different_samplers_and_gives_up_those_that_are_cancelled():
    """Six rows of three samplers over two lanes each; one is cancelled while it waits, one while it runs."""
    engine, rows = engine_of(2), rows_of(ORACLE, 5, prompt=1)
    asked = [("plain", rows[0]), ("plain", rows[1]), ("plain", rows[2]), ("proseco", rows[3]), ("remasking", rows[4])]
    tickets = [engine.submit(CONFIGS[name], row) for name, row in asked]
    ended = engine.step()
    engine.cancel(tickets[2])
    engine.cancel(tickets[3])
    assert len(engine.sessions) == 2, "the session of the only proseco row is closed"
    while not engine.idle:
        ended |= engine.step()
    assert not engine.sessions
    left = [0, 1, 4]
    assert ended == {tickets[i]: solo(CONFIGS[asked[i][0]], asked[i][1]) for i in left}


def test_an_engine_at_work_takes_no_batch():
    engine = engine_of(2)
    engine.submit(CONFIGS["plain"], rows_of(ORACLE, 1)[0])
    with pytest.raises(SamplingError, match="submit and step"):
        next(engine.run(CONFIGS["plain"], rows_of(ORACLE, 1)))


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a device, outside the network and the reward."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count, self.paused = 0, False
        read = torch.Tensor.tolist
        monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: self.wait() or read(tensor))

    def wait(self) -> None:
        self.count += not self.paused

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if by_mask or name in ("nonzero", "_local_scalar_dense", "masked_select", "equal", "_unique2", "is_nonzero"):
            self.wait()
        return op(*args, **(kwargs or {}))

    def without(self, call):
        def inside(*args, **kwargs):
            self.paused = True
            try:
                return call(*args, **kwargs)
            finally:
                self.paused = False

        return inside


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_host_waits_twice_a_step_and_once_more_where_rows_end(name, monkeypatch):
    """A trace costs two more, and rewards two: where they are wanted, and of which rows."""
    sampler = sampler_of(ORACLE, preset(name))
    waits = Waits(monkeypatch)
    session = Session(
        waits.without(ORACLE), sampler, ORACLE.length, 6 * sampler.width, reward=waits.without(likes_last)
    )
    rows = rows_of(ORACLE, 3, prompt=1)
    rows[0] = replace(rows[0], trace=True)
    for row in rows:
        session.admit(row.id, row)
    searches, steered = sampler.width > 1, preset(name).search.reward_name != ""
    with waits:
        while not session.idle:
            traced = not searches and session.groups[0] is not None
            before = waits.count
            ended = session.step()
            allowed = 2 + bool(ended) + 2 * traced
            spent = waits.count - before
            assert allowed <= spent <= allowed + 2 * steered

"""Sessions: rows come and go while others run, and each is what it would be alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.diffusion import categorical
from components.errors import SamplingError
from components.samplers import PRESETS, SamplerConfig, preset
from components.samplers.contract import CHANGES, Edit, Row, Sample
from components.samplers.engine import BATCH, BATCH_EVERY, PEOPLE, Engine, Session
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
    session.sizes = None  # as on a GPU, where none are tried
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


def replayed(canvas: tuple[int, ...], edits: list[Edit]) -> tuple[int, ...]:
    """What somebody sees who knows the canvas and follows the edits; each must say what it stands on."""
    shown = list(canvas)
    for edit in edits:
        assert shown[edit.position] == edit.old != edit.new
        shown[edit.position] = edit.new
    return tuple(shown)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_edits_replayed_on_the_canvas_give_the_tokens_of_every_preset(name):
    """As they are watched and as they are kept, with another sampler's rows in the same forwards."""
    engine, config = engine_of(3), preset(name)
    rows = [replace(row, trace=number == 0) for number, row in enumerate(rows_of(ORACLE, 2, prompt=1))]
    watched: list[list[Edit]] = [[] for _ in rows]
    tickets = [engine.submit(config, row, watch=seen.extend) for row, seen in zip(rows, watched, strict=True)]
    others = [engine.submit(CONFIGS["proseco"], row, BATCH) for row in rows_of(ORACLE, 4)]
    ended = {}
    while not engine.idle:
        ended |= engine.step()
    assert set(ended) == {*tickets, *others}
    for ticket, row, seen in zip(tickets, rows, watched, strict=True):
        sample = ended[ticket]
        assert replayed(row.canvas, seen) == sample.tokens
        assert sample.trace == (tuple(seen) if row.trace else ())
        assert replace(sample, trace=()) == replace(solo(config, row), trace=())
        calls = [edit.call for edit in seen]
        assert calls == sorted(calls)
        assert calls[-1] <= sample.calls
    reasons = {edit.reason for seen in watched for edit in seen}
    assert (reasons == {"choose"}) == (config.search.num_chains > 1)
    assert all((e.confidence is None) == (e.reason in ("choose", "fill")) for seen in watched for e in seen)
    assert all(e.confidence is None or 0 <= e.confidence <= 1 for seen in watched for e in seen)


@pytest.mark.parametrize("name", ["proseco", "chains"])
def test_how_likely_tokens_were_that_replace_others_is_worked_out_for_who_follows_them(name, monkeypatch):
    """Followers of edits, and searches, which weigh chains by it. The tokens are the same without."""
    looked, opinion = [], categorical.opinion

    def counted(*given):
        looked.append(len(given[0]))
        return opinion(*given)

    monkeypatch.setattr(categorical, "opinion", counted)
    config, row = CONFIGS["proseco"], rows_of(ORACLE, 1, prompt=1)[0]
    if name == "chains":
        config = replace(config, search=CONFIGS["smc"].search)
    quiet = solo(config, row)
    assert bool(looked) == (name == "chains")
    looked.clear()
    traced = solo(config, replace(row, trace=True))
    assert traced.tokens == quiet.tokens
    assert looked
    if name == "proseco":
        looked.clear()
        changed = solo(config, replace(row, corrections=True))
        assert looked
        assert changed.trace == tuple(edit for edit in traced.trace if edit.reason in CHANGES)
        assert changed.trace


def test_what_only_the_end_of_a_row_writes_is_told_as_a_fill():
    """A sampler whose ``finish`` changes a token that no step told of."""
    sampler = sampler_of(ORACLE, CONFIGS["plain"])
    finish_row = sampler.finish

    def finish_otherwise(state):
        found = finish_row(state)
        return replace(found, tokens=torch.cat([found.tokens[:, :-1], (found.tokens[:, -1:] + 1) % 3], 1))

    sampler.finish = finish_otherwise
    session = Session(ORACLE, sampler, ORACLE.length, 1)
    seen: list[Edit] = []
    row = rows_of(ORACLE, 1)[0]
    session.admit(0, row, seen.extend)
    sample = finish(session)[0]
    assert replayed(row.canvas, seen) == sample.tokens
    assert [(e.reason, e.position) for e in seen if e.reason == "fill"] == [("fill", 5)]


def test_samplers_of_one_length_share_forwards_and_are_what_they_are_alone():
    """Three budgets, mixtures, guidance and a search; as many forwards as the slowest alone needs, and not their sum."""
    configs = [SamplerConfig(steps=n) for n in (2, 4, 6)] + [preset(n, steps=6) for n in ("cfg", "sr_smc", "proseco")]
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    network = Counted(oracle)
    engine = Engine(lambda config, length: Session(network, sampler_of(oracle, config), length, 8, forward_lanes=64))
    rows = rows_of(ORACLE, 2, prompt=1)
    tickets = {(i, row.id): engine.submit(config, row) for i, config in enumerate(configs) for row in rows}
    ended, steps = {}, 0
    while not engine.idle:
        ended |= engine.step()
        steps += 1
    tried = engine.sizes.equal
    assert all(tried.values())
    assert network.count <= steps + 2 * len(tried)
    assert {key: ended[ticket] for key, ticket in tickets.items()} == {
        (i, row.id): solo(config, row) for i, config in enumerate(configs) for row in rows
    }


class Counted:
    """A network that counts its forwards and their inputs, and fails where it is told to."""

    def __init__(self, oracle, fails=lambda tokens: False):
        self.oracle, self.fails, self.count, self.inputs = oracle, fails, 0, 0

    def __call__(self, tokens, **given):
        self.count += 1
        self.inputs += len(tokens)
        if self.fails(tokens):
            raise RuntimeError("the device is gone")
        return self.oracle(tokens, **given)


def test_lanes_of_a_forward_may_be_fewer_than_rows_and_nothing_else_changes():
    """Five rows in forwards of two: three a step, the last of them of one row once it was seen, in two further ones, that it may be."""
    network = Counted(ORACLE)
    sampler = sampler_of(ORACLE, SamplerConfig(steps=0, schedule=FirstHittingConfig()))
    session = Session(network, sampler, ORACLE.length, 8, forward_lanes=2)
    rows = rows_of(ORACLE, 5)
    for row in rows:
        session.admit(row.id, row)
    session.step()
    assert (network.count, network.inputs) == (3 + 2, 5 + 3)
    session.step()
    assert (network.count, network.inputs) == (3 + 2 + 3, 5 + 3 + 5)
    ended = finish(session)
    assert ended == {row.id: solo(SamplerConfig(steps=0, schedule=FirstHittingConfig()), row) for row in rows}


def test_a_session_has_no_more_lanes_than_its_memory_allows():
    sampler = sampler_of(ORACLE, CONFIGS["particle gibbs"])
    one = Session(ORACLE, sampler, ORACLE.length, sampler.width).state.num_bytes()
    rows = rows_of(ORACLE, 12)
    for memory, groups in ((6 * one, 6), (6 * one - 1, 5), (1, 1), (0, 9)):
        session = Session(ORACLE, sampler, ORACLE.length, 9 * sampler.width, max_bytes=memory)
        assert session.state.num_bytes() <= max(1, memory or 4 * one, one)
        assert [session.admit(n, row) for n, row in enumerate(rows)].count(True) == groups
        assert session.state.num_bytes() == groups * one


def test_people_are_admitted_before_batch_jobs_and_step_in_every_round():
    """A batch job that came first does not keep a person waiting, and goes on every few rounds, also while new people
    come without an end."""
    engine = engine_of(2)
    config = SamplerConfig(steps=0, schedule=FirstHittingConfig())
    batch = [engine.submit(config, row, BATCH) for row in rows_of(ORACLE, 2)]
    engine.step()
    ended, rounds = {}, 0
    while not all(ticket in ended for ticket in batch):
        person = engine.submit(config, rows_of(ORACLE, 1)[0], PEOPLE)
        for _ in range(ORACLE.length + 2):
            ended |= engine.step()
            rounds += 1
            if person in ended:
                break
        assert person in ended, "a person waits for a batch job"
    calls = max(ended[ticket].calls for ticket in batch)
    assert (calls - 2) * BATCH_EVERY <= rounds <= (calls + 2) * BATCH_EVERY


def test_whoever_comes_later_does_not_pass_one_who_waits_for_a_session():
    """One session at a time, two lanes: a stream of rows for the open one would keep another sampler's row out."""
    engine = engine_of(2)
    engine.max_sessions = 1
    first = [engine.submit(CONFIGS["plain"], row) for row in rows_of(ORACLE, 2)]
    ended = engine.step()
    other = engine.submit(CONFIGS["proseco"], rows_of(ORACLE, 1)[0])
    later = [engine.submit(CONFIGS["plain"], row) for row in rows_of(ORACLE, 3)]
    order = []
    while not engine.idle:
        found = engine.step()
        order += list(found)
        ended |= found
    assert set(order[:2]) == set(first)
    assert order[2] == other
    assert set(order[3:]) == set(later)


def test_an_error_ends_the_row_that_caused_it_alone():
    """The network fails whenever it is shown a row with token 2 in front. Its mates, of its own sampler and of another,
    are run again, and end as they would have; whoever watches them sees no lie."""
    network = Counted(ORACLE, fails=lambda tokens: bool((tokens[:, 0] == 2).any()))
    engine = Engine(lambda config, length: Session(network, sampler_of(ORACLE, config), length, 8))
    good, bad = rows_of(ORACLE, 3, prompt=1), replace(rows_of(ORACLE, 1, prompt=2)[0], id=77)
    watched: dict[int, list[Edit]] = {row.id: [] for row in good}
    tickets = {
        engine.submit(CONFIGS[name], row, watch=watched[row.id].extend): (name, row)
        for name, row in zip(("plain", "plain", "proseco"), good, strict=True)
    }
    ended = engine.step() | engine.step()
    wrong = engine.submit(CONFIGS["plain"], bad)
    while not engine.idle:
        ended |= engine.step()
    assert isinstance(ended[wrong], SamplingError)
    assert "the device is gone" in str(ended[wrong])
    for ticket, (name, row) in tickets.items():
        assert ended[ticket] == solo(CONFIGS[name], row)
        assert replayed(row.canvas, watched[row.id]) == ended[ticket].tokens


def test_a_sampler_that_the_network_can_not_run_is_an_error_of_its_rows():
    def open_session(config: SamplerConfig, length: int) -> Session:
        if config == CONFIGS["smc"]:
            raise SamplingError("no such head")
        return Session(ORACLE, sampler_of(ORACLE, config), length, 2)

    engine = Engine(open_session)
    wrong = [engine.submit(CONFIGS["smc"], row) for row in rows_of(ORACLE, 2)]
    right = engine.submit(CONFIGS["plain"], rows_of(ORACLE, 1)[0])
    ended = {}
    while not engine.idle:
        ended |= engine.step()
    assert all("no such head" in str(ended[ticket]) for ticket in wrong)
    assert isinstance(ended[right], Sample)


@pytest.mark.parametrize("name", sorted(n for n in PRESETS if preset(n).search.num_chains == 1))
def test_a_row_whose_corrections_are_kept_has_the_edits_of_visible_tokens_and_no_other(name):
    config = preset(name)
    for row in rows_of(ORACLE, 6, prompt=1):
        whole = solo(config, replace(row, trace=True))
        kept = solo(config, replace(row, corrections=True))
        assert kept.trace == tuple(e for e in whole.trace if e.reason in ("replace", "remask"))
        assert replace(kept, trace=()) == replace(whole, trace=())
        assert len(kept.trace) == kept.edits


def test_corrections_of_a_row_that_is_run_again_are_told_once():
    """The step of a neighbour fails, so that both are run again, each alone."""
    config = preset("proseco", steps=4, corrector={"passes": 2})
    row = next(r for r in rows_of(ORACLE, 40, prompt=1) if solo(config, replace(r, trace=True)).edits > 2)
    expected = solo(config, replace(row, corrections=True))
    session = session_of(config, 2)
    told, rounds = session.tell, iter(range(100))

    def failing(query, said):
        found = told(query, said)
        if next(rounds) == 5:
            raise RuntimeError("once")
        return found

    session.tell = failing
    fresh = iter([session])
    engine = Engine(lambda sampler, length: next(fresh, None) or session_of(config, 2))
    ticket = engine.submit(config, replace(row, corrections=True))
    engine.submit(config, replace(row, id=row.id + 1))
    ended = {}
    while not engine.idle:
        ended |= engine.step()
    assert ended[ticket] == expected


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_row_with_a_single_hole_alone_ends_under_every_sampler(name):
    """Its first step may need no forward, and then nobody has seen how many tokens there are."""
    sampler = sampler_of(ORACLE, preset(name))
    session = Session(ORACLE, sampler, ORACLE.length, sampler.width, reward=likes_last)
    assert session.admit(0, Row(0, (1, 0, 1, 2, 0, 3), (True, *[False] * 5)))
    ended = finish(session)[0]
    assert isinstance(ended, Sample)
    assert ended.tokens[0] == 1
    assert 3 not in ended.tokens

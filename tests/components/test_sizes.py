"""Forwards that are smaller than full ones: made where they were seen to change no bit, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.denoiser import Prediction
from components.models.device import Placement
from components.models.transformer import Transformer
from components.models.weights import place
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.engine import Engine
from components.samplers.sampler import build_sampler
from components.samplers.session import Session
from components.samplers.sizes import Sizes, same
from tests.components.test_int8 import DTYPES

LENGTH, WORDS, LANES, MASK = 10, 7, 8, 0


class Counted:
    """A network whose forwards are counted by their inputs, and whose last bits depend on it where ``shaky`` says so: they are
    those of a full forward, or others."""

    def __init__(self, network, shaky=()):
        self.network, self.shaky, self.sizes = network, shaky, []

    def __call__(self, tokens, **given):
        self.sizes.append(len(tokens))
        said = self.network(tokens, **given)
        return replace(said, logits=said.logits * (1 + 1e-6 * (len(tokens) in self.shaky)))


def table(tokens, *, select=None, **given):
    """Logits of a position by its token and those beside it, one input like the other."""
    around = tokens + 3 * tokens.roll(1, 1) + 5 * tokens.roll(-1, 1) + torch.arange(LENGTH)
    logits = torch.randn(97, WORDS, generator=torch.Generator().manual_seed(0))[around % 97]
    return Prediction(logits if select is None else logits.flatten(0, 1)[select])


def network(dtype="float32", **config):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=32, depth=2, heads=2, **config), WORDS).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    return place(model, Placement("cpu", dtype))


def rows_of(number):
    return [Row(id=i, canvas=(MASK,) * LENGTH, fixed=(False,) * LENGTH, seed=5) for i in range(number)]


def samples(model, rows, sampler=None, lanes=LANES, **options):
    """Of a session that has them all from the start."""
    session = Session(model, sampler or build_sampler(SamplerConfig(steps=6), Vocabulary(MASK), Extras()), LENGTH, lanes, **options)
    for row in rows:
        assert session.admit(row.id, row)
    found, tell = {}, session.tell
    told.clear()

    def telling(query, said):
        group = query.row[said.select // LENGTH] // session.sampler.width
        for number, held in enumerate(session.groups):
            if held is not None:
                told.setdefault(held.ticket, []).append(said.logits[group == number].clone())
        return tell(query, said)

    session.tell = telling
    while not session.idle:
        found |= session.step()
    return found, session


told: dict[int, list[torch.Tensor]] = {}
"""Logits that the rows of the last session were told, step by step."""


def test_few_rows_are_computed_in_forwards_that_just_hold_them():
    seen = Counted(table)
    whole, session = samples(Counted(table), rows_of(8))
    for number, size in ((1, 1), (2, 2), (3, 4), (4, 4), (5, 8)):
        seen.sizes.clear()
        few, session = samples(seen, rows_of(number))
        assert few == {i: whole[i] for i in range(number)}
        if size < 8:  # both were tried once, where first wanted
            assert seen.sizes[:3] == [8, size, size]
            assert session.sizes.equal[(LENGTH, (LENGTH, 0, False, (), False, False, False)), 8, size, torch.get_num_threads()]
            assert seen.sizes.count(8) == len(session.sizes.equal)
        else:
            assert seen.sizes[0] == 8


def test_a_size_that_changes_a_bit_is_never_used():
    """Then the next one is tried."""
    seen = Counted(table, shaky={1, 2})
    whole, _ = samples(Counted(table), rows_of(8))
    few, session = samples(seen, rows_of(1))
    assert few == {0: whole[0]}
    assert [ok for _, ok in sorted((size, ok) for (_, _, size, _), ok in session.sizes.equal.items())] == [False, False, True]
    assert seen.sizes[:7] == [8, 1, 8, 2, 8, 4, 4]
    assert set(seen.sizes[7:]) == {4}


def test_where_no_size_will_do_forwards_are_full():
    seen = Counted(table, shaky={1, 2, 4})
    _, session = samples(seen, rows_of(2))
    assert not any(session.sizes.equal.values())
    assert seen.sizes[:5] == [8, 2, 8, 4, 8]
    assert set(seen.sizes[5:]) == {8}


def test_a_session_that_need_not_be_deterministic_tries_nothing():
    seen = Counted(table)
    samples(seen, rows_of(3), deterministic=False)
    assert max(seen.sizes) == 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["proseco", "prism", "cfg", "llada_block", "moi", "sr_smc"])
def test_rows_are_those_of_a_crowd_by_any_sampler(name, dtype):
    use_threads(1)
    model = network(dtype, quality_layers=1, num_classes=3, time_conditioning=name == "prism")
    config = replace(preset(name), steps=preset(name).steps and 6)
    sampler = build_sampler(config, Vocabulary(MASK), Extras())
    rows = [replace(row, label=float(row.id % 3)) for row in rows_of(8 // sampler.width)]
    crowd, _ = samples(model, rows, sampler)
    logits = dict(told)
    for row in rows[:2]:
        alone, session = samples(model, [row], sampler)
        assert alone == {row.id: crowd[row.id]}
        assert len(told[row.id]) == len(logits[row.id]) > 0
        assert all(torch.equal(a, b) for a, b in zip(told[row.id], logits[row.id], strict=True))
        assert session.sizes.equal or sampler.width == LANES


def by_token(tokens, *, select=None, heads=(), keep=False, **given):
    """Of each token by itself, so that parts of rows have the same answer; with a head, and keys and values."""
    logits = torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(0))[tokens]
    kept = (1 + tokens)[None, :, None, None, :, None].expand(1, -1, 2, 1, -1, 1).float() if keep else None
    chosen = logits if select is None else logits.flatten(0, 1)[select]
    return Prediction(chosen, dict.fromkeys(heads, (1 + tokens) / 9), kept)


def last_is_off(x, size):
    """Another last bit of a forward's last input, where the forward is of so many."""
    return x if len(x) != size else torch.cat([x[:-1], x[-1:] * (1 + 1e-6)])


@pytest.mark.parametrize(("part", "size"), [("logits", 2), ("a head", 1), ("a head", 2), ("keys and values", 1), ("nothing", 1)])
def test_a_size_that_changes_a_bit_of_any_part_in_any_place_is_never_used(part, size):
    def shaky(tokens, **given):
        said = by_token(tokens, **given)
        if part == "logits":
            whole = said.logits if given.get("select") is None else by_token(tokens).logits
            return replace(said, logits=last_is_off(whole, size).flatten(0, 1)[given["select"]])
        if part == "a head":
            return replace(said, heads={name: last_is_off(value, size) for name, value in said.heads.items()})
        if part == "keys and values" and said.kept is not None:
            return replace(said, kept=last_is_off(said.kept.transpose(0, 1), size).transpose(0, 1))
        return said

    cached = preset("llada_block", steps=6, blocks={"length": 5, "cache": True})
    config = {"logits": SamplerConfig(steps=6), "a head": preset("prism", steps=6)}.get(part, cached)
    sampler = build_sampler(config, Vocabulary(MASK), Extras())
    _, session = samples(shaky, rows_of(size), sampler, lanes=16)  # of which two are in a forward of whole rows, with a cache
    tried = {tried: equal for ((span, _), _, tried, _), equal in session.sizes.equal.items() if span == LENGTH}
    assert tried[size] is (part == "nothing")


def test_what_is_seen_at_one_length_says_nothing_of_another():
    """A window's attention goes over all of its row: its forwards of one size are others where rows have another length."""
    known = Sizes()

    def shaky(tokens, **given):
        said = by_token(tokens, **given)
        return replace(said, logits=said.logits * (1 + 1e-6 * (len(tokens) == 1 and tokens.shape[1] == LENGTH)))

    for length in (2 * LENGTH, LENGTH):
        sampler = build_sampler(SamplerConfig(steps=6), Vocabulary(MASK), Extras())
        session = Session(shaky, sampler, length, LANES)
        session.sizes = known
        session.admit(0, Row(id=0, canvas=(MASK,) * length, fixed=(False,) * length, seed=5))
        while not session.idle:
            session.step()
    tried = {(asked[0], size): equal for ((_, asked), _, size, _), equal in known.equal.items()}
    assert tried == {(2 * LENGTH, 1): True, (LENGTH, 1): False, (LENGTH, 2): True}


def test_engines_around_one_network_try_a_size_once():
    known, seen = Sizes(), Counted(table)
    for _ in range(2):
        seen.sizes.clear()
        sampler = build_sampler(SamplerConfig(steps=6), Vocabulary(MASK), Extras())
        engine = Engine(lambda config, length, sampler=sampler: Session(seen, sampler, length, LANES), sizes=known)
        assert len(list(engine.run(SamplerConfig(steps=6), rows_of(1)))) == 1
    assert set(seen.sizes) == {1}


def test_all_that_was_said_is_compared():
    said = {"logits": torch.tensor([1.0, torch.nan]), "quality": torch.tensor([0.5])}
    assert same(said, {name: value.clone() for name, value in said.items()})
    for name in said:
        assert not same(said, said | {name: said[name] * (1 + 1e-7)})


def test_sizes_hold_what_is_needed_and_are_tried_once():
    sizes, tried = Sizes(), []

    def try_it(size):
        tried.append(size)
        return size != 4

    assert [sizes.of("x", needed, 32, try_it) for needed in (1, 2, 3, 4, 5, 9, 16, 3)] == [1, 2, 8, 8, 8, 16, 16, 8]
    assert tried == [1, 2, 4, 8, 16]
    assert sizes.of("x", 2, 2, try_it) == 2
    assert tried == [1, 2, 4, 8, 16]
    for asked, lanes in (("x", 16), ("y", 32)):  # of other forwards nothing is known
        assert sizes.of(asked, 1, lanes, try_it) == 1
    assert tried == [1, 2, 4, 8, 16, 1, 1]

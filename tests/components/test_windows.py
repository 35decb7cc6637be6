"""Blocks that are computed alone: what a part of a row is computed from, when that is allowed, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from components.errors import ConfigError, SamplingError
from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.denoiser import Past, Prediction
from components.models.device import Placement
from components.models.tiles import SIZES, Tiles
from components.models.transformer import Transformer
from components.models.weights import place
from components.samplers import preset
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.forward import Batching, Cache, answer, measure
from components.samplers.needs import check_needs
from components.samplers.sampler import build_sampler
from components.samplers.session import Session
from tests.decoding import decode

LENGTH, BLOCK, WORDS = 14, 4, 9
MASK = 0
SHAPES = {
    "plain": {},
    "places": {"num_positions": LENGTH},
    "conditioned": {"time_conditioning": True, "num_classes": 3},
}


def network(dtype="float32", **options) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=16, depth=3, heads=2, **options), WORDS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return place(model, Placement("cpu", dtype))


def sampler_of(name="llada_block", **options):
    blocks = {"length": BLOCK, "cache": True, "early_end": False, **options.pop("blocks", {})}
    return build_sampler(preset(name, blocks=blocks, **options), Vocabulary(MASK), Extras())


def rows_of(count: int, prompt: int = 0) -> list[Row]:
    canvas = tuple([3, 5, 1, 7][:prompt] + [MASK] * (LENGTH - prompt))
    return [Row(i, canvas, tuple(p < prompt for p in range(LENGTH)), seed=11) for i in range(count)]


class Watched:
    """A network that notes what it was asked: (rows, tokens, start or None) of each call, and what it kept."""

    def __init__(self, model: Transformer):
        self.model, self.asked = model, []

    def __call__(self, tokens, *, past=None, **given) -> Prediction:
        said = self.model(tokens, past=past, **given)
        self.asked.append((tokens, past, said.kept))
        return said


@pytest.mark.parametrize("shape", SHAPES)
def test_a_part_of_a_row_is_told_what_the_whole_row_is_told(shape):
    """With the tokens that were kept; and another part, place or row is told something else."""
    model = network(**SHAPES[shape])
    tokens = torch.randint(0, WORDS, (5, LENGTH), generator=torch.Generator().manual_seed(1))
    given = {"label": torch.tensor([0.0, 1, 2, torch.nan, 1]), "time": torch.linspace(0, 1, 5)} if shape == "conditioned" else {}
    with torch.inference_mode():
        whole = model(tokens, select=torch.arange(5 * LENGTH), keep=True, **given)
        rows, start = torch.tensor([3, 1, 4]), torch.tensor([0, 5, LENGTH - BLOCK])

        def part(rows, start, shown):
            past = Past(whole.kept, rows, start)
            about = {name: value[shown] for name, value in given.items()}
            inside = tokens[shown].gather(1, past.at(BLOCK))
            return model(inside, select=torch.arange(3 * BLOCK), past=past, **about).logits.view(3, BLOCK, WORDS)

        at = Past(whole.kept, rows, start).at(BLOCK)
        expected = whole.logits.view(5, LENGTH, WORDS)[rows].gather(1, at[..., None].expand(-1, -1, WORDS))
        assert torch.allclose(part(rows, start, rows), expected, atol=1e-5)
        assert not torch.allclose(part(rows, start - torch.tensor([0, 1, 1]), rows)[1:], expected[1:], atol=1e-3)
        assert not torch.allclose(part(rows.roll(1), start, rows), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llada_block", {"steps": 8}),
        ("fast_dllm", {"blocks": {"length": BLOCK}}),
        ("proseco_llada", {"steps": 24, "corrector": {"every": 5, "draft_positions": "all"}}),
        ("proseco_llada", {"steps": 12, "corrector": {"every": 3}}),
        ("token_edit", {}),
        ("dsc", {"corrector": {"score": "visible", "every": 3}}),
        ("confidence", {"steps": 12}),
    ],
)
@pytest.mark.parametrize("prompt", [0, 3])
def test_a_block_is_computed_alone_only_while_nothing_around_it_has_changed(name, options, prompt):
    """Whatever is written by whomever: at each call about a part, the rest of its row is as the network saw it when keys
    and values were kept. And every call is one that costs what it computes."""
    model = Watched(network())
    session = Session(model, sampler_of(name, **options), LENGTH, num_lanes=3)
    for row in rows_of(3, prompt):
        assert session.admit(row.id, row)
    seen, narrow, whole, ended = torch.full((3, LENGTH), -1), 0, 0, {}
    while not session.idle:
        query = session.ask()
        active = query.active
        model.asked.clear()
        said = answer(model, query, measure(query), session.batching, cache=session.cache)
        outside = torch.ones_like(query.wanted)
        outside.scatter_(1, Past(said.logits, query.row, query.window.start).at(query.window.size), False)
        for lane in active.nonzero()[:, 0].tolist():
            assert not (query.window.kept[lane] and session.state.inner[lane] > 0), "a draft of a loop is no canvas"
            if query.window.narrow[lane]:
                narrow += 1
                assert torch.equal(query.tokens[lane][outside[lane]], seen[lane][outside[lane]])
                assert not bool((query.wanted[lane] & outside[lane]).any())
            else:
                whole += 1
                if query.window.kept[lane]:
                    seen[lane] = query.tokens[lane]
        if narrow:
            assert any(past is not None for _, past, _ in model.asked) or not bool((query.window.narrow & active).any())
        ended |= session.tell(query, said)
    samples = list(ended.values())
    assert sum(s.calls for s in samples) == narrow + whole
    assert sum(s.call_positions * LENGTH for s in samples) == pytest.approx(narrow * BLOCK + whole * LENGTH)
    assert whole > 0
    assert narrow > 0


def test_the_first_call_of_a_block_is_whole_and_the_others_are_the_block():
    """12 positions in blocks of 4 of 4 calls each: 3 whole ones and 9 of a third."""
    model = network()
    row = Row(0, (MASK,) * 12, (False,) * 12, seed=1)
    made = decode(model, sampler_of(steps=12), [row])[0]
    assert (made.calls, made.call_positions) == (12, pytest.approx(3 + 9 / 3))
    refreshed = decode(model, sampler_of(steps=12, blocks={"refresh": 2}), [row])[0]
    assert (refreshed.calls, refreshed.call_positions) == (12, pytest.approx(6 + 6 / 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "options"), [("llada_block", {}), ("proseco_llada", {"corrector": {"every": 6}})])
def test_with_keys_and_values_made_anew_in_every_call_rows_are_those_without_a_cache(name, options, dtype):
    rows = rows_of(4, prompt=2)

    def made(**blocks):
        return decode(network(dtype), sampler_of(name, steps=12, blocks=blocks, **options), rows)

    exact, anew, cached = made(cache=False), made(refresh=1), made()
    assert anew == exact
    assert all(sample.call_positions == sample.calls for sample in anew.values())
    assert all(sample.call_positions < sample.calls for sample in cached.values())


def test_a_row_is_the_same_alone_and_in_a_crowd_that_comes_and_goes():
    use_threads(1)
    model, sampler = network(), sampler_of("proseco_llada", steps=12, corrector={"every": 6})
    rows = rows_of(9, prompt=1)
    crowd = decode(model, sampler, rows, lanes=6)  # of which there are four at first
    for row in rows:
        assert decode(model, sampler, [row], lanes=6)[row.id] == crowd[row.id]


def test_what_a_cache_does_not_go_with_is_refused_by_name():
    for options, path in (
        ({"blocks": {"cache": True}}, "blocks.length"),
        ({"blocks": {"length": 4, "refresh": 2}, "schedule": "fixed_count"}, "blocks.refresh"),
        ({"blocks": {"length": 4, "cache": True}, "schedule": "fixed_count", "inputs": "mixture"}, "inputs.name"),
        ({"blocks": {"length": 4, "cache": True}, "schedule": "fixed_count", "search": "best_of"}, "search.name"),
        ({"blocks": {"length": 4, "cache": True}, "schedule": "fixed_count", "guidance": {"gamma": 1.0}}, "guidance.gamma"),
    ):
        with pytest.raises(ConfigError) as raised:
            preset("mdlm", **options)
        assert path in [problem.path.removeprefix("sampler.") for problem in raised.value.problems]
    for corrector in ({"name": "dsc"}, {"name": "prism", "score": "loo"}):
        with pytest.raises(ConfigError, match=r"corrector\.name"):
            preset("mdlm", schedule="fixed_count", unmask="confidence", blocks={"length": 4, "cache": True}, corrector=corrector)
    with pytest.raises(SamplingError, match="position before"):
        check_needs(preset("llada_block", blocks={"cache": True}), {"shift_logits": True}, False)
    check_needs(preset("llada_block"), {"shift_logits": True}, False)


def test_no_step_about_parts_of_rows_waits_for_the_device():
    model, sampler = network(), sampler_of("proseco_llada", steps=12, corrector={"every": 6})
    model.tiles = Tiles(*SIZES["cuda"])  # as on a GPU, where none are tried
    rows = rows_of(3, prompt=2)
    state = sampler.start(
        torch.tensor([r.canvas for r in rows]), torch.tensor([r.fixed for r in rows]), torch.arange(3), torch.zeros(3).long()
    )
    cache, kinds = Cache(), set()
    for _ in range(12):
        query = sampler.query(state)
        extent = measure(query)  # here the host waits, once
        kinds.add(any(extent.narrow))
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
            empty, kept = state.map(fake.from_tensor), Cache()
            kept.kept = None if cache.kept is None else fake.from_tensor(cache.kept)
            thing = replace_parameters(model, fake)
            said = answer(thing, sampler.query(empty), extent, Batching(3), cache=kept)
            after, _ = sampler.advance(empty, said)
        with torch.no_grad():
            state, _ = sampler.advance(state, answer(model, query, extent, Batching(3), cache=cache))
        assert {n: v.shape for n, v in after.tensors().items()} == {n: v.shape for n, v in state.tensors().items()}
    assert kinds == {True, False}


def replace_parameters(model: Transformer, fake: FakeTensorMode):
    """The model with weights that have no values."""
    weights = {name: fake.from_tensor(value.detach()) for name, value in model.state_dict().items()}
    return lambda tokens, **given: torch.func.functional_call(model, weights, (tokens,), given)


def test_rows_whose_cache_takes_much_have_fewer_lanes():
    sampler = sampler_of(steps=12)
    state_bytes = Session(network(), sampler, LENGTH, 1).idle_state.num_bytes()
    shape = ModelConfig(dim=16, depth=3, heads=2)
    row_bytes = shape.kept_bytes(LENGTH, 4)
    assert row_bytes == 3 * 2 * LENGTH * 16 * 4
    session = Session(network(), sampler, LENGTH, 8, max_bytes=2 * (state_bytes + row_bytes), row_bytes=row_bytes)
    assert session.max_groups == 2
    assert Session(network(), sampler, LENGTH, 8, max_bytes=2 * (state_bytes + row_bytes)).max_groups > 2

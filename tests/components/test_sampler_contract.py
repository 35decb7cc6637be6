"""What holds for every combination of parts, and for every preset."""

from __future__ import annotations

import dataclasses
import itertools
import random

import jaxtyping
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from components.errors import SamplingError
from components.models.denoiser import Prediction
from components.samplers import PARTS, PRESETS, preset, rules
from components.samplers.contract import Answer, Query
from components.samplers.forward import Batching, Extent, answer, measure
from components.samplers.options.search import BestOfConfig
from components.samplers.state import Field
from tests import contracts, decoding
from tests.decoding import CHOICES, choice_of, covering_array, decode, fits, rows_of, run, sampler_of, valid_choices
from tests.oracle import Oracle

PUBLISHED = [
    "mdlm",
    "first_hitting",
    "maskgit",
    "confidence",
    "threshold",
    "fast_dllm",
    "llada_block",
    "entropy_bound",
    "remdm_cap",
    "remdm_rescale",
    "remdm_conf",
    "remdm_loop",
    "remdm_switch",
    "dfm",
    "proseco",
    "proseco_llada",
    "prism",
    "dsc",
    "free_correction",
    "mask_predict",
    "smart",
    "token_edit",
    "moi",
    "soft_mask",
    "dsl",
    "dsl_sde",
    "learned_policy",
    "best_of_n",
    "sr_smc",
    "fk_steering",
    "particle_gibbs",
    "cfg",
    "random_swap",
]
CHUNKS = 12


@pytest.fixture(scope="module")
def combinations() -> list[tuple[int, ...]]:
    """Every pair of choices that can occur, and 60 more."""
    valid = valid_choices()
    return covering_array(valid) + random.Random(0).sample(valid, 60)


def test_compatibility_is_known_for_the_whole_product_without_running():
    """Each choice occurs in a valid combination, and some pairs never do."""
    valid = valid_choices()
    for place, choices in enumerate(CHOICES.values()):
        assert {v[place] for v in valid} == set(range(len(choices)))
    assert 10_000 < len(valid) < len(list(itertools.product(*(range(len(c)) for c in CHOICES.values()))))


def test_every_part_is_among_the_choices():
    for family, plugins in PARTS.items():
        assert {type(c) for c in CHOICES[family]} == set(plugins.values())
        assert all(p().load() is not None for p in plugins.values())


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_combinations_keep_the_contract(chunk, combinations, device):
    """Prompts kept, no mask left, alone as in a crowd, calls counted = forwards made, calls bounded."""
    oracle = Oracle(num_tokens=3, length=6, seed=3, device=device)
    for indices in combinations[chunk::CHUNKS]:
        contracts.sampler_keeps_the_contract(decoding.configured(choice_of(indices)), oracle)


def test_changing_one_part_to_what_does_not_fit_is_reported_with_a_remedy():
    wrong = [
        {"schedule": CHOICES["schedule"][0], "unmask": CHOICES["unmask"][1]},
        {"corrector": CHOICES["corrector"][4], "schedule": CHOICES["schedule"][2]},
        {"corrector": CHOICES["corrector"][9], "schedule": CHOICES["schedule"][0]},
        {"inputs": CHOICES["inputs"][3]},
        {"schedule": CHOICES["schedule"][4], "blocks": CHOICES["blocks"][1]},
    ]
    for choice in wrong:
        assert not fits(choice)
        problem = rules.problems(decoding.configured(choice), "sampler")[0]
        assert problem.path.startswith("sampler.")
        assert problem.remedy


def test_every_published_system_has_a_preset():
    assert set(PUBLISHED) <= set(PRESETS)
    for name, plugin in PRESETS.items():
        assert plugin.paper
        assert not rules.problems(preset(name), name)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_runs_on_the_oracle(name, device):
    oracle = Oracle(num_tokens=3, length=6, seed=4, device=device)
    config = preset(name)
    samples = run(oracle, config, rows_of(oracle, 6, prompt=2), deterministic=False)
    assert sum(s.calls for s in samples.values()) == oracle.calls
    assert all(oracle.mask_id not in s.tokens and s.tokens[0] == 2 for s in samples.values())


def test_rows_of_mixed_lengths_and_prompts_equal_their_solo_runs():
    short, long = Oracle(3, 4, seed=1), Oracle(3, 6, seed=3)

    class Both:
        def __call__(self, tokens, **kwargs):
            return (short if tokens.shape[1] == 4 else long)(tokens, **kwargs)

    rows = [
        *rows_of(long, 3),
        *[dataclasses.replace(r, id=r.id + 1) for r in rows_of(long, 3, prompt=1)],
        *[decoding.Row(99 + i, (3, 0, 3, 2, 3, 3), (False, True, False, True, False, False)) for i in range(3)],
        *[decoding.Row(200 + i, (3, 1, 3, 3), (False, True, False, False)) for i in range(3)],
    ]
    for name in ("mdlm", "confidence", "threshold", "free_correction", "dsc", "sr_smc"):
        config = preset(name)
        together = decode(Both(), sampler_of(long, config), rows, 8)
        for row in rows:
            alone = decode(Both(), sampler_of(long, config), [row], 1)[row.id]
            assert alone == together[row.id], name
            kept = [t for t, fixed in zip(alone.tokens, row.fixed, strict=True) if fixed]
            assert kept == [t for t, fixed in zip(row.canvas, row.fixed, strict=True) if fixed]


def test_the_sets_that_are_written_are_disjoint_and_reset_what_they_must():
    """Remasked positions lose their confidence; nothing is revealed and remasked in one step."""
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    for name in (
        "remdm_rescale",
        "remdm_conf",
        "prism",
        "dsc",
        "free_correction",
        "mask_predict",
        "smart",
    ):
        config = preset(name)
        config = dataclasses.replace(config, steps=config.steps and 6)
        seen = 0
        for before, after, record in decoding.drive(oracle, sampler_of(oracle, config), rows_of(oracle, 40)):
            overlap = (record.revealed & record.remasked) | (record.replaced & record.remasked)
            assert not bool(overlap.any())
            assert bool((before.tokens[record.revealed] == oracle.mask_id).all())
            assert bool((after.tokens[record.remasked] == oracle.mask_id).all())
            assert bool((after.confidence[after.tokens == oracle.mask_id] == 0).all())
            assert torch.equal(after.tokens, record.after)
            seen += int(record.remasked.sum() + record.replaced.sum())
        assert seen > 0, f"{name} never corrected anything"


def answered(query: Query, extent: Extent, batching: Batching) -> Answer:
    """By a network that knows nothing, and without rewards."""

    def network(tokens, *, select=None, heads=(), **given):
        logits = torch.zeros(*tokens.shape, 4)
        chosen = logits if select is None else logits.flatten(0, 1)[select]
        return Prediction(chosen, {name: torch.zeros(tokens.shape) for name in heads})

    said = answer(network, query, extent, batching)
    if query.rewarded is None:
        return said
    return dataclasses.replace(said, rewards=torch.zeros(query.rewarded.shape, dtype=torch.float64))


def test_no_step_of_a_sampler_or_forward_waits_for_the_device(combinations):
    """Tensors without values: whatever would read one on the host raises. Every pair of choices."""
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    canvas = torch.tensor([r.canvas for r in rows_of(oracle, 4, prompt=1)])
    fixed = torch.tensor([r.fixed for r in rows_of(oracle, 4, prompt=1)])
    for indices in combinations[:-300]:
        sampler = sampler_of(oracle, decoding.configured(choice_of(indices)))
        state = sampler.start(canvas, fixed, torch.arange(4), torch.zeros(4, dtype=torch.int64))
        batching = Batching(len(state.ids), deterministic=bool(indices[2] % 2))
        query = sampler.query(state)
        extent = measure(query)  # here the host waits, once
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            empty = state.map(fake.from_tensor)
            after, _ = sampler.advance(empty, answered(sampler.query(empty), extent, batching))
        real, _ = sampler.advance(state, answered(query, extent, batching))
        assert {n: v.shape for n, v in after.tensors().items()} == {n: v.shape for n, v in real.tensors().items()}


def test_two_parts_may_not_keep_a_field_of_one_name():
    oracle = Oracle(num_tokens=3, length=4)
    sampler = sampler_of(oracle, preset("mdlm"))
    canvas = torch.full((2, 4), oracle.mask_id)
    state = sampler.start(canvas, torch.zeros_like(canvas, dtype=torch.bool), torch.arange(2), torch.zeros(2).long())
    for name in ("reveal_tick", "tokens"):
        with pytest.raises(SamplingError, match=f"field named '{name}'"):
            state.registered({name: Field(state.tick)})


def test_a_wrong_shape_is_caught_where_it_is_made():
    """Shapes are declared in the code, and checked while tests run: [R] where [R, P] belongs."""
    oracle = Oracle(num_tokens=3, length=4)
    sampler = sampler_of(oracle, dataclasses.replace(preset("best_of_n"), search=BestOfConfig(reward="x")))
    canvas = torch.full((2, 4), oracle.mask_id)
    state = sampler.start(canvas, torch.zeros_like(canvas, dtype=torch.bool), torch.arange(2), torch.zeros(2).long())
    query = sampler.query(state)
    assert query.rewarded is not None
    with pytest.raises(jaxtyping.TypeCheckError, match="rewarded"):
        dataclasses.replace(query, rewarded=query.rewarded[:, 0])

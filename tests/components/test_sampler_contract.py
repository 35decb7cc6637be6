"""What holds for every combination of parts, and for every preset."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from components.samplers import PARTS, PRESETS, preset, rules
from components.samplers.contract import Answer
from tests import decoding
from tests.decoding import CHOICES, choice_of, covering_array, fits, rows_of, run, sampler_of, valid_choices
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
    """Every pair of choices that can occur, and 300 more."""
    valid = valid_choices()
    return covering_array(valid) + random.Random(0).sample(valid, 300)


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
def test_combinations_keep_the_contract(chunk, combinations):
    """Prompts kept, no mask left, alone as in a crowd, calls counted = forwards made, calls bounded."""
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    for indices in combinations[chunk::CHUNKS]:
        config = decoding.configured(choice_of(indices))
        sampler = sampler_of(oracle, config)
        rows = rows_of(oracle, 5, prompt=1)
        oracle.calls = 0
        crowd = run(oracle, config, rows, lanes=6, deterministic=False)
        assert sum(s.calls for s in crowd.values()) == oracle.calls, config
        for sample in crowd.values():
            assert sample.tokens[0] == 1, config
            assert oracle.mask_id not in sample.tokens, config
            assert 0 < sample.calls <= sampler.max_calls(oracle.length), config
        assert run(oracle, config, rows[2:3], lanes=1) == {rows[2].id: crowd[rows[2].id]}, config


def test_changing_one_part_to_what_does_not_fit_is_told_with_a_remedy():
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
def test_every_preset_runs_on_the_oracle(name):
    oracle = Oracle(num_tokens=3, length=6, seed=4)
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
        together = {s.id: s for s in decoding.Engine(Both(), sampler_of(long, config), 8, reward=None).run(rows)}
        for row in rows:
            alone = next(decoding.Engine(Both(), sampler_of(long, config), 1).run([row]))
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


def test_no_step_of_a_sampler_waits_for_the_device(combinations):
    """Tensors without values: whatever would read one on the host raises. Every pair of choices."""
    oracle = Oracle(num_tokens=3, length=6, seed=3)
    canvas = torch.tensor([r.canvas for r in rows_of(oracle, 4, prompt=1)])
    fixed = torch.tensor([r.fixed for r in rows_of(oracle, 4, prompt=1)])
    for indices in combinations[:-300]:
        sampler = sampler_of(oracle, decoding.configured(choice_of(indices)))
        state = sampler.start(canvas, fixed, torch.arange(4), 0)
        query = sampler.query(state)
        select = query.wanted.flatten().nonzero()[:, 0]
        draw = query.drawn.flatten()[select].nonzero()[:, 0]
        logits = torch.randn(len(select), 4)
        rewards = None if query.rewarded is None else torch.zeros(query.rewarded.shape, dtype=torch.float64)
        heads = {name: torch.rand(query.tokens.shape) for name in query.heads}
        answer = Answer(select, logits, draw, heads, rewards)
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            empty = state.map(fake.from_tensor)
            told = Answer(*(fake.from_tensor(x) for x in (select, logits, draw)), heads, rewards)
            sampler.query(empty)
            after, _ = sampler.advance(empty, told)
        real, _ = sampler.advance(state, answer)
        assert {n: v.shape for n, v in after.fields().items()} == {n: v.shape for n, v in real.fields().items()}

"""Contracts of every objective, and the limits that trained correctors must have, on toys with known answers."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from components.diffusion import noise
from components.diffusion.schedule import LogLinear
from components.models.denoiser import Prediction
from components.models.transformer import Transformer
from components.objectives import OBJECTIVES
from components.objectives import config as c
from components.objectives.base import Batch, Network, Setting
from components.objectives.mdlm import Noised
from components.training.loop import build_objective
from tests import contracts
from tests.learning import (
    CONFIGS,
    HEADS,
    LENGTH,
    MASK,
    batch,
    network,
    setting,
    terms_of,
)
from tests.oracle import Oracle


def test_every_objective_is_tried():
    assert {type(x) for x in CONFIGS} == set(OBJECTIVES.values())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_terms_are_those_that_were_counted_and_gradients_are_finite(config, device):
    contracts.objective_counts_its_terms_and_has_finite_gradients(config, device)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_sum_over_split_batches_equals_the_whole(config, device):
    contracts.objective_is_a_sum_over_rows(config, device)


# A rollout without holes has no step, so policy_grpo is not asked.
@pytest.mark.parametrize("config", [x for x in CONFIGS if not isinstance(x, c.PolicyGrpoConfig)], ids=str)
def test_prompts_and_pads_are_in_no_loss(config, device):
    contracts.objective_leaves_prompts_and_pads_alone(config, device)


@pytest.mark.parametrize(
    "config",
    [
        c.PrismConfig(mdm_weight=0.0, frozen=True),
        c.DscConfig(step=0.2),
        c.PolicyImitationConfig(),
        c.PolicyGrpoConfig(),
    ],
    ids=str,
)
def test_a_frozen_trunk_gets_no_gradient_at_all(config, device):
    model = network(config, device=device)
    for term in terms_of(config, batch(rows=6, device=device), model).values():
        term.loss_sum.backward()
    for name, parameter in model.named_parameters():
        touched = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert not touched or name.startswith(HEADS), name
    assert any(p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if n.startswith(HEADS))


def test_a_frozen_trunk_stays_bit_for_bit_through_a_training(tmp_path):
    from components.training.engine import TorchEngine
    from components.training.loop import fit
    from tests.doubles import TINY, job, token_rows
    from tests.doubles import VOCAB as SIZE

    rows = token_rows(tmp_path / "rows")
    for number, config in enumerate((c.PrismConfig(mdm_weight=0.0, frozen=True), c.DscConfig(step=0.2, head_layers=1))):
        torch.manual_seed(0)
        model = Transformer(dataclasses.replace(TINY, **config.model_changes()), SIZE)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        made = job(tmp_path / str(number), rows, objective=config)
        fit(made, TorchEngine(model, made.config.optimizer), None)
        for name, parameter in model.named_parameters():
            same = torch.equal(parameter, before[name])
            assert same or name.startswith("quality."), name
            assert not same or not name.startswith("quality.modulation.weight"), name


def test_adapters_learn_while_the_networks_own_weights_stay_and_merge_into_it_exactly():
    from components.models.weights import merge_adapters

    config = c.PrismConfig(num_fills=2, adapter_rank=3)
    model = network(config)
    model.freeze_trunk()
    for term in terms_of(config, batch(rows=6), model).values():
        term.loss_sum.backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert touched
    assert all(".adapter." in n or n.startswith(HEADS) for n in touched)
    for name, parameter in model.named_parameters():
        if ".adapter." in name:
            nn.init.normal_(parameter)
    plain = network(c.PrismConfig(num_fills=2))
    plain.load_state_dict(merge_adapters(model.state_dict()))
    tokens = batch(rows=2).tokens
    assert torch.allclose(plain(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_corruption_is_a_pure_function_of_the_batch(config):
    objective = build_objective(config, setting())
    given = batch(rows=6, prompt=2, pads=1)
    first, second = (tensors(objective.corrupt(given)) for _ in range(2))
    assert first
    assert all(torch.equal(first[name], second[name]) for name in first)


def tensors(rows) -> dict[str, torch.Tensor]:
    """Every tensor of a nested dataclass, by its path."""
    found = {}
    for field in dataclasses.fields(rows):
        value = getattr(rows, field.name)
        if isinstance(value, torch.Tensor):
            found[field.name] = value
        elif dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{k}": v for k, v in tensors(value).items()}
    return found


def test_shapes_are_checked_while_tests_run():
    """Keys of three numbers a row and times of another batch are refused where they are made."""
    good = batch(rows=4)
    with pytest.raises(TypeCheckError, match="keys"):
        dataclasses.replace(good, keys=good.keys[:, :1].expand(-1, 3))
    with pytest.raises(TypeCheckError, match="target"):
        dataclasses.replace(good, target=good.target[:2])
    with pytest.raises(TypeCheckError, match="time"):
        Noised(good, torch.ones(3), good.maskable, good.tokens)


# --- trained correctors ----------------------------------------------------------------------------


class Table(nn.Module, Network):
    """The exact denoiser of a 3-bit joint, and a head with a logit of its own for every row and position."""

    def __init__(self, oracle: Oracle):
        super().__init__()
        self.oracle = oracle
        self.quality = nn.Parameter(torch.zeros(3**3, 3))

    def forward(self, tokens, *, select=None, heads=(), **ignored):
        given = torch.where(tokens == 0, 2, tokens - 1)  # tokens 1 and 2 here are 0 and 1 there, its mask is 2
        logits = torch.full((*tokens.shape, 3), -1e9)
        logits[..., 1:] = self.oracle(given).logits[..., :2].float()
        place = (tokens * torch.tensor([9, 3, 1])).sum(-1)
        outputs = dict.fromkeys(heads, self.quality[place])
        return Prediction(logits if select is None else logits.flatten(0, 1)[select], outputs)


def learned_quality(config, seed: int, steps: int = 500, rows: int = 2048) -> tuple[Oracle, torch.Tensor]:
    """sigmoid of the head [27, 3] after training on rows of the joint."""
    oracle = Oracle(num_tokens=2, length=3, seed=seed, concentration=0.7)
    table = Table(oracle)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.1)
    objective = build_objective(config, Setting(MASK, LogLinear(0.0), 1e-3, 3))
    for step in range(steps):
        index = torch.arange(rows)
        keys = noise.row_keys(7, index + rows * step)
        u = noise.uniform(keys, 0, 0, 1, noise.Stream.SCORE)[:, 0]
        outcome = torch.searchsorted(oracle.joint.cumsum(0), u).clamp(max=7)
        tokens = oracle.outcomes[outcome] + 1
        everywhere = torch.ones(rows, 3, dtype=torch.bool)
        given = Batch(tokens, everywhere, everywhere, index, keys, rows, step)
        corrupted = objective.corrupt(given)
        total = objective.counts(corrupted)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / steps) + 1e-3
        optimizer.zero_grad()
        for term in objective.terms(table, corrupted):
            if term.loss_sum.requires_grad:
                (term.loss_sum / total[term.name]).backward()
        optimizer.step()
    return oracle, torch.sigmoid(table.quality.detach())


def leave_one_out(oracle: Oracle, row: tuple[int, ...], position: int) -> float:
    """p(x_i = y_i | y without i); masks (2) among the others are summed over."""
    keep = torch.ones(len(oracle.outcomes), dtype=torch.bool)
    for i, token in enumerate(row):
        if i != position and token != 2:
            keep &= oracle.outcomes[:, i] == token
    right = oracle.joint[keep & (oracle.outcomes[:, position] == row[position])].sum()
    return float(right / oracle.joint[keep].sum())


def worst_error(oracle: Oracle, quality: torch.Tensor, full_only: bool = True) -> float:
    """Largest difference from the leave-one-out probability, over rows without masks."""
    worst = 0.0
    for row in itertools.product((0, 1), repeat=3):
        place = sum((t + 1) * b for t, b in zip(row, (9, 3, 1), strict=True))
        for i in range(3):
            worst = max(worst, abs(float(quality[place, i]) - leave_one_out(oracle, row, i)))
    return worst


def test_prisms_head_learns_the_leave_one_out_probability_for_one_fill_and_not_for_two():
    oracle, one = learned_quality(c.PrismConfig(num_fills=1, mdm_weight=0.0), seed=3)
    _, two = learned_quality(c.PrismConfig(num_fills=2, mdm_weight=0.0), seed=3)
    assert worst_error(oracle, one) < 0.05
    assert worst_error(oracle, two) > 0.3


def test_look_back_judged_at_artifacts_has_the_same_limit_and_at_all_visible_tokens_another():
    """step = 0.3 fills one of three positions."""
    oracle, artifact = learned_quality(c.DscConfig(step=0.3), seed=3)
    _, visible = learned_quality(c.DscConfig(step=0.3, scope="visible", fill_from="extra"), seed=3)
    assert worst_error(oracle, artifact) < 0.06
    assert worst_error(oracle, visible) > 0.4


def test_look_back_masks_grow_with_time():
    """x_(t + t') masks all that x_t masks, and on average t + t' of the row."""
    from components.diffusion.corrupt import mask_tokens

    u = noise.uniform(noise.row_keys(1, torch.arange(4000)), 0, 0, 8, noise.Stream.CORRUPT)
    tokens, everywhere = torch.ones(4000, 8, dtype=torch.long), torch.ones(4000, 8, dtype=torch.bool)
    _, early = mask_tokens(tokens, everywhere, torch.full((4000,), 0.3), u, MASK)
    _, late = mask_tokens(tokens, everywhere, torch.full((4000,), 0.6), u, MASK)
    assert bool((early | ~late).all())
    assert abs(float(early.double().mean()) - 0.7) < 5 * (0.21 / 32000) ** 0.5


def test_labels_compare_with_the_data_and_not_with_the_noisy_row():
    """The share of wrong fills of an untrained network is about 1 - 1/V, not that of masks."""
    config = c.PrismConfig(num_fills=LENGTH)
    term = terms_of(config, batch(rows=64), network(config))["quality"]
    wrong, number = term.metrics["share_wrong"]
    assert 0.6 < float(wrong / number) < 1.0


def test_prisms_head_reads_the_filled_row():
    """Its output at a position changes with the token there."""
    model = network(c.PrismConfig())
    nn.init.normal_(model.quality.modulation.weight)
    tokens = batch(rows=2).tokens
    other = tokens.clone()
    other[:, 3] = (other[:, 3] - 1) % 5 + 2
    ask_head = lambda t: model(t, heads=("quality",)).heads["quality"][:, 3]  # noqa: E731
    assert bool((ask_head(tokens) != ask_head(other)).all())


@pytest.mark.parametrize("prompt", [0, 4])
@pytest.mark.parametrize(
    "config",
    [
        c.DscConfig(step=0.4),
        c.DscConfig(step=0.4, fill_from="extra"),
        c.DscConfig(step=0.4, scope="visible", fill_from="extra"),
    ],
)
def test_look_back_is_divided_by_the_tokens_that_are_judged(config, prompt):
    """And fills ceil(dt n) of the n positions that may be masked, at most, whatever the prompt's length is."""
    given = batch(rows=16, prompt=prompt)
    term = terms_of(config, given, network(config))["quality"]
    judged = int(term.metrics["share_wrong"][1])
    objective = config.load()(config, setting())
    rows = objective.corrupt(given)
    assert int(objective.counts(rows)["quality"]) == judged > 0
    if config.scope == "artifact":
        most = math.ceil(0.4 * int(given.maskable[0].sum()))
        assert judged <= 16 * most
        assert judged == int(rows.fillable.sum(-1).clamp(max=most).sum())


def test_of_dsls_discrete_rows_every_number_of_seen_tokens_below_all_is_as_frequent():
    """6,400 rows with a prompt of half their length, their times stratified; a share of 1/n is off by less than 0.01."""
    from components.objectives.dsl import ratios

    config = c.DslConfig(noise_dim=8, roar_share=1.0)
    size, seen = LENGTH - LENGTH // 2, []
    for step in range(100):
        given = batch(rows=64, prompt=LENGTH // 2, step=step)
        gamma = ratios(given, config)
        assert bool((gamma[~given.maskable] == config.gamma_max).all())
        seen.append(((gamma == config.gamma_max) & given.maskable).sum(-1))
    shares = torch.bincount(torch.cat(seen), minlength=size + 1) / 6400
    assert shares[size] == 0
    assert torch.allclose(shares[:size], torch.full((size,), 1 / size), atol=0.02)


def test_each_weight_over_time_flattens_its_own_term():
    given, models = batch(rows=8), network(c.ProsecoConfig())
    found = {}
    for name, config in {
        "neither": c.ProsecoConfig(),
        "mdm": c.ProsecoConfig(weight="flat"),
        "correct": c.ProsecoConfig(corrector_time_weight="flat"),
    }.items():
        found[name] = {n: float(t.loss_sum.detach()) for n, t in terms_of(config, given, models).items()}
    assert found["mdm"]["mdm"] != found["neither"]["mdm"]
    assert found["mdm"]["correct"] == found["neither"]["correct"]
    assert found["correct"]["mdm"] == found["neither"]["mdm"]
    assert found["correct"]["correct"] != found["neither"]["correct"]

"""What each paper promises of its objective, beyond the correctors' limits, on toys with known answers."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from components.diffusion import noise
from components.diffusion.schedule import LogLinear
from components.models.config import ModelConfig
from components.models.denoiser import Prediction
from components.models.permuted import Permuted
from components.models.transformer import Transformer
from components.objectives import config as c
from components.objectives.base import Batch, Setting
from components.objectives.mapet import ranks
from components.objectives.policy import build_grpo, log_likelihood, policy_term, roll_out
from components.objectives.smart import compose
from components.training.loop import build_objective
from components.training.rewards import match
from tests.learning import (
    LENGTH,
    MASK,
    VOCAB,
    batch,
    network,
    setting,
    terms_of,
)

# --- masks over self-generated text ------------------------------------------------------------------


def test_smart_composes_clean_and_own_tokens_under_new_masks():
    config, model = c.SmartConfig(), network(c.SmartConfig())
    given = batch(rows=32, prompt=2)
    rows = build_objective(config, setting()).corrupt(given)
    draft = compose(model, rows, config, setting())
    assert torch.equal(draft[:, :2], given.tokens[:, :2])
    assert torch.equal(rows.second, draft == MASK)
    visible = (draft != MASK) & given.maskable
    wrong = visible & (draft != given.tokens)
    assert 0.2 < float(wrong.sum() / visible.sum()) < 0.75


def test_smarts_loss_at_wrong_visible_tokens_falls_and_the_truth_is_a_fixed_point():
    """200 steps on rows in which all tokens agree."""
    config = c.SmartConfig(plain_share=0.0)
    model = network(config, seed=1).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    objective = build_objective(config, setting())
    history = []
    for step in range(200):
        index = torch.arange(64)
        keys = noise.row_keys(step, index)
        symbol = (noise.uniform(keys, 0, 0, 1, noise.Stream.SCORE) * 5).long() + 2
        tokens = symbol.expand(-1, LENGTH).contiguous()
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        given = Batch(tokens, everywhere, everywhere, index, keys, 64, step)
        optimizer.zero_grad()
        corrupted = objective.corrupt(given)
        total = objective.counts(corrupted)
        for term in objective.terms(model, corrupted):
            if term.loss_sum.requires_grad:
                (term.loss_sum / total[term.name].clamp(min=1)).backward()
            if term.name == "smart":
                nats, number = term.metrics["wrong_ce"]
                history.append(float(nats / number.clamp(min=1)))
        optimizer.step()
    assert sum(history[-20:]) / 20 < 0.5 * sum(history[:20]) / 20
    truth = torch.arange(2, VOCAB)[:, None].expand(-1, LENGTH)
    p = model(truth).logits.softmax(-1).gather(-1, truth[..., None])
    assert float(p.min()) > 0.8


def test_cmlm_masks_a_uniform_number():
    objective = build_objective(c.CmlmConfig(), setting())
    numbers = [int(objective.counts(objective.corrupt(batch(rows=1, seed=s)))["masked"]) for s in range(400)]
    counts = torch.bincount(torch.tensor(numbers), minlength=LENGTH + 1)
    assert counts[0] == 0
    assert bool((counts[1:] > 400 / LENGTH / 2).all())


# --- noisy embeddings --------------------------------------------------------------------------------


def test_the_noisy_input_has_the_stated_law():
    """z = gamma e + sqrt(gamma) eps: mean gamma e, variance gamma; nothing at gamma = 0; prompts without noise."""
    model = network(c.DslConfig(noise_dim=8))
    table = model.encoder.table()
    tokens = torch.full((20000, 1), 3)
    for gamma in (0.0, 0.5, 9.0):
        eps = torch.randn(20000, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        z = model.encoder.noisy(tokens, torch.full((20000, 1), gamma, dtype=torch.float64), eps)[:, 0]
        assert torch.allclose(z.mean(0), gamma * table[3], atol=5 * (gamma / 20000) ** 0.5 + 1e-12)
        assert torch.allclose(z.var(0), torch.full((8,), gamma, dtype=torch.float64), atol=0.06 * gamma + 1e-12)


def test_the_networks_answer_depends_on_z_and_not_on_the_nominal_ratio():
    """The same z made at two ratios gives the same prediction: gamma reaches nobody."""
    model = network(c.DslConfig(noise_dim=8))
    tokens = batch(rows=2).tokens
    low = torch.full((2, LENGTH), 1.0, dtype=torch.float64)
    eps = torch.randn(2, LENGTH, 8, dtype=torch.float64)
    z = model.encoder.noisy(tokens, low, eps)
    high = 9 * low
    same = (z - high[..., None] * model.encoder.table()[tokens]) / high[..., None].sqrt()
    a = model(tokens, evidence=(low, eps)).logits
    b = model(tokens, evidence=(high, same)).logits
    assert torch.allclose(a, b, atol=1e-9)


def test_written_tokens_and_masks_are_the_ends_of_the_scale():
    model = network(c.DslConfig(noise_dim=8))
    tokens = batch(rows=3).tokens
    full = torch.full((3, LENGTH), 100.0, dtype=torch.float64)
    none = torch.zeros(3, LENGTH, 8, dtype=torch.float64)
    assert torch.allclose(model(tokens, evidence=(full, none)).logits, model(tokens).logits)
    masks = torch.full_like(tokens, MASK)
    assert torch.allclose(model(tokens, evidence=(0 * full, none)).logits, model(masks).logits)


# --- permuted prediction -----------------------------------------------------------------------------


@pytest.mark.parametrize("two", [True, False])
def test_no_prediction_sees_its_own_token_or_a_later_one(two):
    """The gradient of each query with respect to the content of its own and of later ranks is exactly 0."""
    model = network(c.MapetConfig())
    tokens = batch(rows=1).tokens
    rank = torch.tensor([[0, 3, 1, 0, 5, 2, 4, 6]])
    seen: list[torch.Tensor] = []
    model.embed.register_forward_hook(lambda m, i, o: seen.append(o.requires_grad_()) or o)
    logits = model(tokens, permuted=Permuted(rank, MASK, two)).logits
    for j in range(LENGTH):
        if rank[0, j] == 0:
            continue
        (gradient,) = torch.autograd.grad(logits[0, j].sum(), seen[0], retain_graph=True)
        content = gradient[0, :LENGTH].abs().sum(-1)
        hidden = (rank[0] >= rank[0, j]) & (rank[0] > 0)
        assert bool((content[hidden] == 0).all())
        assert bool((content[~hidden] > 0).all())


@pytest.mark.parametrize("two", [True, False])
def test_the_conditionals_along_an_order_make_a_normalised_joint(two):
    """Three binary tokens, no context: products of conditionals over all rows sum to 1, or else a mask leaked."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=16, depth=2, heads=2, num_positions=3), 3).double()
    nn.init.normal_(model.head.weight)
    rank = torch.tensor([[2, 3, 1]])
    total = 0.0
    for row in itertools.product((1, 2), repeat=3):
        tokens = torch.tensor([row])
        logits = model(tokens, permuted=Permuted(rank, 0, two)).logits
        logits[..., 0] = float("-inf")
        total += float(logits.log_softmax(-1).gather(-1, tokens[..., None]).sum().exp())
    assert total == pytest.approx(1.0, abs=1e-9)


def test_orders_are_random_and_leave_prompts_and_context_out():
    rank, size = ranks(batch(rows=64, prompt=2), 0.25)
    assert bool((rank[:, :2] == 0).all())
    assert set(size.tolist()) == {5}
    assert all(sorted(r[r > 0].tolist()) == [1, 2, 3, 4, 5] for r in rank)
    assert len({tuple(r.tolist()) for r in rank}) > 50


def test_image_tokens_are_rows_like_any_other():
    """A 4 x 4 grid of visual tokens from a small generator: permuted prediction learns that neighbours agree."""
    from components.data.corpora.images import patch_tokens

    config = c.MapetConfig()
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=32, depth=2, heads=2, num_positions=16), 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    objective = build_objective(config, Setting(MASK, LogLinear(), 1e-3, 6))
    losses = []
    for step in range(150):
        index = torch.arange(64)
        tokens = torch.tensor([patch_tokens(side=4, levels=4, seed=64 * step + i) for i in range(64)]) + 2
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        given = Batch(tokens, everywhere, everywhere, index, noise.row_keys(step, index), 64, step)
        corrupted = objective.corrupt(given)
        (term,) = objective.terms(model, corrupted)
        loss = term.loss_sum / objective.counts(corrupted)["permuted"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-10:]) / 10 < 0.75 * losses[0]


# --- policies ----------------------------------------------------------------------------------------


def test_the_ratio_is_exactly_one_in_the_first_inner_epoch():
    config = c.PolicyGrpoConfig(rollouts=4)
    model = network(config).float()
    nn.init.normal_(model.policy.out.weight)
    given = batch(rows=5)
    rollouts = roll_out(model, given, config, setting())
    assert torch.equal(log_likelihood(model, rollouts, config), rollouts.old)
    metrics = policy_term(model, rollouts, config).metrics
    assert float(metrics["ratio_off_one"][0]) == 0.0
    assert float(rollouts.advantage.abs().sum()) > 0


def test_advantages_have_no_mean_in_any_group_and_experts_are_marked():
    config = c.PolicyGrpoConfig(rollouts=4, expert_thresholds=(0.5, 0.9))
    rollouts = roll_out(network(config).float(), batch(rows=5), config, setting())
    assert torch.allclose(rollouts.advantage.view(6, 5).sum(0), torch.zeros(5), atol=1e-5)
    assert rollouts.expert.view(6, 5)[:, 0].tolist() == [False] * 4 + [True] * 2
    assert bool((rollouts.num_steps >= 1).all())
    assert bool((rollouts.num_steps <= LENGTH).all())


def test_positions_outside_the_choice_do_not_reach_the_likelihood():
    config = c.PolicyGrpoConfig(rollouts=2, expert_thresholds=())
    model = network(config).float()
    rollouts = roll_out(model, batch(rows=3, prompt=3), config, setting())
    assert not bool(rollouts.action[..., :3].any())
    assert not bool(rollouts.masked[..., :3].any())


def test_rollouts_are_used_for_as_many_steps_as_there_are_inner_epochs():
    config = c.PolicyGrpoConfig(rollouts=3, inner_epochs=2)
    model = network(config).float()
    nn.init.normal_(model.policy.out.weight)
    objective = build_grpo(config, setting())
    ratios = []
    for step in range(4):
        (term,) = objective.terms(model, dataclasses.replace(batch(rows=4), step=step))
        model.zero_grad()
        (term.loss_sum / 20).backward()
        with torch.no_grad():
            for p in model.policy.parameters():
                if p.grad is not None:
                    p -= 0.5 * p.grad
        ratios.append(float(term.metrics["ratio_off_one"][0]))
    assert ratios[0] == 0
    assert ratios[1] > 0
    assert ratios[2] == 0
    assert ratios[3] > 0


def test_rewards_of_speed_make_a_policy_bolder():
    """Every answer is right, so speed alone counts: the policy learns to reveal more at once."""
    config = c.PolicyGrpoConfig(rollouts=8, expert_thresholds=(), speed=2.0)
    model = network(config).float()
    always = lambda tokens, clean: torch.ones(len(tokens), dtype=torch.float64)  # noqa: E731
    objective = build_grpo(config, setting(always))
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=3e-3)
    steps = []
    for step in range(40):
        (term,) = objective.terms(model, dataclasses.replace(batch(rows=8, seed=step), step=step))
        optimizer.zero_grad()
        (term.loss_sum / 64).backward()
        optimizer.step()
        total, number = term.metrics["rollout_steps"]
        steps.append(float(total / number))
    assert steps[-1] < 0.7 * steps[0]


def test_imitation_learns_where_the_network_is_right():
    """Confident positions of this denoiser are right, others are not: the policy must tell them apart by c."""
    config = c.PolicyImitationConfig()
    model = network(config).float()
    policy = model.policy

    class Half(nn.Module):
        """Knows even positions for certain and nothing of odd ones."""

        def decide(self, *given):
            return model.decide(*given)

        def forward(self, tokens, *, select=None, **ignored):
            logits = torch.zeros(*tokens.shape, VOCAB)
            logits[:, ::2] = torch.nn.functional.one_hot(current.tokens[:, ::2], VOCAB) * 9.0
            return Prediction(logits.flatten(0, 1)[select])

    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    objective = build_objective(config, setting())
    for step in range(120):
        current = dataclasses.replace(batch(rows=32, seed=step), step=step)
        corrupted = objective.corrupt(current)
        (term,) = objective.terms(Half(), corrupted)
        optimizer.zero_grad()
        (term.loss_sum / objective.counts(corrupted)["policy"]).backward()
        optimizer.step()
    agrees, number = term.metrics["policy_agrees"]
    assert float(agrees / number) > 0.85
    logits = model.decide(torch.tensor([[0.99, 0.15]]), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1))
    assert float(logits.detach()[0, 0]) > 0 > float(logits.detach()[0, 1])


def test_imitation_is_told_the_time_as_a_sampler_tells_it():
    """Tokens that were written over the row's length: a prompt is none of them."""
    config, told = c.PolicyImitationConfig(), []
    model = network(config).float()

    class Told(nn.Module):
        def decide(self, confidence, masked, time, sizes=None):
            told.append((masked, time))
            return model.decide(confidence, masked, time)

        def forward(self, *given, **named):
            return model(*given, **named)

    objective = build_objective(config, setting())
    given = batch(rows=8, prompt=2)
    list(objective.terms(Told(), objective.corrupt(given)))
    masked, time = told[0]
    assert torch.equal(time, (given.maskable & ~masked).sum(-1) / masked.shape[1])


def test_the_rows_own_answer_is_the_reward_where_a_corpus_has_no_rules():
    clean = torch.tensor([[1, 2], [3, 4]])
    assert match(torch.tensor([[1, 2], [3, 5]]), clean).tolist() == [1.0, 0.0]


# --- soft inputs ------------------------------------------------------------------------------------


def test_with_a_share_of_zero_soft_inputs_change_nothing():
    plain, soft = c.MdlmConfig(), c.SoftMaskConfig(share=0.0)
    a = terms_of(plain, batch(rows=8), network(plain))["mdm"].loss_sum
    b = terms_of(soft, batch(rows=8), network(soft))["mdm"].loss_sum
    assert torch.allclose(a, b)
    on = terms_of(c.SoftMaskConfig(share=1.0), batch(rows=8), network(soft))["mdm"].loss_sum
    assert not torch.allclose(a, on)

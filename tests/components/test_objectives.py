"""ProSeCo's loss by hand, its gradient in parts, and the pitfalls of the published code."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from components.diffusion import noise
from components.diffusion.categorical import inverse_cdf
from components.diffusion.schedule import Cosine, LogLinear, stratified_times
from components.models.config import ModelConfig
from components.models.transformer import Transformer
from components.objectives import OBJECTIVES
from components.objectives.base import Batch, Network, Setting, corruption, draw_times, uniforms
from components.objectives.config import MdlmConfig, ProsecoConfig, SoftMaskConfig
from components.objectives.proseco import correcting_rows
from components.training.config import TrainConfig
from components.training.loop import build_objective
from tests.doubles import answer

MASK, PAD, VOCAB, LENGTH = 0, 1, 7, 6
CONFIGS = [
    MdlmConfig(),
    MdlmConfig(weight="flat"),
    ProsecoConfig(),
    ProsecoConfig(draft_positions="masked"),
    ProsecoConfig(draft_token="sample"),
    ProsecoConfig(error_weighted=True),
    ProsecoConfig(weight="flat"),
    ProsecoConfig(corrector_time_weight="flat"),
    ProsecoConfig(every=2),
    ProsecoConfig(mdm_weight=0.5, corrector_weight=2.0),
    ProsecoConfig(corrector_weight=0.0),
]


def batch(rows=4, step=3, prompt=0, pads=0, pads_count=False, seed=11, first=0, total=None):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, VOCAB, (rows, LENGTH), generator=generator)
    if pads:
        tokens[:, -pads:] = PAD
    maskable = (torch.arange(LENGTH) >= prompt).expand(rows, -1)
    target = maskable if pads_count else maskable & (tokens != PAD)
    index = torch.arange(first, first + rows)
    return Batch(tokens, maskable, target, index, noise.row_keys(seed, index), total or rows, step)


def setting(t_min=0.1, schedule=None):
    return Setting(MASK, schedule or LogLinear(), t_min, VOCAB)


def model(seed=0):
    torch.manual_seed(seed)
    return Transformer(ModelConfig(dim=16, depth=1, heads=2), VOCAB).double()


def losses(config, batch, network, setting_=None):
    objective = build_objective(config, setting_ or setting())
    return {t.name: t for t in objective.terms(network, objective.corrupt(batch))}


class Tabular(Network):
    """Logits as a function of the token at the position alone: row v of a table [V, V]."""

    def __init__(self, table):
        self.table = table

    def __call__(self, tokens, *, select=None, label=None, time=None, judge=None):
        return answer(self.table[tokens], select, judge)


def test_the_loss_equals_a_value_derived_by_hand():
    """2 rows x 4 positions, every number recomputed with plain loops and ``math``. Tolerance 1e-6.

    The table makes the draft right at some visible and masked positions and wrong at others, and both
    kinds must count in the corrector term.
    """
    torch.manual_seed(5)
    table = torch.randn(VOCAB, VOCAB, dtype=torch.float64)
    table[2, 2] = 4.0  # token 2 is copied: a visible, correct position
    tokens = torch.tensor([[2, 3, 4, 2], [5, 2, 6, 3]])
    index = torch.arange(2)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    b = Batch(tokens, everything, everything, index, noise.row_keys(1, index), 2, 9)
    found = losses(ProsecoConfig(), b, Tabular(table))
    times, u = draw_times(b, 0.1), corruption(b)

    def log_softmax(v, target):
        row = [float(x) for k, x in enumerate(table[v].float()) if k != MASK]
        total = math.log(sum(math.exp(x) for x in row))
        return float(table[v].float()[target]) - total

    mdm = correct = 0.0
    drafts = []
    for i in range(2):
        t = float(times[i])
        for j in range(4):
            x = int(tokens[i, j])
            masked = float(u[i, j]) >= 1 - (1 - 1e-3) * t
            z = MASK if masked else x
            y = max((v for v in range(VOCAB) if v != MASK), key=lambda v, z=z: float(table[z, v]))
            drafts.append((masked, y == x))
            if masked:
                mdm += -log_softmax(z, x) / t
            correct += -log_softmax(y, x) / t
    assert {(False, True), (True, False)} <= set(drafts)
    assert float(found["mdm"].loss_sum) == pytest.approx(mdm, rel=1e-6)
    assert float(found["correct"].loss_sum) == pytest.approx(correct, rel=1e-6)


@pytest.mark.parametrize("config", [c for c in CONFIGS if isinstance(c, ProsecoConfig) and c.corrector_weight], ids=str)
def test_the_gradient_is_that_of_both_terms_with_a_constant_draft(config):
    """Pitfalls 3 and 12: total = grad(MDM) + grad(SC with y constant), to 1e-6; and backward term by
    term equals backward of the sum."""
    network, b = model(), batch()
    objective = build_objective(config, setting())
    for term in objective.terms(network, objective.corrupt(b)):
        term.loss_sum.backward()
    split = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    sum(t.loss_sum for t in objective.terms(network, objective.corrupt(b))).backward()
    joint = [p.grad.clone() for p in network.parameters()]
    # By hand: the draft from the same outputs, as a constant.
    network.zero_grad()
    from components.objectives import proseco
    from components.objectives.mdlm import noise_rows

    s = setting()
    noised = noise_rows(b, s)
    logits = network(noised.tokens).logits
    logits = torch.where(torch.arange(VOCAB) == MASK, -torch.inf, logits)
    flat = noised.masked.flatten().nonzero()[:, 0]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[flat], b.tokens.flatten()[flat], reduction="none")
    mdm = (nll if config.weight == "flat" else nll / noised.time[flat // LENGTH]).sum()
    where = b.maskable if config.draft_positions == "all" else noised.masked
    where_flat = where.flatten().nonzero()[:, 0]
    at = logits.detach().flatten(0, 1)[where_flat]
    u = uniforms(b, noise.Stream.CORRUPT_DRAFT).flatten()[where_flat]
    word = inverse_cdf(torch.softmax(at, -1), u) if config.draft_token == "sample" else at.argmax(-1)
    draft = b.tokens.flatten().scatter(0, where_flat, word).view_as(b.tokens)
    correct = proseco.correcting_term(network, b, noised.time, draft, config, s).loss_sum
    (config.mdm_weight * mdm + correct).backward()
    for a, c, p in zip(split, joint, network.parameters(), strict=True):
        assert torch.allclose(a, c, atol=1e-9)
        assert torch.allclose(a, p.grad, atol=1e-6)


def test_the_corrector_sees_visible_positions_and_learns_there():
    """Pitfalls 1 and 4: nothing is carried over; a visible, correct position has a loss and a gradient."""
    network = model()
    b = batch()
    term = losses(ProsecoConfig(), b, network)["correct"]
    term.loss_sum.backward()
    assert float(term.metrics["correct_ce"][1]) == b.tokens.numel()
    assert all(p.grad.abs().sum() > 0 for n, p in network.named_parameters() if "embed" not in n)


def test_the_draft_holds_no_mask_and_keeps_the_prompt():
    """Pitfalls 2 and 8."""
    shown = []

    class Recorder(Network):
        def __call__(self, tokens, **kwargs):
            shown.append(tokens.clone())
            logits = torch.zeros(*tokens.shape, VOCAB)
            logits[..., MASK] = 50
            return answer(logits, kwargs.get("select"), kwargs.get("judge"))

    b = batch(prompt=3)
    for draft in ("all", "masked"):
        shown.clear()
        losses(ProsecoConfig(draft_positions=draft), b, Recorder())
        noised, drafted = shown
        assert torch.equal(noised[:, :3], b.tokens[:, :3])
        assert torch.equal(drafted[:, :3], b.tokens[:, :3])
        assert MASK not in drafted


def test_prompts_are_outside_both_losses():
    """Pitfall 8: what the targets of the prompt are does not matter, given the inputs."""
    b = batch(prompt=3)
    table = torch.randn(VOCAB, VOCAB, dtype=torch.float64)
    before = losses(ProsecoConfig(), b, Tabular(table))
    moved = dataclasses.replace(b, tokens=torch.cat([b.tokens[:, :3].roll(1, 0), b.tokens[:, 3:]], 1))
    after = losses(ProsecoConfig(), moved, Tabular(table))
    for name in before:
        assert float(before[name].loss_sum) == pytest.approx(float(after[name].loss_sum))


def test_the_weight_is_one_over_t_and_general():
    """Pitfall 5: exact for log-linear, and the generic formula against a numeric derivative."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    assert torch.allclose(LogLinear().weight(t), 1 / t)
    for schedule in (LogLinear(eps=1e-9), Cosine()):
        h = 1e-6
        slope = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h)
        assert torch.allclose(schedule.weight(t), -slope / (1 - schedule.alpha(t)), rtol=1e-5)


def test_times_are_stratified_and_bounded():
    jitter = torch.rand(64, dtype=torch.float64)
    t = stratified_times(torch.arange(64), 64, jitter, 0.1)
    assert float(t.min()) >= 0.1
    assert float(t.max()) <= 1
    strata = ((t - 0.1) / 0.9 * 64).floor().long().sort().values
    assert torch.equal(strata, torch.arange(64))


def test_counts_are_targets_not_masks_and_pads_do_not_matter():
    """Pitfall 6."""
    objective = build_objective(ProsecoConfig(), setting())
    counts = lambda given: objective.counts(objective.corrupt(given)).values()  # noqa: E731
    assert all(int(c) == 4 * (LENGTH - 2) for c in counts(batch(pads=2)))
    assert all(int(c) == 4 * LENGTH for c in counts(batch(pads=2, pads_count=True)))
    table = torch.randn(VOCAB, VOCAB, dtype=torch.float64)
    b = batch(pads=2)
    changed = table.clone()
    changed[PAD] = torch.randn(VOCAB)
    one, two = losses(MdlmConfig(), b, Tabular(table)), losses(MdlmConfig(), b, Tabular(changed))
    assert float(one["mdm"].loss_sum) == float(two["mdm"].loss_sum)


def test_defaults_train():
    """Pitfall 9: no silent zero weights."""
    for name in ("mdlm", "proseco"):
        network = model()
        terms = losses(OBJECTIVES[name](), batch(), network)
        sum(t.loss_sum for t in terms.values()).backward()
        assert all(float(t.loss_sum.detach()) > 0 for t in terms.values()), name
        assert sum(float(p.grad.abs().sum()) for p in network.parameters()) > 0


def test_a_late_start_crosses_its_boundary():
    """Pitfall 9: the released code crashes on one side of it."""
    config = ProsecoConfig(start_step=5)
    assert set(losses(config, batch(step=4), model())) == {"mdm"}
    assert set(losses(config, batch(step=5), model())) == {"mdm", "correct"}
    objective = build_objective(config, setting())
    assert set(objective.counts(objective.corrupt(batch(step=4)))) == {"mdm"}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_nothing_is_edited_in_place(config):
    """Pitfall 10."""
    b = dataclasses.replace(batch(prompt=1), label=torch.tensor([0.0, 1, 0, 1]))
    before = {f.name: getattr(b, f.name) for f in dataclasses.fields(b)}
    copies = {k: v.clone() for k, v in before.items() if isinstance(v, torch.Tensor)}
    torch.manual_seed(0)
    network = Transformer(ModelConfig(dim=16, depth=1, heads=2, num_classes=2, time_conditioning=True), VOCAB)
    optimizer = torch.optim.AdamW(network.parameters())
    for term in losses(config, b, network).values():
        term.loss_sum.backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in copies.items())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_contract_split_batches_add_up(config):
    """Sums over parts of a batch equal the whole, and gradients are finite."""
    network, whole = model(), batch(rows=8)
    parts = [
        dataclasses.replace(
            whole, tokens=whole.tokens[i : i + 4], maskable=whole.maskable[i : i + 4], target=whole.target[i : i + 4],
            index=whole.index[i : i + 4], keys=whole.keys[i : i + 4],
        )
        for i in (0, 4)
    ]  # fmt: skip
    full = losses(config, whole, network)
    split = [losses(config, p, network) for p in parts]
    for name, term in full.items():
        total = sum(s[name].loss_sum for s in split)
        assert torch.allclose(term.loss_sum, total, rtol=1e-9)
    sum(t.loss_sum for t in full.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_contract_no_noise_no_masked_loss():
    b = batch()
    quiet = dataclasses.replace(b, maskable=torch.zeros_like(b.maskable), target=torch.zeros_like(b.target))
    for config in (MdlmConfig(), ProsecoConfig()):
        assert all(float(t.loss_sum) == 0 for t in losses(config, quiet, model()).values())


def test_correcting_every_second_row_is_unbiased_over_two_steps():
    b = batch(rows=6)
    first = correcting_rows(dataclasses.replace(b, step=0), 2)
    second = correcting_rows(dataclasses.replace(b, step=1), 2)
    assert sorted(first.tolist() + second.tolist()) == list(range(6))


def test_error_weighting_logs_the_plain_entropy_too():
    """Pitfall 13."""
    plain = losses(ProsecoConfig(), batch(), model())["correct"]
    weighted = losses(ProsecoConfig(error_weighted=True), batch(), model())["correct"]
    assert float(plain.metrics["correct_ce"][0]) == pytest.approx(float(weighted.metrics["correct_ce"][0]))
    assert float(weighted.loss_sum) != pytest.approx(float(plain.loss_sum))
    assert {"fix_rate", "break_rate"} <= set(weighted.metrics)


def test_the_validation_bound_has_no_corrector_in_it():
    """Pitfall 11: the masked-diffusion part of ProSeCo is MDLM's, number for number."""
    network = model()
    assert float(losses(MdlmConfig(), batch(), network)["mdm"].loss_sum) == pytest.approx(
        float(losses(ProsecoConfig(), batch(), network)["mdm"].loss_sum)
    )


def test_the_bound_of_a_constant_network_is_log_v():
    """G3: the expectation over times of the bound of uniform predictions is log V per token."""
    uniform = Tabular(torch.zeros(VOCAB, VOCAB))
    total, count = 0.0, 0
    for step in range(200):
        term = losses(MdlmConfig(), batch(rows=32, step=step), uniform, setting(t_min=1e-3))["mdm"]
        total, count = total + float(term.loss_sum), count + 32 * LENGTH
    assert total / count == pytest.approx(math.log(VOCAB - 1), rel=0.02)


def test_times_that_are_trained_begin_where_the_objective_says():
    """A correcting term weighs every position by 1/t: at t_min = 1e-3 its mean weight would be 6.9, at 0.1 it is 2.6."""
    expected = {"mdlm": (MdlmConfig(), 1e-3), "proseco": (ProsecoConfig(), 0.1), "no corrector": (ProsecoConfig(corrector_weight=0), 1e-3)}
    expected |= {"soft proseco": (SoftMaskConfig(base="proseco"), 0.1), "soft mdlm": (SoftMaskConfig(base="mdlm"), 1e-3)}
    for name, (objective, t_min) in expected.items():
        assert TrainConfig(objective=objective).smallest_time() == t_min, name
        assert TrainConfig(objective=objective, t_min=0.02).smallest_time() == 0.02

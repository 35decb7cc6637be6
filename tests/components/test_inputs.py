"""Soft inputs, noisy embeddings, guidance, the learned policy, and draws from large vocabularies."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from components.diffusion import categorical, noise
from components.diffusion.config import DrawConfig
from components.errors import SamplingError
from components.models.config import ModelConfig
from components.models.denoiser import Prediction
from components.models.heads import PolicyNet
from components.models.transformer import Transformer
from components.samplers import SamplerConfig, presets
from components.samplers.config import GuidanceConfig
from components.samplers.contract import Row, Vocabulary
from components.samplers.needs import missing
from components.samplers.options.correctors import NoCorrectorConfig, PrismConfig, ProsecoCorrectorConfig
from components.samplers.options.inputs import DslSdeConfig, HardConfig, MixtureConfig, SoftMaskConfig
from components.samplers.options.orders import ConfidenceConfig
from components.samplers.options.schedules import FixedCountConfig, LearnedConfig
from components.samplers.sampler import build_sampler
from components.samplers.schedules.learned import log_probability
from components.shards.model import extras_of
from tests.decoding import decode, distance, drive, law, rows_of, run, sampler_of, tokens_of
from tests.oracle import Oracle, chi_square


def preset(name: str, **changes) -> SamplerConfig:
    return replace(presets.preset(name), **changes)


class Watched:
    """An oracle that keeps the inputs that it was shown."""

    def __init__(self, oracle: Oracle):
        self.oracle, self.soft, self.tokens, self.labels = oracle, [], [], []

    def __call__(self, tokens, **kwargs):
        self.tokens.append(tokens.clone())
        self.soft.append(kwargs.get("soft"))
        self.labels.append(kwargs.get("label"))
        return self.oracle(tokens, **kwargs)


@pytest.mark.parametrize("inputs", [MixtureConfig(top_k=3), SoftMaskConfig(top_k=3)])
def test_mixture_weights_sum_to_one_and_fixed_positions_are_hard(inputs):
    watched = Watched(Oracle(3, 6, seed=1))
    config = SamplerConfig(steps=4, schedule=FixedCountConfig(), unmask=ConfidenceConfig(), inputs=inputs)
    softened = 0
    for _ in drive(watched, sampler_of(watched.oracle, config), rows_of(watched.oracle, 20, prompt=1)):
        _, weights = watched.soft[-1]
        assert torch.allclose(weights.sum(-1), torch.ones(20, 6))
        assert bool((weights >= -1e-6).all())
        assert bool((weights[:, 0, 0] == 1).all()), "the prompt"
        masked = watched.tokens[-1] == 3
        other = ~masked if isinstance(inputs, SoftMaskConfig) else masked
        assert bool((weights[..., 0][other] == 1).all()), "each kind softens its own positions only"
        softened += int((weights[..., 0] < 1).sum())
    assert softened > 0


def test_an_infinite_beta_is_hard_decoding_bit_for_bit():
    torch.manual_seed(0)
    network = Transformer(ModelConfig(dim=16, depth=2, heads=2), 8).eval()
    torch.nn.init.normal_(network.head.weight)
    rows = [Row(i, (0,) * 6, (False,) * 6) for i in range(8)]
    found = []
    for inputs in (HardConfig(), MixtureConfig(beta=math.inf), SoftMaskConfig(beta=math.inf)):
        config = SamplerConfig(steps=4, schedule=FixedCountConfig(), unmask=ConfidenceConfig(), inputs=inputs)
        found.append(decode(network, build_sampler(config, Vocabulary(0)), rows, 8))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["moi", "soft_mask"])
def test_who_reads_noisy_embeddings_can_be_shown_no_mixtures(name):
    assert [need.name for need in missing(preset(name), {"encoder": "dsl"}, False)] == ["an encoder of tokens"]
    assert not missing(preset(name), {"encoder": "tokens"}, False)


def test_the_more_uncertain_the_more_mask():
    """The sign of soft masks: weight of the mask (beta + H) / (beta + 1)."""
    oracle = Oracle(3, 5, seed=3)
    watched = Watched(oracle)
    config = preset("soft_mask", steps=4, inputs=SoftMaskConfig(beta=1.0, top_k=3, fade=0.0))
    list(drive(watched, sampler_of(oracle, config), rows_of(oracle, 30)))
    p = oracle(watched.tokens[0]).logits[..., :3].softmax(-1)
    entropy = -(p * p.log()).sum(-1) / math.log(3)
    _, weights = watched.soft[1]
    masked = watched.tokens[1] == 3
    assert torch.allclose(weights[..., 0][masked].double(), ((1 + entropy) / 2)[masked], atol=1e-5)


def test_a_written_token_stays_mixed_with_what_it_was_drawn_from():
    """w = (H p + (beta + 1 - H) y) / (beta + 1), p from the call of the commit, over the k best."""
    oracle = Oracle(3, 5, seed=3)
    watched = Watched(oracle)
    config = preset("moi", steps=5, inputs=MixtureConfig(beta=1.0, top_k=3, fade=0.0))
    records = [r for _, _, r in drive(watched, sampler_of(oracle, config), rows_of(oracle, 30))]
    p = oracle(watched.tokens[0]).logits[..., :3].softmax(-1)
    entropy = -(p * p.log()).sum(-1) / math.log(3)
    ids, weights = watched.soft[1]
    mass = torch.zeros(30, 5, 4, dtype=torch.float64).scatter_add(-1, ids, weights.double())[..., :3]
    y = torch.nn.functional.one_hot(records[0].after.clamp(max=2), 3)
    expected = (entropy[..., None] * p + (2 - entropy[..., None]) * y) / 2
    where = records[0].revealed
    assert torch.allclose(mass[where], expected[where], atol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_a_soft_mask_keeps_what_its_tick_was_drawn_from_which_is_the_correctors_last_pass(every):
    """A network that says one thing to rows with masks and another to full ones, without uncertainty: tick 1 is drawn from
    the predictor where omega is 2, and from the corrector where it is 1."""

    def network(tokens, *, select=None, **given):
        said = torch.where((tokens == 3).any(-1), 0, 1)[:, None, None].expand(*tokens.shape, 1)
        logits = torch.zeros(*tokens.shape, 4).scatter(-1, said, 40.0)
        return Prediction(logits if select is None else logits.flatten(0, 1)[select])

    oracle = Oracle(3, 4)
    corrector = ProsecoCorrectorConfig(every=every, passes=1)
    inputs = SoftMaskConfig(beta=1.0, top_k=1)
    config = preset("soft_mask", steps=4, inputs=inputs, corrector=corrector)
    seen = []
    for before, after, _ in drive(network, sampler_of(oracle, config), rows_of(oracle, 5)):
        if bool((after.tick > before.tick).all()):
            masks = after.tokens == 3
            assert torch.allclose(after["soft_weights"][masks], torch.tensor(0.5))
            seen.append(after["soft_ids"][masks].unique().tolist())
    assert seen == ([[1], [1], [1], []] if every == 1 else [[0], [1], [0], []])


def test_remasking_clears_the_soft_memory():
    oracle = Oracle(3, 6, seed=3)
    config = preset("moi", corrector=PrismConfig(start=0.0), steps=5)
    for _, after, record in drive(oracle, sampler_of(oracle, config), rows_of(oracle, 30)):
        assert bool((after["soft_weights"][record.remasked] == 0).all())
        assert bool((after["soft_weights"][after.tokens == 3] == 0).all())


def test_a_network_reads_a_one_hot_mixture_as_the_token():
    network = Transformer(ModelConfig(dim=16, depth=2, heads=2), 8).eval()
    tokens = torch.randint(0, 8, (3, 6))
    ids = torch.stack([tokens, torch.randint(0, 8, (3, 6))], -1)
    weights = torch.stack([torch.ones(3, 6), torch.zeros(3, 6)], -1)
    assert torch.equal(network(tokens, soft=(ids, weights)).logits, network(tokens).logits)


# --- noisy embeddings ------------------------------------------------------------------------------


@pytest.mark.law
def test_the_sde_ends_on_the_prior_of_a_single_token(device):
    """One token, p given: the endpoint law of the stochastic differential equation. 20,000 rows, 200 steps;
    the discretisation moves the law by less than 0.01 here, the noise of the test is 0.004."""
    oracle = Oracle(num_tokens=3, length=1, joint=lambda o: torch.tensor([0.5, 0.2, 0.3]), device=device)
    config = preset("dsl_sde", steps=200, inputs=DslSdeConfig(gamma_max=40.0))
    found = law(oracle, tokens_of(run(oracle, config, rows_of(oracle, 20000), lanes=20000)))
    assert distance(found, oracle.joint) < 0.015


@pytest.mark.law
def test_a_grid_that_grows_as_k_squared_is_nearer_to_the_joint_at_equal_calls():
    """3 positions, 16 ticks, 8,000 rows, whose noise is about 0.01 in total variation."""
    oracle = Oracle(num_tokens=2, length=3, seed=1)
    far = {}
    for grid in ("even", "quadratic"):
        config = preset("dsl_sde", steps=16, inputs=DslSdeConfig(gamma_max=40.0, grid=grid))
        found = law(oracle, tokens_of(run(oracle, config, rows_of(oracle, 8000), lanes=8000)))
        far[grid] = distance(found, oracle.joint)
    assert far["quadratic"] < 0.75 * far["even"]


@pytest.mark.law
def test_the_sde_couples_positions(device):
    """Two tokens that agree: independent draws would disagree half of the time."""
    oracle = Oracle(num_tokens=2, length=2, joint=lambda o: (o[:, 0] == o[:, 1]).double() + 1e-6, device=device)
    config = preset("dsl_sde", steps=100, inputs=DslSdeConfig(gamma_max=40.0))
    tokens = tokens_of(run(oracle, config, rows_of(oracle, 2000), lanes=2000))
    assert float((tokens[:, 0] == tokens[:, 1]).double().mean()) > 0.99
    assert abs(float(tokens.double().mean()) - 0.5) < 0.05


def noisy_network() -> Transformer:
    torch.manual_seed(0)
    network = Transformer(ModelConfig(dim=16, depth=1, heads=2, encoder="dsl", noise_dim=8), 12).eval()
    torch.nn.init.normal_(network.head.weight)
    return network


def test_the_encoder_sees_no_evidence_as_a_mask_and_strong_evidence_as_the_token():
    """z = 0 is the mask's row with 99%; z = gamma_max e_v is the token's. Rows of the table are unit, after loading, too."""
    network = noisy_network()
    encoder = network.encoder
    assert encoder is not None
    with torch.no_grad():
        encoder.directions_embed.mul_(7)  # a checkpoint whose rows are not unit
    table = encoder.table()
    assert torch.allclose(table[1:].norm(dim=-1), torch.ones(11))
    nothing = torch.zeros(1, 1, 8)
    assert encoder(torch.zeros(1, 1, dtype=torch.long), nothing)[0, 0, 0].item() == pytest.approx(0.99, abs=1e-5)
    seen = encoder(torch.arange(12)[None])[0]
    assert bool((seen.diagonal() > 0.98).all())


def test_a_noisy_network_samples_by_every_discrete_sampler():
    network = noisy_network()
    rows = [Row(i, (0,) * 6, (False,) * 6) for i in range(4)]
    extras = extras_of(network)
    for name in ("dsl", "mdlm", "free_correction", "dsl_sde"):
        samples = decode(network, build_sampler(preset(name, steps=5), Vocabulary(0), extras), rows, 4)
        assert all(0 not in s.tokens for s in samples.values())
    with pytest.raises(ValueError, match="no encoder"):
        Transformer(ModelConfig(dim=16, depth=1, heads=2), 12)(torch.zeros(1, 2).long(), dense=torch.zeros(1, 2, 8))


def test_a_noisy_network_is_shown_no_ratio_that_it_has_never_seen():
    extras = replace(extras_of(noisy_network()), gamma_max=10.0)
    with pytest.raises(SamplingError, match="the network was trained up to 10"):
        build_sampler(preset("dsl_sde", inputs=DslSdeConfig(gamma_max=10.5)), Vocabulary(0), extras)
    build_sampler(preset("dsl_sde", inputs=DslSdeConfig(gamma_max=10.0)), Vocabulary(0), extras)
    assert extras_of(noisy_network()).gamma_max == noisy_network().config.gamma_max


def test_a_quality_head_starts_undecided_and_reads_every_token():
    torch.manual_seed(0)
    network = Transformer(ModelConfig(dim=16, depth=1, heads=2, quality_layers=1), 8).eval()
    tokens = torch.randint(0, 8, (2, 5))
    assert bool((network(tokens, heads=("quality",)).heads["quality"] == 0.5).all())
    assert network.quality is not None
    torch.nn.init.normal_(network.quality.modulation.weight)
    before = network(tokens, heads=("quality",)).heads["quality"]
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 8
    assert bool((network(changed, heads=("quality",)).heads["quality"][:, 2] != before[:, 2]).all())
    with pytest.raises(ValueError, match="no head"):
        Transformer(ModelConfig(dim=16, depth=1, heads=2), 8)(tokens, heads=("quality",))


# --- guidance --------------------------------------------------------------------------------------


class Labelled:
    """Class 0 likes token 0, class 1 token 1; without a class all are alike. The corrector copies, a little."""

    calls = 0

    def __call__(self, tokens, *, select=None, label=None, **kwargs):
        self.calls += len(tokens)
        logits = torch.zeros(*tokens.shape, 4)
        if label is not None:
            for k in (0, 1):
                logits[label == k, :, k] += 1.0
        visible = (tokens < 3)[..., None] * torch.nn.functional.one_hot(tokens.clamp(max=3), 4) * 0.2
        logits = logits + visible
        return Prediction(logits if select is None else logits.flatten(0, 1)[select])


@pytest.mark.parametrize("corrector", [NoCorrectorConfig(), ProsecoCorrectorConfig(inner="sample", passes=2)])
def test_guidance_sharpens_the_class_also_under_the_corrector(corrector):
    """Token 0 has odds e^(1 + gamma) : 1 : 1 under class 0; with the corrector drawing from guided logits, too."""
    share, calls = {}, {}
    for gamma in (0.0, 2.0):
        config = SamplerConfig(
            steps=1, schedule=FixedCountConfig(), corrector=corrector,
            guidance=GuidanceConfig(gamma=gamma, without="label"),
        )  # fmt: skip
        network = Labelled()
        rows = [Row(i, (3,) * 4, (False,) * 4, label=0.0) for i in range(500)]
        samples = list(decode(network, build_sampler(config, Vocabulary(3)), rows, 500, deterministic=False).values())
        share[gamma] = sum(t == 0 for s in samples for t in s.tokens) / 2000
        calls[gamma] = samples[0].calls
        assert sum(s.calls for s in samples) == network.calls
    odds = math.exp(3.0)
    assert calls[2.0] == 2 * calls[0.0]
    expected = odds / (odds + 2)
    assert share[2.0] > share[0.0] + 0.2
    if isinstance(corrector, NoCorrectorConfig):
        assert abs(share[2.0] - expected) < 5 * (expected * (1 - expected) / 2000) ** 0.5


def test_rows_with_and_without_a_label_share_a_batch():
    config = SamplerConfig(steps=1, schedule=FixedCountConfig())
    rows = [Row(i, (3,) * 4, (False,) * 4, label=(0.0, 1.0, None)[i % 3]) for i in range(30)]
    together = decode(Labelled(), build_sampler(config, Vocabulary(3)), rows, 8)
    for row in rows[:6]:
        assert decode(Labelled(), build_sampler(config, Vocabulary(3)), [row], 1)[row.id] == together[row.id]


def test_the_unconditional_half_misses_the_prompt():
    watched = Watched(Oracle(3, 5, seed=1))
    config = preset("cfg", steps=3)
    list(drive(watched, sampler_of(watched.oracle, config), rows_of(watched.oracle, 4, prompt=1)))
    shown = torch.cat(watched.tokens)
    assert set(shown[:, 0].tolist()) == {1, 3}


# --- learned policy --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.7, 1.0, 3.0])
def test_the_probabilities_of_all_transitions_sum_to_one(scale):
    """The fallback's event is drawing nothing or drawing the argmax alone; other positions do not count."""
    b = torch.tensor([[0.3, -1.0, 2.0, 9.0]])
    candidates = torch.tensor([[True, True, True, False]])
    total = 0.0
    for bits in itertools.product([False, True], repeat=3):
        if any(bits):
            action = torch.tensor([[*bits, False]])
            total += float(log_probability(b, candidates, action, 0.8, scale).exp())
    assert total == pytest.approx(1.0, abs=1e-5)
    other = b.clone()
    other[0, 3] = -50
    action = torch.tensor([[True, False, False, False]])
    assert torch.equal(
        log_probability(b, candidates, action, 1.0, 1.0), log_probability(other, candidates, action, 1.0, 1.0)
    )


def test_a_policy_records_what_it_needs_to_learn_and_reveals_at_least_one():
    oracle = Oracle(3, 6, seed=1)
    for before, _, record in drive(oracle, sampler_of(oracle, preset("learned_policy")), rows_of(oracle, 20, prompt=1)):
        assert set(record.learned) == {"c", "m", "t", "u", "logpi"}
        going = before.active
        assert bool((record.revealed.sum(-1)[going] >= 1).all())
        assert torch.equal(record.learned["u"].bool() & going[:, None], record.revealed & going[:, None])
        assert bool((record.learned["logpi"] <= 1e-6).all())


def test_a_bolder_scale_needs_fewer_calls(device):
    oracle = Oracle(3, 8, seed=1, device=device)
    calls = []
    for scale in (0.2, 1.0, 5.0):
        config = preset("learned_policy", schedule=LearnedConfig(scale=scale))
        calls.append(sum(s.calls for s in run(oracle, config, rows_of(oracle, 60)).values()))
    assert calls[0] > calls[1] > calls[2]


def test_the_fresh_policy_reveals_with_the_published_probability():
    """sigmoid(-2 / tau) whatever it sees; 0.3M parameters."""
    policy = PolicyNet()
    b = policy(torch.rand(3, 7), torch.ones(3, 7, dtype=torch.bool), torch.rand(3))
    assert torch.allclose(b, torch.full((3, 7), -2.0))
    assert 2e5 < sum(p.numel() for p in policy.parameters()) < 4e5


# --- draws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50_257, 130_000])
def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should(size):
    """float32 logits, 0.3 of the mass on a flat tail of classes of probability 2e-6 to 6e-6, which a joint float32
    Gumbel race loses. 200,000 draws, in 20 groups of the tail and the head; false alarm 1e-6."""
    logits = torch.full((size,), 0.3 / (size - 1)).log()
    logits[0] = math.log(0.7)
    counts = torch.zeros(21, dtype=torch.long)
    group = torch.div(torch.arange(size) * 20, size, rounding_mode="floor") + 1
    group[0] = 0
    cumulative = torch.softmax(logits, -1).double().cumsum(-1)
    for step in range(100):
        u = noise.uniform(noise.row_keys(1, torch.arange(200)), step, 0, 10, noise.Stream.TOKEN).flatten()
        counts += torch.bincount(group[torch.searchsorted(cumulative, u * cumulative[-1], right=True)], minlength=21)
    few = u[:64]
    drawn, _ = categorical.draw(logits.expand(64, -1), few, DrawConfig())
    assert torch.equal(drawn, torch.searchsorted(cumulative, few * cumulative[-1], right=True))
    expected = torch.bincount(group, minlength=21).double() * 0.3 / (size - 1)
    expected[0] = 0.7
    statistic, limit = chi_square(counts, expected * 200_000)
    assert statistic < limit

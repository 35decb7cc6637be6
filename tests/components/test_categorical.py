import torch

from components.diffusion import categorical, select
from components.diffusion.config import DrawConfig
from tests.oracle import chi_square


def test_nucleus_keeps_the_token_that_crosses_and_is_idempotent():
    p = torch.tensor([0.5, 0.45, 0.05])
    once = categorical.truncate(p, 0.9, 0)
    assert (once > 0).tolist() == [True, True, False]
    assert torch.equal(categorical.truncate(once, 0.9, 0), once)


def test_top_k_keeps_the_best():
    assert (categorical.truncate(torch.tensor([0.2, 0.5, 0.3]), 1.0, 2) > 0).tolist() == [False, True, True]


def test_of_tokens_that_tie_at_the_border_top_k_keeps_no_more_than_k():
    p = torch.tensor([[0.2, 0.3, 0.2, 0.3], [0.25] * 4])
    assert (categorical.truncate(p, 1.0, 3) > 0).tolist() == [[True, True, False, True], [True, True, True, False]]
    assert torch.equal(categorical.truncate(p, 1.0, 9), p)


def test_temperature_zero_is_argmax_and_reports_the_plain_probability():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    token, probability = categorical.draw(logits, torch.tensor([0.99], dtype=torch.float64), DrawConfig(temperature=0))
    assert token.item() == 1
    assert torch.allclose(probability, torch.softmax(logits, -1)[:, 1])


def test_extreme_temperatures_are_the_limits_of_others():
    """Next to 0 the best token, far above 1 any that is allowed, alike; and never what is forbidden."""
    logits = torch.tensor([[float("-inf"), 90.0, -90.0, 89.0]]).expand(300, -1)
    u = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    for temperature in (1e-300, 1e-40, 1e-3):
        assert set(categorical.draw(logits, u, DrawConfig(temperature=temperature))[0].tolist()) == {1}
    for temperature in (1e6, 1e40, 1e300):
        counts = torch.bincount(categorical.draw(logits, u, DrawConfig(temperature=temperature))[0], minlength=4)
        assert counts.tolist() == [0, 100, 100, 100]


def test_draws_are_exact_over_a_large_vocabulary_with_a_rare_tail():
    """V = 50,257, one million draws, 1,000 classes of 1e-6 each. False alarm 1e-6."""
    vocabulary, tail = 50257, 1000
    p = torch.zeros(vocabulary, dtype=torch.float64)
    p[:tail] = 1e-6
    p[tail : tail + 10] = (1 - 1e-3) / 10
    logits = torch.log(p).float()
    logits[p == 0] = float("-inf")
    u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    u = u[torch.randperm(len(u))] * 0.999999 + torch.rand(len(u), dtype=torch.float64) * 1e-6
    weights = torch.softmax(logits, -1)
    cumulative = weights.double().cumsum(-1)
    tokens = torch.searchsorted(cumulative, u * cumulative[-1], right=True)
    direct = categorical.inverse_cdf(weights.expand(64, -1), u[:64])
    assert torch.equal(direct, tokens[:64])
    counts = torch.bincount(tokens, minlength=vocabulary)
    assert counts[tail + 10 :].sum() == 0
    grouped = torch.stack([counts[:tail].sum(), *counts[tail : tail + 10]])
    expected = torch.tensor([1000.0] + [99900.0] * 10, dtype=torch.float64)
    statistic, limit = chi_square(grouped, expected)
    assert statistic < limit


def test_a_forbidden_token_is_never_drawn():
    logits = categorical.suppress(torch.zeros(1000, 4), (2,))
    tokens, _ = categorical.draw(logits, torch.rand(1000, dtype=torch.float64), DrawConfig())
    assert 2 not in tokens.tolist()


def test_best_takes_the_count_of_each_row_and_breaks_ties_by_position():
    score = torch.tensor([[0.5, 0.5, 0.9], [0.1, 0.2, 0.3]])
    candidates = torch.tensor([[True, True, True], [True, True, False]])
    chosen = select.best(score, candidates, torch.tensor([2, 5]))
    assert chosen.tolist() == [[True, False, True], [True, True, False]]

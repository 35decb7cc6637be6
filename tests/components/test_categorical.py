import pytest
import torch

from components.diffusion import categorical, select
from components.diffusion.config import DrawConfig


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


@pytest.mark.parametrize("vocabulary", [1, 5, 511, 512, 575, 640, 4097])
def test_the_best_is_the_first_of_the_largest_wherever_it_stands(vocabulary):
    """Inside blocks, at their edges and behind the last; with ties, and with what is forbidden."""
    torch.manual_seed(0)
    values = torch.randn(40, vocabulary)
    values[:20] = values[:20].round()
    values[:, 0] = float("-inf")
    for row, at in enumerate((0, vocabulary - 1, vocabulary // 64 * 64 - 1, vocabulary // 64 * 64)):
        values[row, at % vocabulary] = 9.0
    values[5, vocabulary // 2] = torch.nan
    for given in (values, values.double(), values.bfloat16(), values[:0], values[7], values.view(4, 10, -1)):
        assert torch.equal(categorical.best(given), given.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("binned", [0, 1 << 30])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.9, 0), (0.5, 4), (1.0, 3), (0.999, 0), (1e-9, 0)])
def test_what_truncation_keeps_is_a_prefix_of_all_in_order(top_p, top_k, binned, dtype, monkeypatch):
    """As the definition says, with all of them put in order one by one; ties by their ids. In bins there are many of one, too:
    the last rows are nearly alike, and one token has all."""
    monkeypatch.setattr(categorical, "BINNED", binned)
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(20, 70, dtype=dtype) * 3, -1)
    p[:10] = (p[:10] * 20).round() / 20 + 1e-3
    p[18] = torch.softmax(torch.randn(70, dtype=dtype) / 1000, -1)
    p[19] = torch.nn.functional.one_hot(torch.tensor(3), 70)
    for row, kept in zip(p, categorical.truncate(p, top_p, top_k), strict=True):
        order = sorted(range(70), key=lambda i: (-row[i], i))[: top_k or None]
        total, before, expected = sum(float(row[i]) for i in order), 0.0, torch.zeros(70, dtype=dtype)
        for i in order:
            if before < top_p * total:
                expected[i] = row[i]
            before += float(row[i])
        assert torch.equal(kept, expected)


def test_a_nucleus_among_many_tokens_is_that_of_a_sort(monkeypatch):
    """Where nothing is told otherwise, and of rows of any shape; what is no number does no harm to others."""
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(3, 5, categorical.BINNED) * 2, -1)
    assert torch.equal(categorical.truncate(p[:, ::2], 0.9, 0), categorical.truncate(p, 0.9, 0)[:, ::2])
    found = categorical.truncate(p, 0.9, 0)
    broken = p.index_fill(0, torch.tensor([1]), torch.nan)
    assert torch.equal(categorical.truncate(broken, 0.9, 0)[[0, 2]], found[[0, 2]])
    assert categorical.truncate(p[:0], 0.9, 0).shape == (0, 5, categorical.BINNED)
    alike = torch.full((3000,), 1 / 3000)
    assert torch.equal(categorical.truncate(alike, 0.5, 0) > 0, torch.arange(3000) < 1500)
    monkeypatch.setattr(categorical, "BINNED", 1 << 30)
    assert torch.equal(categorical.truncate(p, 0.9, 0), found)


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
    """V = 50,257, 1,000 classes of 1e-6 each and ten of 0.0999: the uniforms amid each class give that class, and those
    in between nothing of probability 0."""
    vocabulary, tail = 50257, 1000
    p = torch.zeros(vocabulary, dtype=torch.float64)
    p[:tail] = 1e-6
    p[tail : tail + 10] = (1 - 1e-3) / 10
    logits = torch.log(p).float()
    middle = p.cumsum(-1)[: tail + 10] - p[: tail + 10] / 2
    drawn = torch.cat([categorical.draw(logits.expand(len(u), -1), u, DrawConfig())[0] for u in middle.split(101)])
    assert torch.equal(drawn, torch.arange(tail + 10))


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [50, 30, 20]),
        ({"temperature": 0.5}, [2500, 900, 400]),
        ({"temperature": 2.0}, [50**0.5, 30**0.5, 20**0.5]),
        ({"top_p": 0.7}, [50, 30, 0]),
        ({"top_p": 0.5}, [50, 0, 0]),
        ({"top_k": 2}, [50, 30, 0]),
        ({"temperature": 0.5, "top_p": 0.7}, [2500, 900, 0]),
    ],
)
def test_draws_have_the_law_of_their_options_and_tell_the_plain_probability(options, weights):
    """Over an even grid of 9,999 uniforms counts are right to one."""
    p = torch.tensor([0.5, 0.3, 0.2])
    u = (torch.arange(9999, dtype=torch.float64) + 0.5) / 9999
    tokens, probability = categorical.draw(p.log().expand(9999, -1), u, DrawConfig(**options))
    counts = torch.bincount(tokens, minlength=3).tolist()
    assert counts == pytest.approx([9999 * w / sum(weights) for w in weights], abs=1.01)
    assert torch.allclose(probability, p[tokens])


def test_a_forbidden_token_is_never_drawn():
    logits = categorical.suppress(torch.zeros(1000, 4), (2,))
    tokens, _ = categorical.draw(logits, torch.rand(1000, dtype=torch.float64), DrawConfig())
    assert 2 not in tokens.tolist()


def test_best_takes_the_count_of_each_row_and_breaks_ties_by_position():
    score = torch.tensor([[0.5, 0.5, 0.9], [0.1, 0.2, 0.3]])
    candidates = torch.tensor([[True, True, True], [True, True, False]])
    chosen = select.best(score, candidates, torch.tensor([2, 5]))
    assert chosen.tolist() == [[True, False, True], [True, True, False]]

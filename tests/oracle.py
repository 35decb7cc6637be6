"""A denoiser that is never wrong: a small joint distribution with its exact conditionals.

Every exact sampler must reproduce the joint law. Float64 throughout, so that the only error of a test
is sampling noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from components.models.denoiser import Prediction


class Oracle:
    """p over V^L; ids 0..V-1 are tokens, id V is the mask.

    At a masked position the prediction is p(x_i | visible); at a visible one it is
    p(x_i | all other visible), which is what a perfect corrector would know.
    """

    def __init__(
        self,
        num_tokens: int = 3,
        length: int = 3,
        seed: int = 0,
        concentration: float = 0.5,
        joint: Callable[[Tensor], Tensor] | None = None,
        device: str = "cpu",
    ):
        """``joint`` gives weights [O] of outcomes [O, L]; without it they are random. Numbers are the same on any
        device."""
        generator = torch.Generator().manual_seed(seed)
        self.num_tokens, self.length, self.mask_id = num_tokens, length, num_tokens
        self.outcomes = torch.tensor(list(itertools.product(range(num_tokens), repeat=length)))
        weights = torch.rand(len(self.outcomes), generator=generator, dtype=torch.float64) ** (1 / concentration)
        if joint is not None:
            weights = joint(self.outcomes).double()
        self.joint = weights / weights.sum()
        self.device = device
        self.calls = 0
        directions = torch.randn(num_tokens + 1, 4, generator=generator, dtype=torch.float64)
        self.embedding = torch.nn.functional.normalize(directions, dim=-1)
        """[V + 1, 4]: unit-norm rows for noisy inputs; the mask's is never used."""
        self.outcomes, self.joint = self.outcomes.to(device), self.joint.to(device)
        self.embedding = self.embedding.to(device)

    def __call__(
        self, tokens: Tensor, *, select=None, label=None, time=None, soft=None, dense=None, heads=()
    ) -> Prediction:  # fmt: skip
        self.calls += len(tokens)
        if dense is not None:
            return self.localized(dense, select)
        if soft is not None:
            # A mixture is read as its heaviest token: soft samplers run, and hard ones are unchanged.
            ids, weights = soft
            mass = weights.new_zeros(*tokens.shape, self.num_tokens + 1).scatter_add(-1, ids, weights)
            tokens = mass.argmax(-1)
        agrees = (self.outcomes[None] == tokens[:, None]) | (tokens[:, None] == self.mask_id)  # [B, O, L]
        mismatches = (~agrees).sum(-1, keepdim=True)  # [B, O, 1]
        # Outcomes that agree with everything visible but perhaps position i itself.
        fits = (mismatches - (~agrees).long() == 0).double() * self.joint[None, :, None]  # [B, O, L]
        one_hot = torch.nn.functional.one_hot(self.outcomes, self.num_tokens + 1).double()  # [O, L, V + 1]
        weights = torch.einsum("bol,olv->blv", fits, one_hot)
        logits = torch.log(weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)).clamp(min=-700)
        wanted = logits if select is None else logits.flatten(0, 1)[select]
        own = tokens.clamp(max=self.num_tokens - 1)[..., None]
        quality = logits.gather(-1, own)[..., 0].exp()
        return Prediction(wanted, dict.fromkeys(heads, quality))

    def localized(self, z: Tensor, select: Tensor | None) -> Prediction:
        """Marginals of the posterior given z = gamma e + sqrt(gamma) noise at every position [B, L, D]."""
        match = z.double() @ self.embedding[: self.num_tokens].T  # [B, L, V]
        evidence = torch.stack([match[:, i, self.outcomes[:, i]] for i in range(self.length)], -1).sum(-1)  # [B, O]
        posterior = torch.softmax(evidence + self.joint.log(), -1)
        one_hot = torch.nn.functional.one_hot(self.outcomes, self.num_tokens + 1).double()
        logits = torch.einsum("bo,olv->blv", posterior, one_hot).clamp(min=1e-300).log()
        return Prediction(logits if select is None else logits.flatten(0, 1)[select])

    def index(self, tokens: Tensor) -> Tensor:
        """Place of full rows among the outcomes."""
        place = self.num_tokens ** torch.arange(self.length - 1, -1, -1, device=tokens.device)
        return (tokens * place).sum(-1)


def chi_square(counts: Tensor, expected: Tensor) -> tuple[float, float]:
    """Pearson's statistic and its 1 - 1e-6 quantile (Wilson and Hilferty), cells below 5 pooled."""
    counts, expected = counts.cpu(), expected.cpu()
    order = expected.argsort(descending=True)
    counts, expected = counts[order].double(), expected[order]
    big = expected >= 5
    if not bool(big.all()):
        counts = torch.cat([counts[big], counts[~big].sum()[None]])
        expected = torch.cat([expected[big], expected[~big].sum()[None]])
    statistic = float(((counts - expected) ** 2 / expected.clamp(min=1e-12)).sum())
    freedom = len(counts) - 1
    quantile = 4.753424  # of the normal distribution at 1 - 1e-6
    limit = freedom * (1 - 2 / (9 * freedom) + quantile * (2 / (9 * freedom)) ** 0.5) ** 3
    return statistic, limit

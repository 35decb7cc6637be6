"""A loss and tokens of positions, with the vocabulary read once and no logits kept.

Logits of some positions at a time are made, turned into their share of the loss, the tokens and the gradient, and
forgotten: beside the gradients themselves only one chunk [C, V] is ever there. N positions, M of them judged, D width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from components.diffusion import categorical
from components.diffusion.categorical import inverse_cdf, room, suppress_
from components.diffusion.gpu import makes_kernels
from components.models import lean
from components.models.chunks import chunk_rows

SOME = 1 << 11
"""Positions of a chunk that are looked at together on a GPU."""
CACHED = 1 << 18
"""Logits that are looked at together on a CPU: its caches hold them."""
WORDS = 1 << 14
"""Tokens whose weights are added to together."""


@dataclass(frozen=True)
class Judge:
    """What is asked of positions ``select`` in place of their logits. The first M are judged; of the others only tokens
    are wanted."""

    clean: Tensor
    """[M] int64: the right tokens."""
    weight: Tensor
    """[M]: of each one's loss in the sum."""
    never: int
    """The mask, which no position may become."""
    plainly: Tensor | None = None
    """[M] bool: where the loss is ``-p`` and not ``-log p``; nowhere where it is None."""
    tokens: bool = False
    """The best token of each position is wanted."""
    u: Tensor | None = None
    """[N] float64 uniforms in (0, 1), by which tokens are drawn instead."""


@dataclass(frozen=True)
class Judged:
    """What came of it."""

    loss_sum: Tensor
    """The weighted sum over the judged positions, in nats: all that has a gradient."""
    nll: Tensor
    """[M]: -log p of the right tokens."""
    tokens: Tensor
    """[N] int64; [0] where nobody asked."""


def judge_logits(logits: Tensor, judge: Judge) -> Judged:
    """The same of logits [N, V] that are there, the mask's suppressed: the definition of what is asked."""
    nll = F.cross_entropy(logits[: len(judge.clean)], judge.clean, reduction="none")
    loss = nll if judge.plainly is None else torch.where(judge.plainly, -torch.exp(-nll), nll)
    tokens = tokens_of(logits.detach(), judge, 0)
    return Judged((loss * judge.weight).sum(), nll.detach(), nll.new_zeros(0, dtype=torch.int64) if tokens is None else tokens)


def tokens_of(logits: Tensor, judge: Judge, begin: int, best: Tensor | None = None) -> Tensor | None:
    """Tokens of positions from ``begin`` on, given their logits [C, V]; ``best`` [C] where they are known."""
    if judge.u is not None:
        return inverse_cdf(torch.softmax(logits, -1), judge.u[begin : begin + len(logits)])
    if not judge.tokens:
        return None
    return categorical.best(logits) if best is None else best


def judge_features(x: Tensor, weight: Tensor, judge: Judge) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, nll [M], tokens [N] or [0]) of features [N, D] under ``logits = x @ weight.T``, weight [V, D].

    The gradient is made along with the loss, which is why the weights of the sum have to be known.
    """
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    return _Judging.apply(x, weight, judge, dtype, torch.is_grad_enabled())


class _Judging(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, judge: Judge, dtype: torch.dtype, learns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            chunks = _Chunks(x, weight, judge, dtype, *(learns and needed for needed in ctx.needs_input_grad[:2]))
            loss, nll, tokens = chunks.run()
        ctx.grad_x = chunks.grad_x
        ctx.grad_weight = None if chunks.grad_weight is None else chunks.grad_weight.to(weight.dtype)
        ctx.mark_non_differentiable(nll, tokens)
        return loss, nll, tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _nll: Tensor, _tokens: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = (None if g is None else g.mul_(grad) for g in (ctx.grad_x, ctx.grad_weight))
        del ctx.grad_x, ctx.grad_weight  # they are scaled in place, so that a second backward has to fail
        return grad_x, grad_weight, None, None, None


class _Chunks:
    """A loss and its gradients, which grow chunk by chunk."""

    def __init__(self, x: Tensor, weight: Tensor, judge: Judge, dtype: torch.dtype, to_x: bool, to_weight: bool):
        self.x, self.weight, self.judge = x.to(dtype), weight.to(dtype), judge
        self.exact = torch.float64 if dtype == torch.float64 else torch.float32
        self.learns = to_x or to_weight
        # Positions that are not judged have no gradient.
        self.grad_x = x.new_zeros(x.shape) if to_x else None
        self.grad_weight = torch.empty_like(weight, dtype=self.exact) if to_weight else None
        self.losses, self.nlls = ([x.new_zeros(0, dtype=self.exact)] for _ in range(2))
        self.tokens = [torch.zeros(0, dtype=torch.int64, device=x.device)]

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, nll [M], tokens [N] or [0])."""
        num_judged, num = len(self.judge.clean), len(self.x)
        size = chunk_rows(self.x.device.type, len(self.weight))
        # One buffer for all chunks: memory that is taken anew has to be faulted in anew.
        buffer = room(self.x, min(size, num), len(self.weight))
        for begin, end, judged in [*spans(0, num_judged, size, True), *spans(num_judged, num, size, False)]:
            chunk = torch.mm(self.x[begin:end], self.weight.T, out=buffer[: end - begin])
            slopes = [self.look(begin + at, part, judged) for at, part in parts(chunk)]
            if judged and self.learns:
                self.add(slice(begin, end), chunk, torch.cat(slopes)[:, None])
        if self.grad_weight is not None and not num_judged:
            self.grad_weight.zero_()
        return torch.cat(self.losses).sum(), torch.cat(self.nlls), torch.cat(self.tokens)

    def look(self, begin: int, part: Tensor, judged: bool) -> Tensor:
        """Read logits [P, V] of positions from ``begin`` on, which are overwritten by what each token is off where they are
        judged. Returns the slope of each position's loss [P]; [0] where none is judged."""
        if not judged:
            self.choose(self.possible(part), begin, None)
            return part.new_zeros(0, dtype=self.exact)
        rows = slice(begin, begin + len(part))
        nll = self.compare(part, begin, self.judge.clean[rows])
        slope = self.judge.weight[rows].to(self.exact)
        loss = nll * slope
        if self.judge.plainly is not None:
            plainly, likely = self.judge.plainly[rows], torch.exp(-nll)
            loss, slope = torch.where(plainly, -likely * slope, loss), torch.where(plainly, likely * slope, slope)
        self.losses.append(loss)
        self.nlls.append(nll)
        return slope

    def compare(self, part: Tensor, begin: int, clean: Tensor) -> Tensor:
        """-log p of the right tokens [P]; ``part`` is overwritten where there is something to learn."""
        if part.is_cuda and self.exact == torch.float32 and self.judge.u is None and makes_kernels():
            from components.diffusion import kernels

            best, nll = kernels.look(part, clean, self.judge.never, self.learns)
            if self.judge.tokens:
                self.tokens.append(best)
            return nll
        logits, clean = self.possible(part), clean[:, None]
        best = categorical.best(logits)
        self.choose(logits, begin, best)
        p = torch.softmax(logits, -1)
        # The largest probability is at least 1/V, so its logarithm is always right.
        top, likely = (x.gather(-1, best[:, None])[:, 0] for x in (logits, p))
        nll = top - likely.log() - logits.gather(-1, clean)[:, 0]
        if self.learns:
            part.copy_(p.scatter_add_(-1, clean, p.new_full(clean.shape, -1.0)))
        return nll

    def possible(self, part: Tensor) -> Tensor:
        """Logits as sums are taken of them, the mask's suppressed."""
        return suppress_(part.to(self.exact), (self.judge.never,))

    def choose(self, logits: Tensor, begin: int, best: Tensor | None) -> None:
        """Take the tokens of some positions, if they are wanted."""
        tokens = tokens_of(logits, self.judge, begin, best)
        if tokens is not None:
            self.tokens.append(tokens)

    def add(self, rows: slice, off: Tensor, slope: Tensor) -> None:
        """Gradients by what each token is off [C, V], times the slopes [C, 1]: these go to the thin side of each product."""
        if self.grad_x is not None:
            self.grad_x[rows] = (off @ self.weight) * slope
        if self.grad_weight is not None:
            scaled = (self.x[rows] * slope).to(off.dtype)
            write = lean.add_product if rows.start else lean.write_product  # so that nothing has to be zero before
            for words in range(0, off.shape[1], WORDS):
                some = slice(words, words + WORDS)
                write(self.grad_weight[some], off[:, some].T, scaled)


def spans(begin: int, end: int, size: int, judged: bool) -> list[tuple[int, int, bool]]:
    """(begin, end, judged) of the chunks of positions that are all judged, or all not."""
    return [(at, min(at + size, end), judged) for at in range(begin, end, size)]


def parts(chunk: Tensor) -> list[tuple[int, Tensor]]:
    """Some rows after the others, each with the number of its first."""
    some = SOME if chunk.is_cuda else max(1, CACHED // chunk.shape[1])
    return [(at, chunk[at : at + some]) for at in range(0, len(chunk), some)]

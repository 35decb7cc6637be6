"""ProSeCo's corrector (arXiv 2602.11590, Algorithm 3).

    at ticks k with k mod omega = 0:   y <- draft from f(z), at every position
                                       S times:  c <- f(y);  y <- argmax c
                                       z <- y where z is visible;  masked tokens are drawn from c

Departures from the released code: fixed points are found per row and by exact equality (there: for
the whole batch, and by a relative tolerance under which neighbouring ids above 100,000 are equal);
limit cycles end early on the draft that S passes would have reached; nothing is drawn and thrown
away; no nucleus is applied before an argmax; the draft is sampled by default, because an argmax
draft of an all-mask row is the same for every sample and collapses diversity. omega counts the ticks
of the whole row, where the released block-wise sampler starts again at each block and so never corrects
blocks of fewer steps than omega. Where no row of a length reaches omega the sampler is refused; schedules
that end by themselves may end before it in some rows, which then are plain. As in Algorithm 3 and in the released code
the loop goes on at every omega-th tick of a row that is full (ancestral schedule), because a network that reads the time
may answer otherwise at the next. Its draft is the row itself, so no predictor call is made (there: nothing has changed since
the last, whose answer is used again): one call at such a tick where the row is a fixed point, S at most, and one more with
``draft_positions=all``. A counting schedule ends with the last mask and spends none there, and neither does a row that is
all prompt.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.correctors.base import Correcting, Verdict, Wants, verdict
from components.samplers.options.correctors import ProsecoCorrectorConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State
from components.samplers.view import View


class ProsecoCorrector(Correcting):
    """See ``components.samplers.correctors.base.Corrector``."""

    def __init__(self, config: ProsecoCorrectorConfig):
        self.config = config
        self.num_passes = config.passes
        read = {
            "best_odds": config.inner == "top_k",
            "sampled": "sample" in (config.draft, config.inner),
            "log_best": config.may_skip(),
        }
        self.reads = frozenset(name for name, reads in read.items() if reads)

    def begin(self, start: Start) -> dict[str, Field]:
        rows, device = len(start.keys), start.keys.device
        return {"draft_hashes": Field(torch.zeros(rows, self.num_passes + 1, dtype=torch.int64, device=device))}

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        tick, some = state.tick, (~state.fixed).any(-1)
        return some & (tick % self.config.every == 0) & (tick >= self.config.start) & (tick <= steps)

    def next_due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        every = self.config.every
        first = (state.tick.clamp(min=self.config.start) + every - 1) // every * every
        return torch.where((first <= steps) & (~state.fixed).any(-1), first, steps + 1)

    def asks(self, state: State, masked: Tensor, due: Tensor) -> Tensor:
        # A full row is its own draft, but where visible positions are drafted, too.
        return due & masked.any(-1) if self.config.draft_positions == "masked" else due

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        drafting, looping = (due & (state.inner == 0))[:, None], (state.inner > 0)[:, None]
        rewritten = looping & self.region(state, reach)
        drafted = drafting & (~state.fixed if self.config.draft_positions == "all" else masked)
        sampled = drafted if self.config.draft == "sample" else torch.zeros_like(masked)
        if self.config.inner == "sample":
            sampled = sampled | rewritten
        return Wants(drafted | rewritten, sampled, torch.zeros_like(masked))

    def region(self, state: State, reach: Tensor) -> Tensor:
        """[R, L] bool: positions that a pass of the loop may rewrite."""
        return ~state.fixed & reach if self.config.region == "generated" else ~state.fixed

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        drafting = state.inner == 0
        runs = torch.where(drafting, due & ~self.is_sure(view), True)
        changes, word, probability = self.rewrite(state, view, reach)
        rewritten = torch.where(changes, word, state.draft)
        draft = torch.where(drafting[:, None], self.first_draft(state, view), rewritten)
        hashes = state["draft_hashes"]
        digest = row_hash(draft)
        last = ~drafting & ((state.inner >= self.num_passes) | self.settled(state, draft, digest))
        commits = ~runs | last
        at = torch.arange(hashes.shape[1], device=hashes.device)[None, :] == state.inner[:, None]
        hashes = torch.where(at & runs[:, None], digest[:, None], hashes)
        # A row whose tick has no corrector commits with its canvas as it is.
        draft = torch.where(runs[:, None], draft, state.tokens)
        return replace(
            verdict(state, replacement=draft, probability=probability, fields={"draft_hashes": hashes}),
            commits=commits,
            draft=draft,
            inner=torch.where(commits, 0, state.inner + 1),
            replace=(~drafting & commits)[:, None].expand_as(view.masked),
            urgency=view.sampled_probability if self.config.inner == "sample" else view.best_odds,
        )

    def is_sure(self, view: View) -> Tensor:
        """[R] bool: the network is so sure of all that it would draft that a loop would change nothing."""
        if self.config.skip_above >= 1:
            return torch.zeros_like(view.called)
        least = torch.where(view.masked, view.log_best, 0).amin(-1)
        return least.exp() >= self.config.skip_above

    def first_draft(self, state: State, view: View) -> Tensor:
        """y [R, L] before the first corrector pass."""
        word = view.sampled if self.config.draft == "sample" else view.best
        where = ~state.fixed if self.config.draft_positions == "all" else view.masked
        return torch.where(where, word, state.tokens)

    def rewrite(self, state: State, view: View, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y <- decode(c): (where, token, its probability), everywhere in the region but at fixed positions."""
        by_sample = self.config.inner == "sample"
        word = view.sampled if by_sample else view.best
        probability = view.sampled_probability if by_sample else view.log_best.exp()
        change = self.region(state, reach) & (word != state.draft)
        if self.config.inner == "top_k":
            budget = torch.full_like(state.tick, self.config.inner_top_k)
            change = select.best(view.best_odds, change, budget)
        return change, word, torch.where(change, probability, view.current)

    def settled(self, state: State, draft: Tensor, digest: Tensor) -> Tensor:
        """[R] bool: S passes would end on this very draft and these very logits.

        The loop is a deterministic map of the draft. If draft j equals draft i < j the orbit has
        period p = j - i, and when p divides S - j the last pass of the full loop would be this one.
        A period that does not divide costs p - 1 more calls at most before it does.
        """
        if self.config.inner == "sample":
            return torch.zeros_like(state.active)
        hashes = state["draft_hashes"]
        earlier = torch.arange(hashes.shape[1], device=hashes.device)[None, :]
        j = state.inner[:, None]
        period = (j - earlier).clamp(min=1)
        ends = (self.num_passes - j) % period == 0
        cycle = (hashes == digest[:, None]) & (earlier < j - 1) & ends
        return (draft == state.draft).all(-1) | cycle.any(-1)


def row_hash(tokens: Tensor) -> Tensor:
    """A 64-bit hash of each row [R, L] -> [R]; int64 arithmetic wraps."""
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    x = (tokens + 0x632BE59BD9B4E019) * (place * 0x1E3779B97F4A7C15 | 1)
    x = (x ^ ((x >> 31) & 0x1FFFFFFFF)) * 0x3C79AC492BA7B653
    return (x ^ ((x >> 29) & 0x7FFFFFFFF)).sum(-1)

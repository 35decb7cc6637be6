"""Token editing with two thresholds (LLaDA2.1, arXiv 2602.08676), and its token-to-mask form (T2M, arXiv 2604.18738).

Each call reveals masks above tau_m (the ``threshold`` schedule) and changes visible tokens where the
network's best token is another one with more than tau_e. When no mask is left, up to ``rounds`` more calls
edit, until one proposes nothing or the canvas was seen before. Limits on edits per position and per call
are the sampler's ``guard``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.samplers.correctors.base import Correcting, Verdict, Wants, verdict
from components.samplers.correctors.proseco import row_hash
from components.samplers.options.correctors import TokenEditConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State
from components.samplers.view import View


class TokenEdit(Correcting):
    """See ``components.samplers.correctors.base.Corrector``."""

    reads = frozenset({"log_best"})

    def __init__(self, config: TokenEditConfig):
        self.config = config
        self.extra_calls = config.rounds

    def begin(self, start: Start) -> dict[str, Field]:
        rows, device = len(start.masked), start.masked.device
        return {
            "round": Field(torch.zeros(rows, dtype=torch.int64, device=device)),
            "satisfied": Field(torch.zeros(rows, dtype=torch.bool, device=device)),
            "canvas_hashes": Field(torch.zeros(rows, self.config.rounds + 1, dtype=torch.int64, device=device)),
        }

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        in_time = state.tick <= steps if self.config.action == "replace" else state.tick < steps
        return in_time | self.lingers(state, masked, steps)

    def lingers(self, state: State, masked: Tensor, steps: int) -> Tensor:
        left = state["round"] < self.config.rounds
        if self.config.action == "remask":
            left = left & (state.tick < steps)
        return left & ~masked.any(-1) & ~state["satisfied"] & (~state.fixed).any(-1)

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        nowhere = torch.zeros_like(masked)
        return Wants(~masked & ~state.fixed & due[:, None], nowhere, nowhere)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        acts = due & view.called
        sure = view.log_best.exp() > self.config.threshold
        wrong = view.changeable & acts[:, None] & sure & (view.best != state.tokens)
        full = ~view.masked.any(-1) & acts
        number, hashes = state["round"], state["canvas_hashes"]
        digest = row_hash(state.tokens)
        satisfied = full & (~wrong.any(-1) | (hashes == digest[:, None]).any(-1))
        wrong = wrong & ~satisfied[:, None]
        at = torch.arange(hashes.shape[1], device=hashes.device)[None, :] == number[:, None]
        fields = {
            "round": number + full.long(),
            "satisfied": state["satisfied"] | satisfied,
            "canvas_hashes": torch.where(at & full[:, None], digest[:, None], hashes),
        }
        if self.config.action == "remask":
            return verdict(state, remask=wrong, urgency=view.best_odds, fields=fields)
        return verdict(
            state,
            replace=wrong,
            replacement=view.best,
            probability=view.log_best.exp(),
            urgency=view.best_odds,
            fields=fields,
        )

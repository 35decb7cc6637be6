"""Mask-Predict (arXiv 1904.09324) and SMART decoding (arXiv 2001.08785).

Pass s fills every mask by argmax and then masks the n_s least confident of ALL positions again. Written as
disjoint sets on the canvas before the pass: with c the new confidence of masked positions and the old one
of visible ones, S are the n_s smallest; masks outside S are revealed, visible tokens inside S are masked.
The schedule says n_s (``linear`` in the papers), the order is by confidence, compared as log-odds, which do not saturate.

Mask-Predict never refreshes the confidence of kept tokens. SMART re-predicts every position, tokens and
confidences alike, which needs a network that was trained at visible positions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.correctors.base import Correcting, Verdict, Wants, verdict
from components.samplers.correctors.scores import begin_commit, update_commit
from components.samplers.correctors.worst import num_left_masked
from components.samplers.options.correctors import MaskPredictConfig, SmartConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


class MaskPredict(Correcting):
    """See ``components.samplers.correctors.base.Corrector``."""

    refreshes = False
    """Visible tokens are predicted again, too."""
    reads = frozenset({"log_odds"})

    def __init__(self, config: MaskPredictConfig | SmartConfig):
        del config

    def begin(self, start: Start) -> dict[str, Field]:
        return {} if self.refreshes else begin_commit(start)

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return {} if self.refreshes else update_commit(state, written, view)

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        nowhere = torch.zeros_like(masked)
        visible = ~masked & ~state.fixed & due[:, None]
        return Wants(visible if self.refreshes else nowhere, nowhere, nowhere)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        visible = view.changeable & (due & view.called)[:, None]
        kept = view.best_odds if self.refreshes else state["commit_odds"]
        confidence = torch.where(view.masked, view.log_odds, kept)
        stay = num_left_masked(view)
        chosen = select.best(-confidence, visible | view.window, torch.where(due, stay, 0))
        remask = chosen & visible
        if not self.refreshes:
            return verdict(state, remask=remask, urgency=-kept)
        probability = view.log_best.exp()
        return verdict(state, remask=remask, replace=visible, replacement=view.best, probability=probability, urgency=-kept)


class Smart(MaskPredict):
    """SMART decoding: Mask-Predict that predicts visible tokens and their confidences anew, too."""

    refreshes = True
    reads = frozenset({"log_odds", "best_odds"})

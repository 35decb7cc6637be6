"""Mask-Predict (arXiv 1904.09324) and SMART decoding (arXiv 2001.08785).

Pass s fills every mask by argmax and then masks the n_s least confident of ALL positions again. Written as
disjoint sets on the canvas before the pass: with c the new confidence of masked positions and the old one
of visible ones, S are the n_s smallest; masks outside S are revealed, visible tokens inside S are masked.
The schedule says n_s (``linear`` in the papers), the order is by confidence.

Mask-Predict never refreshes the confidence of kept tokens. SMART re-predicts every position, tokens and
confidences alike, which needs a network that was trained at visible positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.correctors.base import Correcting, Verdict, Wants, verdict
from components.samplers.correctors.worst import num_left_masked
from components.samplers.options.correctors import MaskPredictConfig, SmartConfig
from components.samplers.state import State
from components.samplers.view import View


class MaskPredict(Correcting):
    """See ``components.samplers.correctors.base.Corrector``."""

    refreshes = False
    """Visible tokens are predicted again, too."""

    def __init__(self, config: MaskPredictConfig | SmartConfig):
        del config

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        nowhere = torch.zeros_like(masked)
        visible = ~masked & ~state.fixed & due[:, None]
        return Wants(visible if self.refreshes else nowhere, nowhere, nowhere)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        visible = view.changeable & (due & view.called)[:, None]
        kept = view.log_best.exp() if self.refreshes else state.confidence
        confidence = torch.where(view.masked, view.confidence, kept)
        stay = num_left_masked(view)
        chosen = select.best(-confidence, visible | view.window, torch.where(due, stay, 0))
        remask = chosen & visible
        if not self.refreshes:
            return verdict(state, remask=remask, urgency=-kept)
        return verdict(state, remask=remask, replace=visible, replacement=view.best, probability=kept, urgency=-kept)


class Smart(MaskPredict):
    """SMART decoding: Mask-Predict that predicts visible tokens and their confidences anew, too."""

    refreshes = True

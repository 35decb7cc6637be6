"""Scores of written tokens, larger = keep: one family behind every corrector's ``score=``.

    commit    probability of the token when it was written (ReMDM, Mask-Predict); stale by design
    visible   the network's own probability of it now, of the raw row at its visible position
    mean      ``visible`` averaged over the calls since it was written (FreeCorrection, arXiv 2602.02927)
    drop      visible - commit (Saber, arXiv 2510.18165)
    loo       its probability with itself masked: the exact reference, one more call for each position
    quality   a trained head (PRISM, arXiv 2510.01384; BackPlay, arXiv 2601.06428)
    random    the control

Visible rows are raw: under carry-over parametrisation they would be one-hot, and every score of them 1.
A network that was never trained at visible positions gives them all the same; whether they rank errors is
then to be measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.owners import Start
from components.samplers.state import Field, State
from components.samplers.view import View

Fields = dict[str, Tensor]
"""Running fields of a score, [R, L] each, with this answer in them."""


def commit(state: State, view: View, fields: Fields) -> Tensor:
    return state.confidence


def visible(state: State, view: View, fields: Fields) -> Tensor:
    return view.current


def mean(state: State, view: View, fields: Fields) -> Tensor:
    return fields["score_sum"] / fields["score_count"].clamp(min=1)


def drop(state: State, view: View, fields: Fields) -> Tensor:
    return view.current - state.confidence


def loo(state: State, view: View, fields: Fields) -> Tensor:
    return view.left_out


def quality(state: State, view: View, fields: Fields) -> Tensor:
    return view.heads["quality"]


def random(state: State, view: View, fields: Fields) -> Tensor:
    return noise.uniform(state.keys, state.tick, 0, view.masked.shape[1], Stream.CONTROL).float()


SCORES: dict[str, Callable[[State, View, Fields], Tensor]] = {
    "commit": commit,
    "visible": visible,
    "mean": mean,
    "drop": drop,
    "loo": loo,
    "quality": quality,
    "random": random,
}
READS_CURRENT = frozenset({"visible", "mean", "drop"})
"""Scores that read the raw rows at visible positions."""


class Scored:
    """A score with its running fields."""

    def __init__(self, name: str):
        self.name = name
        self.reads_current = name in READS_CURRENT
        self.heads = ("quality",) if name == "quality" else ()
        self.reads_left_out = name == "loo"

    def begin(self, start: Start) -> dict[str, Field]:
        """The running fields at the start."""
        if self.name != "mean":
            return {}
        zeros = torch.zeros(start.masked.shape, device=start.masked.device)
        return {"score_sum": Field(zeros, reset=0.0), "score_count": Field(zeros, reset=0.0)}

    def measure(self, state: State, view: View) -> tuple[Tensor, Fields]:
        """(score [R, L], running fields), from an answer to rows that were called."""
        fields: Fields = {}
        if self.name == "mean":
            seen = (~view.masked & ~state.fixed & view.called[:, None]).float()
            fields["score_sum"] = state["score_sum"] + seen * view.current
            fields["score_count"] = state["score_count"] + seen
        return SCORES[self.name](state, view, fields), fields

"""Scores of written tokens, larger = keep: one family behind every corrector's ``score=``.

    commit    probability of the token when it was written (ReMDM, Mask-Predict); stale by design
    visible   the network's own probability of it now, of the raw row at its visible position
    mean      ``visible`` averaged over the calls since it was written (FreeCorrection, arXiv 2602.02927)
    drop      visible - commit (Saber, arXiv 2510.18165)
    loo       its probability with itself masked: the exact reference, one more call for each position
    quality   a trained head (PRISM, arXiv 2510.01384; BackPlay, arXiv 2601.06428)
    random    the control

Compared are log-odds where a score is a probability, and float64: in float32 a probability above 1 - 6e-8 is 1, and of the
tokens of a sharp network the leftmost would be the worst.

Visible rows are raw: under carry-over parametrisation they would be one-hot, and every score of them 1.
A network that was never trained at visible positions gives them all the same; whether they rank errors is
then to be measured, not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View

Fields = dict[str, Tensor]
"""Running fields of a score, [R, L] each, with this answer in them."""


def commit(state: State, view: View, fields: Fields) -> Tensor:
    return state["commit_odds"]


def visible(state: State, view: View, fields: Fields) -> Tensor:
    return view.current_odds


def mean(state: State, view: View, fields: Fields) -> Tensor:
    """Log-odds of the mean, of both sums, because either may be far below the other's last bit."""
    return fields["score_sum"].log() - fields["doubt_sum"].log()


def drop(state: State, view: View, fields: Fields) -> Tensor:
    return difference(view.current_odds.double(), state["commit_odds"].double())


def difference(now: Tensor, then: Tensor) -> Tensor:
    """p now - p then, of log-odds; where both are large, of 1 - p."""
    gain = torch.sigmoid(now) - torch.sigmoid(then)
    return torch.where(now + then > 0, torch.sigmoid(-then) - torch.sigmoid(-now), gain)


def loo(state: State, view: View, fields: Fields) -> Tensor:
    return view.left_out


def quality(state: State, view: View, fields: Fields) -> Tensor:
    return view.heads["quality"]


def random(state: State, view: View, fields: Fields) -> Tensor:
    return noise.uniform(state.keys, state.tick, 0, view.masked.shape[1], Stream.CONTROL)


@dataclass(frozen=True)
class Score:
    """How a score is measured, and what it needs for it."""

    measure: Callable[[State, View, Fields], Tensor]
    """[R, L], larger is better."""
    log_odds: bool = False
    """It is given as the log-odds of a probability."""
    reads: frozenset[str] = frozenset()
    """Log-odds of the view."""


NOW, THEN = frozenset({"current_odds"}), frozenset({"log_odds"})
SCORES: dict[str, Score] = {
    "commit": Score(commit, log_odds=True, reads=THEN),
    "visible": Score(visible, log_odds=True, reads=NOW),
    "mean": Score(mean, log_odds=True, reads=NOW),
    "drop": Score(drop, reads=NOW | THEN),
    "loo": Score(loo, log_odds=True),
    "quality": Score(quality),
    "random": Score(random),
}


class Scored:
    """A score with its running fields."""

    def __init__(self, name: str):
        self.name, self.score = name, SCORES[name]
        self.reads = self.score.reads
        self.heads = ("quality",) if name == "quality" else ()
        self.reads_left_out = name == "loo"

    @property
    def reads_current(self) -> bool:
        """It reads the raw rows at visible positions."""
        return self.reads >= NOW

    def begin(self, start: Start) -> dict[str, Field]:
        """The running fields at the start."""
        fields = begin_commit(start) if self.reads >= THEN else {}
        if self.name == "mean":
            zeros = torch.zeros(start.masked.shape, dtype=torch.float64, device=start.masked.device)
            fields |= {name: Field(zeros, reset=0.0) for name in ("score_sum", "doubt_sum")}
        return fields

    def update(self, state: State, written: Written, view: View) -> Fields:
        """The running fields after a write."""
        return update_commit(state, written, view) if self.reads >= THEN else {}

    def measure(self, state: State, view: View) -> tuple[Tensor, Fields]:
        """(score [R, L] float64, running fields), from an answer to rows that were called."""
        fields: Fields = {}
        if self.name == "mean":
            seen = ~view.masked & ~state.fixed & view.called[:, None]
            now = view.current_odds.double()
            fields["score_sum"] = state["score_sum"] + torch.sigmoid(now) * seen
            fields["doubt_sum"] = state["doubt_sum"] + torch.sigmoid(-now) * seen
        return self.score.measure(state, view, fields).double(), fields

    def error(self, score: Tensor) -> Tensor:
        """1 - the score on its own scale, of a measured one."""
        return torch.sigmoid(-score) if self.score.log_odds else 1 - score


def begin_commit(start: Start) -> dict[str, Field]:
    """``commit_odds`` [R, L]: log-odds of each token when it was drawn; of what was not drawn but given, it is sure."""
    return {"commit_odds": Field(torch.full(start.masked.shape, math.inf, device=start.masked.device), reset=math.inf)}


def update_commit(state: State, written: Written, view: View) -> Fields:
    """``commit_odds`` after a write."""
    return {"commit_odds": torch.where(written.revealed, view.log_odds, state["commit_odds"])}

"""Limits that every corrector obeys: edits per position, edits per call, and a time of rest after writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from components.diffusion import select
from components.samplers.config import GuardConfig
from components.samplers.correctors.base import Verdict
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


class Guard:
    """Keeps ``num_changes`` of each position where these are limited, and the tick ``written_at`` where tokens rest."""

    def __init__(self, config: GuardConfig):
        self.config = config

    def begin(self, start: Start) -> dict[str, Field]:
        fields = {}
        if self.config.edits_per_position:
            fields["num_changes"] = Field(torch.zeros_like(start.canvas))
        if self.config.cooldown:
            fields["written_at"] = Field(torch.zeros_like(start.canvas))
        return fields

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        fields = {}
        if self.config.edits_per_position:
            fields["num_changes"] = state["num_changes"] + (written.replaced | written.remasked)
        if self.config.cooldown:
            fresh = written.revealed | written.replaced
            fields["written_at"] = torch.where(fresh, state.tick[:, None], state["written_at"])
        return fields

    def changeable(self, state: State, masked: Bool[Tensor, "R L"]) -> Bool[Tensor, "R L"]:
        """Visible tokens that may be changed now."""
        allowed = ~masked & ~state.fixed
        if self.config.edits_per_position:
            allowed = allowed & (state["num_changes"] < self.config.edits_per_position)
        if self.config.cooldown:
            allowed = allowed & (state.tick[:, None] - state["written_at"] > self.config.cooldown)
        return allowed

    def limit(self, state: State, verdict: Verdict, view: View) -> Verdict:
        """The verdict without the changes that go beyond the limits; the most urgent ones stay."""
        differs = verdict.remask | (verdict.replace & (verdict.replacement != state.tokens))
        changes = view.changeable & differs
        if share := self.config.edit_share:
            budget = ((~state.fixed).sum(-1) * share).long().clamp(min=1)
            changes = select.best(verdict.urgency, changes, budget)
        return replace(verdict, remask=verdict.remask & changes, replace=verdict.replace & (changes | ~differs))

"""Rows that run, and their edits as viewers of trajectories and streams are told them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.samplers.contract import CHANGES, Edit, Row
from components.samplers.state import Record

Trace = list[Edit]
Watch = Callable[[Trace], None]
"""Is told the edits of a row, those of one step at a time."""


@dataclass(eq=False)
class Held:
    """A row in its lanes, under the number by which its owner knows it."""

    ticket: int
    row: Row
    watch: Watch | None = None
    """Told of its edits as they happen."""
    trace: Trace = field(default_factory=list)
    seen: tuple[int, ...] = ()
    """What whoever follows its edits has before them, where that is not its canvas."""

    @property
    def observed(self) -> bool:
        return self.row.trace or self.watch is not None

    @property
    def followed(self) -> bool:
        """Somebody reads edits of it, all of them or those of visible tokens."""
        return self.observed or self.row.corrections

    def begin_again(self, seen: tuple[int, ...]) -> None:
        """It is run from its start once more, and whoever follows its edits has ``seen`` before them."""
        if self.observed:
            self.seen = seen
        else:
            self.trace.clear()

    def tell(self, edits: Trace) -> None:
        """Pass edits on to whoever wants them."""
        if self.row.trace:
            self.trace += edits
        elif self.row.corrections:
            self.trace += [edit for edit in edits if edit.reason in CHANGES]
        if self.watch is not None and edits:
            self.watch(edits)


REASONS = ("reveal", "replace", "remask")


def read_edits(
    shown: Int[Tensor, "R L"],
    record: Record,
    calls: Int[Tensor, "R"],
    observed: Bool[Tensor, "R"],
    corrected: Bool[Tensor, "R"],
) -> dict[int, Trace]:
    """The edits of a step by row, of rows that are observed: what leads from ``shown``, the canvas that their
    observers know, to the one after the step; and of rows that are ``corrected`` those of visible tokens. The host waits
    for the device, twice."""
    visible = (record.replaced | record.remasked) & corrected[:, None]
    row, position = ((shown != record.after) & (observed[:, None] | visible)).nonzero().unbind(-1)
    reason = torch.where(record.revealed, 0, torch.where(record.remasked, 2, 1))
    whole = [row, position, shown[row, position], record.after[row, position], reason[row, position], calls[row]]
    numbers = torch.stack([x.double() for x in (*whole, record.tick[row], record.confidence[row, position])], 1)
    edits: dict[int, Trace] = {}
    for *ids, confidence in numbers.tolist():
        where, at, old, new, why, call, tick = map(int, ids)
        edits.setdefault(where, []).append(Edit(call, tick, at, old, new, confidence, REASONS[why]))
    return edits


def last_edits(shown: Sequence[int], tokens: Sequence[int], call: int, tick: int, reason: str) -> Trace:
    """What leads from the canvas that an observer knows to the tokens that a row ended with."""
    pairs = enumerate(zip(shown, tokens, strict=True))
    return [Edit(call, tick, i, old, new, None, reason) for i, (old, new) in pairs if old != new]

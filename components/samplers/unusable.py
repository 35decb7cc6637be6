"""What was said of a row that is no number, so that nothing can be decided by it: logits, a head, a reward, a policy.

Found without waiting for the device, and told in a sentence where the row ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.samplers.contract import Answer, Query
from components.samplers.state import Record

LOGITS, HEAD, REWARD, POLICY = range(4)
KINDS = 4
CHECKPOINT = "Look for values that are not finite in the checkpoint, or run the model in float32."
SENTENCES: dict[int, Callable[[int, int, int], str]] = {
    LOGITS: lambda row, call, position: (
        f"The network's logits for the row {row} are NaN or infinite in call {call} at position {position}, so nothing can "
        f"be drawn there. {CHECKPOINT}"
    ),
    HEAD: lambda row, call, position: (
        f"The quality head's score for the row {row} is NaN or infinite in call {call} at position {position}, so the worst "
        f"tokens can not be told. {CHECKPOINT}"
    ),
    REWARD: lambda row, call, position: (
        f"The reward of the row {row} is NaN or infinite after call {call}, so its chains can not be weighed. Look at what "
        f"the scorer search.reward says of such a row, or run the model in float32."
    ),
    POLICY: lambda row, call, position: (
        f"The unmasking policy's logits for the row {row} are NaN in call {call}, so nobody says what to reveal. {CHECKPOINT}"
    ),
}


@dataclass(frozen=True)
class Unusable:
    """The first unusable thing of each group of chains."""

    code: Int[Tensor, "G"]
    """Kind times L plus the position; KINDS times L where all is well."""
    length: int

    @property
    def well(self) -> Bool[Tensor, "G"]:
        return self.code == KINDS * self.length

    def sentence(self, code: int, row: int, call: int) -> str | None:
        """What a row is told that has this code, on the host; None where all is well."""
        kind, position = divmod(code, self.length)
        return SENTENCES[kind](row, call, position) if kind in SENTENCES else None


def find_unusable(query: Query, said: Answer, record: Record, width: int, num_groups: int) -> Unusable:
    """What of an answer to a query, and of the step that was made by it, is no number.

    Minus infinity is the logit of a token that can not be, and right as long as there are others.

    Args:
        width: rows of a group.
    """
    num_inputs, length = query.tokens.shape
    rows = torch.arange(num_groups * width, device=query.row.device)
    code = torch.full((num_groups,), KINDS * length, device=query.row.device)

    def noted(code: Tensor, kind: int, row: Tensor, bad: Tensor, position: Tensor | int = 0) -> Tensor:
        at = torch.where(bad, kind * length + position, KINDS * length)
        return code.scatter_reduce(0, row // width, at, "amin")

    inputs = said.select // length
    code = noted(code, LOGITS, query.row[inputs], ~torch.isfinite(said.logits.amax(-1)), said.select % length)
    places = torch.arange(length, device=code.device).expand(num_inputs, -1)
    owner = query.row[:, None].expand(-1, length)
    for head in said.heads.values():
        bad = ~torch.isfinite(head) & query.active[:, None]
        code = noted(code, HEAD, owner.flatten(), bad.flatten(), places.flatten())
    if said.rewards is not None:
        code = noted(code, REWARD, rows, ~torch.isfinite(said.rewards).all(-1))
    if "logpi" in record.learned:
        code = noted(code, POLICY, rows, torch.isnan(record.learned["logpi"]))
    return Unusable(code, length)

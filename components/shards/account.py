"""What a shard cost and what corrections did in it, as sums: shards are added up, and no table is read for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import CorruptArtifact


@dataclass(frozen=True)
class Account:
    """Sums over rows."""

    rows: int = 0
    quarantined: int = 0
    """Rows that were asked for and could not be made."""
    calls: int = 0
    call_positions: float = 0.0
    reward_calls: int = 0
    edits: int = 0
    """Visible tokens that were replaced or masked again."""
    corrected: int = 0
    """Rows with an edit."""
    useful_tokens: int = 0
    """Tokens that were written and are in the text: neither prompt, padding nor behind the end."""
    busy_s: float = 0.0
    """Seconds that replicas worked on it."""
    forwards: int = 0
    """Of lanes, whether a row was in them or not; what is more than ``calls`` is padding."""
    corrections_by_position: tuple[int, ...] = ()
    """How often a visible token was changed there; empty where corrections were not kept."""

    def __add__(self, other: Account) -> Account:
        mine, theirs = self.corrections_by_position, other.corrections_by_position
        longer = max(len(mine), len(theirs))
        added = [sum(c[i] for c in (mine, theirs) if i < len(c)) for i in range(longer)]
        plain = other.plain()
        sums = {name: value + plain[name] for name, value in self.plain().items()}
        return Account(**sums | {"corrections_by_position": tuple(added)})

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Account:
        """Of a receipt; what one of an older version lacks is 0.

        Raises:
            CorruptArtifact: it is none.
        """
        given = plain if isinstance(plain, Mapping) else {"rows": str(plain)}
        known = {f.name: given[f.name] for f in fields(cls) if f.name in given}
        corrections = known.pop("corrections_by_position", ())
        numbers = [*known.values(), *(corrections if isinstance(corrections, list | tuple) else [str(corrections)])]
        if wrong := [x for x in numbers if type(x) not in (int, float) or not 0 <= x < 2**63]:
            raise CorruptArtifact(
                f"A receipt accounts for {wrong[0]!r:.60}, where numbers from 0 stand: it was changed. Remove the receipts of "
                f"its folder and run the same command again."
            )
        return cls(**known, corrections_by_position=tuple(corrections))

    def rates(self) -> dict[str, float]:
        """What is looked at while a job runs, and after it."""
        rows, useful, forwards = max(1, self.rows), max(1, self.useful_tokens), max(1, self.forwards)
        return {
            "calls": self.calls / rows,
            "edits": self.edits / rows,
            "calls_per_useful_token": self.calls / useful,
            "padding_waste": 1 - self.calls / forwards if self.forwards else 0.0,
        }


def useful(
    tokens: NDArray[np.integer], fixed: NDArray[np.bool_], end_id: int, pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(useful tokens, did its text end before the row?) of each row.

    Args:
        tokens: [n, L].
        fixed: [n, L], what was given.
    """
    ends = (tokens == end_id) & ~fixed
    text = ~fixed & ~np.logical_or.accumulate(ends, axis=1) & (tokens != pad_id)
    return text.sum(axis=1), (ends | ((tokens == pad_id) & ~fixed)).any(axis=1)

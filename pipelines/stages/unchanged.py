"""A stage reads the bytes that its key names, or stops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Protocol

from components.errors import DataError
from components.store.content import Content, changes, forget_unsettled


class Reading(Protocol):
    """Options that name files."""

    def content(self) -> Content | None: ...


Read = tuple[Reading, Content | None]
"""Options, and what the files that they name held when the run was planned."""


def require_unchanged(read: Iterable[Read]) -> None:
    """Compare what files hold with what they held then.

    Raises:
        DataError: they hold something else.
    """
    forget_unsettled()
    for options, planned in read:
        now = options.content()
        if now == planned or now is None or planned is None:
            continue
        raise DataError(
            f"Files were changed while the run was at work: {changes(asdict(planned), asdict(now))[0]}. What was read "
            f"of them is not kept. Run the same command again; what depends on them is then made from what they hold now."
        )

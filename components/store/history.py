"""What became of a model over the nights: numbered entries below a root, each made once, and what they come to.

``<root>/nightly/<name>/00000001.json`` and so on. Who writes the next number where another was faster learns it, so two
that decide at once can not both have decided. The entries are the truth; MLflow's aliases and the services that follow
a champion are made after them, and made again where they were lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date as Date
from pathlib import Path
from typing import Any, Literal

from components.errors import CorruptArtifact, StoreError
from components.outside import from_json
from components.store.files import children, create_text, folders, read_text
from components.store.names import file_name

FOLDER = "nightly"
Decision = Literal["first", "promoted", "kept", "unchanged", "rolled back"]
TRAINED = ("first", "promoted", "kept")
"""Nights on which there was a candidate."""


@dataclass(frozen=True)
class Entry:
    """One night, or one step back."""

    date: str
    """The night, as YYYY-MM-DD; of a step back, the day on which it was taken."""
    decision: Decision
    candidate: str = ""
    """Key of the export that was made; of a step back, of the champion that was left."""
    before: str = ""
    """Key of the export that was champion until then; empty where there was none."""
    data: str = ""
    """What the corpora held and the run said."""
    missed: int = 0
    """Nights before this one that were not made, and that it stands for."""
    reason: str = ""
    """For people."""
    verdict: str = ""
    """Key of the stage that compared the two."""
    at: str = ""
    """When it was decided."""
    by: str = ""
    """Who decided it, and where."""


@dataclass(frozen=True)
class History:
    """All entries, the first first, and what they come to."""

    folder: Path
    entries: tuple[Entry, ...] = field(default_factory=tuple)

    @property
    def champions(self) -> tuple[str, ...]:
        """Keys of exports, each of which took over from the one before; the last is the champion."""
        found: list[str] = []
        for entry in self.entries:
            if entry.decision in ("first", "promoted"):
                found.append(entry.candidate)
            elif entry.decision == "rolled back" and found:
                found.pop()
        return tuple(found)

    @property
    def champion(self) -> str:
        """Key of the export that is served; empty where there is none yet."""
        return self.champions[-1] if self.champions else ""

    @property
    def previous(self) -> str:
        """Key of the export that a step back leads to; empty where there is none."""
        return self.champions[-2] if len(self.champions) > 1 else ""

    @property
    def candidate(self) -> str:
        """Key of the export that was made last."""
        return next((e.candidate for e in reversed(self.entries) if e.decision in TRAINED), "")

    @property
    def left(self) -> frozenset[str]:
        """Keys of champions that were left by a step back."""
        return frozenset(e.candidate for e in self.entries if e.decision == "rolled back")

    @property
    def nights(self) -> tuple[Entry, ...]:
        """Entries that are nights."""
        return tuple(e for e in self.entries if e.decision != "rolled back")

    def night(self, date: str) -> Entry | None:
        """The entry of a night, or of the later one that stands for it."""
        return next((e for e in self.nights if e.date >= date), None)

    def export(self, key: str) -> Path:
        """The folder of an export by its key."""
        return self.folder.parent.parent / "export" / file_name(key, self.folder)

    def add(self, entry: Entry) -> History:
        """The history with one entry more, which is written.

        Raises:
            StoreError: somebody else wrote the next one.
        """
        place = self.folder / f"{len(self.entries) + 1:08d}.json"
        if not create_text(place, json.dumps(asdict(entry), indent=1)):
            raise StoreError(
                f"{place} was written by somebody else in the meantime, so nothing was decided. See what became of the "
                f"night (`proseco nightly RUN --date {entry.date}`), then run the same command again."
            )
        return History(self.folder, (*self.entries, entry))


def read_history(root: Path, name: str) -> History:
    """All entries of a name, none where there is none.

    Raises:
        CorruptArtifact: one is damaged, or one is missing between others.
    """
    folder = root / FOLDER / file_name(name, "The name of a nightly run")
    return History(folder, tuple(entries(folder)))


def champions(root: Path) -> set[str]:
    """Keys of all exports that are champions of some name, or that a step back leads to."""
    return {key for folder in folders(root / FOLDER) for key in read_history(root, folder.name).champions}


def entry_of(plain: dict[str, Any], place: Path) -> Entry:
    """An entry as it was read: its date and its keys become parts of paths.

    Raises:
        ValueError, TypeError: it is none.
        CorruptArtifact: a key is no name.
    """
    entry = Entry(**plain)
    for name, value in plain.items():
        if type(value) is not (int if name == "missed" else str):
            raise ValueError(f"{name} is {value!r}")
    Date.fromisoformat(entry.date)
    for key in (entry.candidate, entry.before, entry.verdict):
        if key:
            file_name(key, place)
    return entry


def entries(folder: Path) -> Iterator[Entry]:
    places = [p for p in children(folder) if re.fullmatch(r"\d{8}\.json", p.name)]
    for number, place in enumerate(places, 1):
        try:
            if int(place.stem) != number:
                raise ValueError(f"number {number} is missing")
            yield entry_of(from_json(read_text(place)), place)
        except (ValueError, TypeError) as error:
            raise CorruptArtifact(
                f"{place} can not be read as what became of a night ({error}), so which model is the champion is not "
                f"known, and nothing is decided. Restore the file from a copy of {folder}."
            ) from error

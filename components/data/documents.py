"""A document, and what a corpus must offer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from components.outside import printable

EXCERPT = 200
"""Characters of what is told of a document that cannot be used."""


@dataclass(frozen=True)
class Document:
    """Text to learn, perhaps after a prompt."""

    id: str
    """Where it came from; unique in its corpus."""
    text: str
    prompt: str = ""
    label: float | None = None
    """A class, or the value of a property."""


@dataclass(frozen=True)
class BadDocument:
    """A document that cannot be used, and why."""

    id: str
    reason: str
    excerpt: str = ""
    whole_file: bool = False
    """It is all that a file holds, as the file cannot be read."""

    def __post_init__(self) -> None:
        """It is written into tables, whatever was in the document."""
        for name in ("id", "reason", "excerpt"):
            object.__setattr__(self, name, printable(getattr(self, name))[:EXCERPT])


class Corpus(Protocol):
    """A source of documents, cut into pieces that can be read apart and in any order."""

    symbols: str
    """All characters that can occur, where that is known ahead; else empty."""

    def pieces(self, count: int) -> list[str]:
        """Names of at most ``count`` pieces. Raises DataError where there is nothing to read."""

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        """Documents of one piece, always the same in the same order."""


class RuledCorpus(Corpus, Protocol):
    """A corpus whose options say that it has rules."""

    def obeys(self, prompt: str, text: str) -> bool:
        """Does a text obey the rules, after this prompt?"""


def split_of(document: Document, validation_share: float, test_share: float) -> str:
    """The split of a document, from its content alone."""
    if not validation_share and not test_share:
        return "train"
    digest = hashlib.blake2b(f"{len(document.prompt)}:{document.prompt}".encode("utf-8", "surrogatepass"), digest_size=8)
    digest.update(document.text.encode("utf-8", "surrogatepass"))
    place = int.from_bytes(digest.digest(), "big") / 2**64
    if place < validation_share:
        return "validation"
    return "test" if place < validation_share + test_share else "train"

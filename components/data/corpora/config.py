"""Options of corpora, without torch."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components.data.corpora.listing import Files, below, listed
from components.errors import Problem
from components.options import Count, Location, Natural, Seed, options
from components.plugins import Card
from components.store.content import Content

GENERATED = "components.data.corpora.puzzles"
FILES = "components.data.corpora.files"


@options
class SourceOptions(Card):
    """Where documents come from."""

    has_rules: ClassVar[bool] = False
    """The corpus can say whether a text obeys it: its code has ``obeys(prompt, text)``."""

    def prompted(self) -> bool:
        """Its documents begin with a prompt that is kept clean."""
        return False

    def labels(self) -> Literal["", "class", "value"]:
        """What its documents say of themselves."""
        return ""

    def files(self) -> Files | None:
        """The files that its documents are read from; None where they come from nowhere but the options.

        Raises:
            DataError: there is none.
        """
        return None

    def content(self) -> Content | None:
        """What those files hold, which is part of the identity of all that is made of them."""
        files = self.files()
        return None if files is None else files.content()

    def problems(self) -> Iterator[Problem]:
        """Broken rules between options, and things that are not there; paths begin below the source."""
        yield from ()


@options
class LatinSquareConfig(SourceOptions):
    """Latin squares, generated: size x size symbols, none twice in a row or column; written row by row."""

    name: ClassVar[str] = "latin_square"
    code: ClassVar[str] = f"{GENERATED}:LatinSquares"
    has_rules: ClassVar[bool] = True

    size: Annotated[int, Field(ge=2, le=9)] = 5
    """Symbols are the digits from 1."""
    num_documents: Count = 40000
    """Squares; equal ones can come up again."""
    seed: Seed = 0
    """Of the generator."""


@options
class SudokuConfig(SourceOptions):
    """Sudoku, generated: solved grids, or puzzles with the givens as prompt."""

    name: ClassVar[str] = "sudoku"
    code: ClassVar[str] = f"{GENERATED}:Sudokus"
    has_rules: ClassVar[bool] = True

    size: Literal[4, 6, 9] = 4
    """Symbols of a row."""
    num_documents: Count = 20000
    """Grids or puzzles."""
    givens: Natural = 0
    """0 writes whole grids; otherwise the prompt is the puzzle (0 for empty) and the text its solution."""
    seed: Seed = 0
    """Of the generator."""

    def prompted(self) -> bool:
        return self.givens > 0

    def problems(self) -> Iterator[Problem]:
        if self.givens >= self.size**2:
            yield Problem("givens", self.givens, f"fewer than the {self.size**2} cells", "lower it")


@options
class CodingConfig(SourceOptions):
    """Strings of groups, generated; each group holds permuted copies of one symbol and is valid if they agree."""

    name: ClassVar[str] = "coding"
    code: ClassVar[str] = f"{GENERATED}:Coding"
    has_rules: ClassVar[bool] = True

    groups: Count = 4
    """Groups of a string."""
    copies: Count = 4
    """Copies of a group's symbol."""
    symbols: Annotated[int, Field(ge=2, le=9)] = 6
    """Different symbols, the digits from 1."""
    num_documents: Count = 20000
    """Strings."""
    seed: Seed = 0
    """Of the generator."""


@options
class PatchesConfig(SourceOptions):
    """Images as tokens, generated: smooth blobs on side x side patches, each one of so many grey levels."""

    name: ClassVar[str] = "patches"
    code: ClassVar[str] = "components.data.corpora.images:Patches"

    side: Count = 8
    """Patches of a line."""
    levels: Annotated[int, Field(ge=2, le=9)] = 6
    """Grey levels, the digits from 1."""
    num_documents: Count = 20000
    """Images."""
    seed: Seed = 0
    """Of the generator."""


@options
class AdditionConfig(SourceOptions):
    """Long addition, generated: ``a+b=`` as prompt, the sum as text, least significant digit last."""

    name: ClassVar[str] = "addition"
    code: ClassVar[str] = f"{GENERATED}:Addition"
    has_rules: ClassVar[bool] = True

    min_digits: Count = 3
    """Of the shorter numbers."""
    max_digits: Count = 8
    """Of the longer ones."""
    num_documents: Count = 20000
    """Sums."""
    seed: Seed = 0
    """Of the generator."""

    def prompted(self) -> bool:
        return True

    def problems(self) -> Iterator[Problem]:
        if self.min_digits > self.max_digits:
            yield Problem("min_digits", self.min_digits, f"at most max_digits ({self.max_digits})", "lower it")


@options
class StdlibConfig(SourceOptions):
    """Python files of the running interpreter's standard library."""

    name: ClassVar[str] = "stdlib"
    code: ClassVar[str] = f"{FILES}:Stdlib"

    max_documents: Natural = 0
    """0 takes all; otherwise this many, spread evenly."""
    include_tests: bool = False
    """Take the library's own tests as well."""

    def files(self) -> Files:
        root = sysconfig.get_paths()["stdlib"]
        skipped = {"site-packages", "dist-packages", "__pycache__"}
        if not self.include_tests:
            skipped |= {"test", "tests", "idle_test"}
        names = sorted(n for n in below(root) if n.endswith(".py") and not skipped & set(Path(n).parts))
        limit = self.max_documents
        if limit and limit < len(names):
            names = [names[i * len(names) // limit] for i in range(limit)]
        return Files(root, tuple(names))


@options
class FileSource(SourceOptions):
    """What corpora share that are read from files."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of the files that are taken of a folder, perhaps with ``.gz`` after them."""

    path: Location = ""
    """A file, a folder, or a glob. ``$PROSECO_DATA`` stands for that setting. The identity holds the names below it
    and what the files hold, not where they lie."""

    def files(self) -> Files:
        return listed(self.path, self.suffixes)

    def problems(self) -> Iterator[Problem]:
        if not self.path:
            yield Problem("path", "", "where the corpus is", "set it")
        elif "$PROSECO_DATA" not in self.path and not Path(self.path).exists() and not set("*?[") & set(self.path):
            yield Problem("path", self.path, "a file, folder or glob that exists", f"look in {os.getcwd()}")


@options
class RecordSource(SourceOptions):
    """What corpora of records share: which fields hold what."""

    text_field: str = "text"
    """Field of the text."""
    prompt_field: str = ""
    """Set it for fine-tuning: the prompt is kept clean and out of the loss."""
    label_field: str = ""
    """Field of a class, a whole number from 0, for networks with ``model.num_classes``."""
    value_field: str = ""
    """Field of the value of a property, a number, for networks with ``model.value_range``."""

    def prompted(self) -> bool:
        return bool(self.prompt_field)

    def labels(self) -> Literal["", "class", "value"]:
        return "class" if self.label_field else "value" if self.value_field else ""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.label_field and self.value_field:
            yield Problem("value_field", self.value_field, "empty where label_field is set", "choose one of them")

    def fields(self) -> tuple[str, ...]:
        """Those that are read."""
        named = (self.text_field, self.prompt_field, self.label_field, self.value_field)
        return tuple(name for name in named if name)


@options
class TextConfig(FileSource):
    """Text files or a folder of them: one document a file, a line or a paragraph."""

    name: ClassVar[str] = "text"
    code: ClassVar[str] = f"{FILES}:TextFiles"
    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".md", ".rst", ".py")

    document: Literal["file", "line", "paragraph"] = "file"
    """What is a document."""


@options
class JsonlConfig(RecordSource, FileSource):
    """JSON lines."""

    name: ClassVar[str] = "jsonl"
    code: ClassVar[str] = f"{FILES}:JsonLines"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".json", ".ndjson")


@options
class CsvConfig(RecordSource, FileSource):
    """CSV or TSV, whose first row names the fields."""

    name: ClassVar[str] = "csv"
    code: ClassVar[str] = f"{FILES}:TableFiles"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".tab")

    separator: Annotated[str, Field(max_length=1)] = ""
    """Between fields; empty is a tab in .tsv and .tab files and a comma in others."""


@options
class ParquetConfig(RecordSource, FileSource):
    """Parquet files."""

    name: ClassVar[str] = "parquet"
    code: ClassVar[str] = f"{FILES}:ParquetFiles"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)


@options
class HubConfig(RecordSource):
    """A dataset of the Hugging Face hub, streamed."""

    name: ClassVar[str] = "hub"
    code: ClassVar[str] = f"{FILES}:HubDataset"

    dataset: str = ""
    """Its name on the hub."""
    subset: str = ""
    """Configuration of the dataset."""
    split: str = "train"
    """Split of the dataset."""
    revision: str = ""
    """Commit or tag; pin it, or the corpus may change."""
    max_documents: Natural = 0
    """0 reads to the end."""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.dataset:
            yield Problem("dataset", "", "name of a dataset of the hub", "set it")

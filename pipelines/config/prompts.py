"""Files of prompts, as people write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.errors import ConfigError, DataError
from components.options import Natural, options, parse

Text = str
Holes = Annotated[int, Field(ge=1)]


@options
class Entry:
    """One prompt."""

    prompt: str = ""
    """What is continued."""
    template: tuple[Text | Holes, ...] = ()
    """Instead: texts that stay, and numbers of positions to write between them."""
    label: Natural | None = None
    """Class of the row, for networks with classes."""

    def pieces(self) -> tuple[str | int, ...]:
        """Texts and holes in order."""
        return self.template or (self.prompt,)


def read_entries(path: Path | None) -> list[Entry]:
    """Prompts of a file: JSON lines with ``prompt`` or ``template`` and perhaps ``label``, or one prompt a line.

    Raises:
        DataError: the file cannot be read, or a line is broken.
    """
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as text ({error}). Give JSON lines with a field 'prompt', or text lines, in UTF-8."
        ) from error
    if not lines:
        raise DataError(f"{path} is empty, so there is nothing to continue. Add a line, or leave out --prompts.")
    if path.suffix != ".jsonl":
        return [Entry(line) for line in lines]
    return [read_entry(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def read_entry(line: str, where: str) -> Entry:
    """One line of JSON. Raises DataError where it is none."""
    try:
        plain = json.loads(line)
        entry = parse(Entry, plain)
        if not plain or (entry.prompt and entry.template):
            raise ConfigError("either 'prompt' or 'template' must be there, and not both")
    except (json.JSONDecodeError, RecursionError, ConfigError) as error:
        raise DataError(
            f"{where}: no JSON object with a field 'prompt' (a text) or 'template' (a list of texts and of numbers of "
            f"positions to write), and perhaps 'label' (a number). Mend or remove the line. {error}"
        ) from error
    return entry

"""A run as YAML that explains itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from components.errors import StoreError
from pipelines.new.propose import Line

WIDTH = 110


def text_of(lines: Sequence[Line], title: str) -> str:
    """The file."""
    return "\n".join([*comment(title, ""), *blocks(lines)]) + "\n"


def blocks(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        yield ""
        yield from entry(line, "")


def entry(line: Line, indent: str) -> Iterator[str]:
    """A line with its reason above it, and what is below it."""
    yield from comment(line.why, indent)
    if isinstance(line.value, list) and line.value and isinstance(line.value[0], Line):
        yield f"{indent}{line.key}:"
        for inner in line.value:
            yield from entry(inner, indent + "  ")
    else:
        yield f"{indent}{line.key}: {flow(line.value)}"


def comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def flow(value: object) -> str:
    """A value in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True).strip().removesuffix("\n...")


def create(path: Path, text: str) -> None:
    """Write a file that is not there. Raises StoreError where it is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StoreError(f"{path} is there already, and is left as it is. Name another file, or remove it.") from None
    except OSError as error:
        raise StoreError(f"{path} can not be written ({error.strerror}). Name another place.") from None

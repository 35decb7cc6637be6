"""A run as YAML that explains itself."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from components.errors import StoreError
from pipelines.config.load import from_yaml
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
    """Names of fields may hold what ends a line, or what no YAML may have."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


class Dumper(yaml.SafeDumper):
    """Puts into quotes what a run would read as something else than a text: 1e9 is one to YAML 1.1 and none to ours."""

    def text(self, text: str) -> yaml.ScalarNode:
        literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # what else names another option
        return self.represent_scalar("tag:yaml.org,2002:str", literal, None if is_plain(literal) else '"')


Dumper.add_representer(str, Dumper.text)


def is_plain(text: str) -> bool:
    try:
        return bool(from_yaml(f"a: {text}".encode()) == {"a": text})
    except ValueError:
        return False


def flow(value: object) -> str:
    """A value in one line."""
    found = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return found.strip().removesuffix("\n...")


def create(path: Path, text: str) -> None:
    """Write a file that is not there. Raises StoreError where it is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StoreError(f"{path} is there already, and is left as it is. Name another file, or remove it.") from None
    except OSError as error:
        raise StoreError(f"{path} can not be written ({error.strerror}). Name another place.") from None

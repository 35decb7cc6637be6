"""The command ``proseco new``: look, propose, write, and see that it plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from components.errors import ConfigError
from pipelines.config.load import load_run
from pipelines.new.look import generated, look
from pipelines.new.propose import found, propose
from pipelines.new.write import create, text_of


def new(path: Path, data: str, asked: Mapping[str, str], kind: str, minutes: float, size: str) -> Iterator[str]:
    """Write a run for data, and say what was found and what to do now.

    Args:
        data: a file, a folder, a glob, or the name of a corpus that is made here.
        asked: what is known of it already; see ``look``.
    Raises:
        ConfigError: the data or its fields are not there.
        DataError: nothing can be read.
        StoreError: the file is there already.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path} is no name of a run. Give one that ends in .yaml.")
    is_place = Path(data).exists() or set("/*?[.$") & set(data)
    looked = look(placed(data), asked, kind) if is_place else generated(data)
    yield f"{data}: {looked.kind}. {found(looked)}"
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem)
    title = f"Made by `proseco new` for {data}. `proseco plan {path}` says what it would do, `proseco options PATH` what an option means."
    create(path, text_of(propose(looked, name, minutes, size), title))
    load_run(path, [])
    yield f"wrote {path}; every number has its reason beside it"
    yield f"next: proseco run {path}"


def placed(data: str) -> str:
    """A path that means the same from any folder."""
    return data if data.startswith("$") else str(Path(data).absolute())

"""Make a row of a table again, from what the table says of it, and tell how it came about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.api import load, read_source
from components.data.tokenizer import Tokenizer
from components.errors import DataError
from components.evaluation.trajectory import Frame, frames
from components.samplers import read_sampler
from components.samplers.contract import Row, Sample
from components.shards.model import Sampling, sample_rows
from components.store import samples
from components.store.artifact import MANIFEST, read_manifest
from components.store.files import folders
from components.store.names import file_name
from components.store.samples import id_of, shard_file
from pipelines.workflows.one_stage import model_of_samples


@dataclass(frozen=True)
class Replay:
    """A row that was made again."""

    folder: Path
    """Of the table."""
    stored: dict[str, Any]
    """The row as the table has it."""
    sample: Sample
    frames: list[Frame]
    """The canvas as it was given, and after each call that changed it."""
    tokenizer: Tokenizer

    @property
    def equal(self) -> bool:
        """Is it the row of the table, token for token and call for call?"""
        return [*self.sample.tokens] == self.stored["tokens"] and self.sample.calls == self.stored["calls"]


def replay(row_id: str, table: Path | None, root: Path, model: Path | None, device: str) -> Replay:
    """Make a row again.

    Args:
        table: the folder of its table; every table of the root is searched where not given.
        model: what it is made with; the one that made it where not given.
    Raises:
        DataError: no table has such a row.
        ConfigError: the model that made it is not in the same root.
        CorruptArtifact: the table does not say how it was made.
    """
    folder, path, stored = find_row(row_id, [table] if table else folders(root / "generate"), table or root)
    made_by = samples.made_by(path)
    exported = model or model_of_samples(folder)
    loaded = load(exported, device, made_by["dtype"])
    row = as_row(stored, loaded.tokenizer.mask_id)
    sampling = Sampling(
        read_sampler(made_by["sampler"]),
        made_by["num_lanes"],
        made_by["deterministic"],
        read_source(made_by["source"]),
        trained_of(folder),
    )
    (sample,) = sample_rows(loaded, sampling, [row])
    return Replay(folder, stored, sample, frames(sample.tokens, [vars(e) for e in sample.trace]), loaded.tokenizer)


def find_row(row_id: str, tables: list[Path], where: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The table, the file of it and the row itself. Raises DataError where there is none."""
    for folder in tables:
        manifest = read_manifest(folder)
        if manifest is None or manifest.stage != "generate":
            continue
        for name in manifest.info["shards"]:
            path = shard_file(folder / "shards", name)
            if (found := samples.find_row(path, row_id)) is not None:
                return folder, path, found
    raise DataError(
        f"No finished table in {where} has the row {row_id!r}. Row ids stand in the column row_id, such as "
        f"4e831a2009e054e3-0; give the folder of its table by --samples, or its root by --root."
    )


def trained_of(folder: Path) -> dict[str, Path]:
    """Folders of the trained scorers that a table was made with, by name."""
    manifest = read_manifest(folder)
    inputs = manifest.inputs.items() if manifest is not None else ()
    fits = [(role.removeprefix("fit_"), key) for role, key in inputs if role.startswith("fit_")]
    return {name: folder.absolute().parent.parent / "fit" / file_name(key, folder / MANIFEST) for name, key in fits}


def as_row(stored: dict[str, Any], mask_id: int) -> Row:
    """The canvas that a stored row was drawn on."""
    given = {*range(stored["num_prompt"]), *(stored["given"] or ())}
    fixed = tuple(i in given for i in range(len(stored["tokens"])))
    tokens = tuple(t if kept else mask_id for t, kept in zip(stored["tokens"], fixed, strict=True))
    return Row(id_of(stored["row_id"]), tokens, fixed, stored["label"], True, stored["seed"])


STYLES = {"revealed": "bold green", "replaced": "bold black on yellow", "remasked": "bold magenta"}


def lines(made: Replay) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """For each frame what it is, and its tokens with their styles."""
    for frame in made.frames:
        parts = []
        for position, token in enumerate(frame.tokens):
            did = next((s for name, s in STYLES.items() if position in vars(frame)[name]), "")
            parts.append((made.tokenizer.show(token), did))
        yield ("start" if frame.call == 0 else f"call {frame.call}"), parts

"""Checkpoints: one format for every ZeRO stage, every world size and plain torch.

A checkpoint is a folder ``step-00000500`` with one safetensors file for each rank that wrote it and ``state.json``,
written last. A rank writes what lies in its own optimiser, as ranges of flattened parameters (``ranges``): float32
weights, averaged weights and both Adam moments. So ranks talk about none of it, the disks work in parallel, and
whoever reads takes the ranges that it needs, whatever stage and world size wrote them. ``state.json`` has the shapes
and the digests of the files' headers, and these the digests of what is read. No pickled code runs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import CorruptArtifact
from components.models.ema import Ema
from components.store.files import exists, folders, publish_text, read_object
from components.store.names import file_name
from components.training.engine import MOMENTS, TrainEngine
from components.training.ranges import Range, read_header, read_range

KINDS = ("weight", "ema", *MOMENTS)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """What a finished checkpoint holds, and where."""

    folder: Path
    step: int
    shapes: Shapes
    """Of parameters, by name."""
    ranges: dict[tuple[str, str], list[Range]]
    """By kind and parameter, in order; together all of it."""

    def fill(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Put the elements of a flattened parameter from ``start`` on into ``out`` [numel].

        Raises:
            CorruptArtifact: bytes that were read are not those that were written.
        """
        for stored in self.ranges[kind, name]:
            try:
                read_range(stored, start, out)
            except (OSError, ValueError) as error:
                raise damaged(stored.file, error) from None

    def part(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Elements [numel] of a flattened parameter. Raises CorruptArtifact."""
        part = torch.empty(numel)
        self.fill(kind, name, start, part)
        return part


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first. Other folders beside them, and links, are not ours."""
    return [p for p in folders(folder) if re.fullmatch(r"step-\d{8}", p.name) and exists(p / "state.json")]


def latest(folder: Path) -> Path | None:
    """The newest finished checkpoint."""
    found = complete(folder)
    return found[-1] if found else None


def file_of(rank: int, world_size: int) -> str:
    """The name of the file that a rank writes."""
    return f"rank-{rank}-of-{world_size}.safetensors"


def publish_state(folder: Path, step: int, shapes: Shapes, headers: dict[str, str]) -> None:
    """Say that a checkpoint is complete.

    Args:
        headers: digests of the headers of its files, by name.
    """
    publish_text(folder / "state.json", json.dumps({"step": step, "files": headers, "shapes": shapes}, indent=1))


def damaged(file: Path, error: Exception) -> CorruptArtifact:
    """An error about a file of a checkpoint."""
    return CorruptArtifact(
        f"{file} is missing or damaged: its bytes are not those that were written ({error}). "
        f"Delete the folder {file.parent} to resume from the checkpoint before it."
    )


def open_checkpoint(folder: Path) -> Checkpoint:
    """What a folder holds. Of its files the headers are read.

    Raises:
        CorruptArtifact: ``state.json`` is none of ours, or a file is missing, cut off, or not the one that was written.
    """
    step, files, shapes = state_of(folder)
    ranges: dict[tuple[str, str], list[Range]] = {(kind, name): [] for kind in KINDS for name in shapes}
    for name, digest in files.items():
        file = folder / file_name(name, folder / "state.json")
        try:
            for stored in read_header(file, digest):
                ranges[stored.kind, stored.name].append(stored)
        except (OSError, ValueError) as error:
            raise damaged(file, error) from None
        except KeyError as error:
            raise damaged(file, ValueError(f"it holds {str(error)[:80]}, of which state.json knows nothing")) from None
    for (kind, name), found in ranges.items():
        found.sort(key=lambda stored: stored.start)
        end = 0
        for stored in found:
            end = stored.start + stored.numel if stored.start == end else -1
        if end != math.prod(shapes[name]):
            raise damaged(folder / "state.json", ValueError(f"the files do not hold {kind}/{name} once and in full"))
    return Checkpoint(folder, step, shapes, ranges)


def state_of(folder: Path) -> tuple[int, dict[str, str], Shapes]:
    """(step, digests of headers by file, shapes) as ``state.json`` says them. Raises CorruptArtifact where it is none of ours."""
    try:
        state = read_object(folder / "state.json")
        files, shapes = state.get("files"), state.get("shapes")
        if type(state.get("step")) is not int or state["step"] != int(folder.name.removeprefix("step-")):
            raise ValueError("it says another step than its folder")
        if not isinstance(files, dict) or not isinstance(shapes, dict) or not all(is_shape(s) for s in shapes.values()):
            raise ValueError("it names no files, or no shapes of parameters")
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{folder / 'state.json'} is missing or damaged ({error}). Delete the folder {folder} to resume from the "
            f"checkpoint before it."
        ) from None
    return state["step"], files, {name: tuple(shape) for name, shape in shapes.items()}


def is_shape(told: Any) -> bool:
    """Is it the shape of a parameter?"""
    return isinstance(told, list) and len(told) <= 8 and all(type(size) is int and size > 0 for size in told)


def read(folder: Path, kinds: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
    """(kind, parameter name, tensor) of every kind asked for, one after the other.

    Raises:
        CorruptArtifact: a file is missing or its bytes are not those that were written.
    """
    found = open_checkpoint(folder)
    for kind in kinds:
        for name in found.shapes:
            shape = found.shapes[name]
            yield kind, name, found.part(kind, name, 0, math.prod(shape)).view(shape)


def restore(folder: Path, engine: TrainEngine, ema: Ema, skipped: Collection[int] = ()) -> int:
    """Put an engine and its average into the state they had. Returns the number of steps done.

    Every rank must call this. Each reads what lies in its own optimiser.

    Args:
        skipped: steps that were left out, and so are no updates.
    Raises:
        CorruptArtifact: a file is missing or its bytes are not those that were written.
    """
    found = open_checkpoint(folder)
    if found.shapes != engine.shapes():
        raise damaged(folder / "state.json", ValueError("its parameters are not those of this network"))
    for kind, tensors in {"weight": engine.masters(), "ema": ema.averages, **engine.moments()}.items():
        for share in engine.shares():
            found.fill(kind, share.name, share.start, share.of(tensors))
    engine.refresh(found.step - sum(left_out < found.step for left_out in skipped))
    return found.step


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, for export and for starting another training."""
    return {name: tensor for _, name, tensor in read(folder, ("ema",))}

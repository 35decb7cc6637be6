"""Checkpoints: one format for every ZeRO stage, every world size and plain torch.

A checkpoint is a folder ``step-00000500`` with one safetensors file for each rank that wrote it and
``state.json``, written last. Parameters are written in full, float32, with both Adam moments and the
averaged weights; rank r writes every world-size-th parameter, so the disks work in parallel and no
rank holds more than one gathered parameter at a time beside its own share. Reading needs neither the
same stage nor the same world size, and, unlike DeepSpeed's own files, runs no pickled code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components import faults
from components.errors import CorruptArtifact
from components.models.ema import Ema
from components.models.weights import load_weights, save_weights
from components.store.files import (
    children,
    digest_file,
    exists,
    folders,
    publish_text,
    publishing,
    read_object,
    remove_tree,
)
from components.store.names import file_name
from components.training.engine import MOMENTS, Piece, TrainEngine


def save(
    folder: Path, step: int, engine: TrainEngine, ema: Ema, keep: int, fence: Callable[[], None] = lambda: None
) -> Path:
    """Write a checkpoint after ``step`` optimiser steps and remove all but the last ``keep``.

    Every rank must call this.

    Args:
        fence: raises where another run took this training over.
    """
    faults.point("train.before_checkpoint")
    fence()
    target = folder / f"step-{step:08d}"
    if engine.rank == 0:
        remove_tree(target)
    engine.barrier()
    own = {}
    # Before its first step an optimiser has no moments.
    pieces = engine.pieces() if step else (Piece(name, weight, {}) for name, weight in engine.weights())
    for index, piece in enumerate(pieces):
        if index % engine.world_size == engine.rank:
            own[f"weight/{piece.name}"] = piece.weight.clone()
            own |= {f"{m}/{piece.name}": value.clone() for m, value in piece.moments.items()}
    with ema.swapped():
        for index, (name, weight) in enumerate(engine.weights()):
            if index % engine.world_size == engine.rank:
                own[f"ema/{name}"] = weight.clone()
    file = target / f"rank-{engine.rank}-of-{engine.world_size}.safetensors"
    with publishing(file) as private:
        save_weights(private, own)
    faults.point("train.mid_checkpoint")
    engine.barrier()
    if engine.rank == 0:
        files = {f.name: digest_file(f) for f in children(target) if f.suffix == ".safetensors"}
        publish_text(target / "state.json", json.dumps({"step": step, "files": files}, indent=1))
        for old in complete(folder)[:-keep]:
            remove_tree(old)
    engine.barrier()
    faults.point("train.after_checkpoint")
    return target


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first. Other folders beside them, and links, are not ours."""
    return [p for p in folders(folder) if re.fullmatch(r"step-\d{8}", p.name) and exists(p / "state.json")]


def latest(folder: Path) -> Path | None:
    """The newest finished checkpoint."""
    found = complete(folder)
    return found[-1] if found else None


def state_of(checkpoint: Path) -> dict[str, Any]:
    """What ``state.json`` says. Raises CorruptArtifact where it is none of ours."""
    try:
        state = read_object(checkpoint / "state.json")
        if not isinstance(state.get("files"), dict) or state.get("step") != int(checkpoint.name.removeprefix("step-")):
            raise ValueError("it names no files, or not the step of its folder")
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{checkpoint / 'state.json'} is missing or damaged ({error}). Delete the folder {checkpoint} to resume from the "
            f"checkpoint before it."
        ) from None
    return state


def read(checkpoint: Path, kinds: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
    """(kind, parameter name, tensor) of every kind asked for.

    Raises:
        CorruptArtifact: a file is missing or its bytes are not those that were written.
    """
    for name, digest in state_of(checkpoint)["files"].items():
        file = checkpoint / file_name(name, checkpoint / "state.json")
        if not exists(file) or digest_file(file) != digest:
            raise CorruptArtifact(
                f"{file} is missing or damaged: its bytes are not those that were written. "
                f"Delete the folder {checkpoint} to resume from the checkpoint before it."
            )
        for key, tensor in load_weights(file).items():
            kind, _, parameter = key.partition("/")
            if kind in kinds:
                yield kind, parameter, tensor


def restore(checkpoint: Path, engine: TrainEngine, ema: Ema, skipped: Collection[int] = ()) -> int:
    """Put an engine and its average into the state they had. Returns the number of steps done.

    Args:
        skipped: steps that were left out, and so are no updates.
    """
    tensors: dict[str, dict[str, Tensor]] = {"weight": {}, "ema": {}, **{m: {} for m in MOMENTS}}
    for kind, name, tensor in read(checkpoint, tuple(tensors)):
        tensors[kind][name] = tensor
    step = int(state_of(checkpoint)["step"])
    engine.set_weights(tensors["ema"])
    for average, master in zip(ema.averages, ema.masters, strict=True):
        average.copy_(master)
    engine.set_weights(tensors["weight"])
    moments = {
        name: {m: tensors[m][name] if step else torch.zeros_like(weight) for m in MOMENTS}
        for name, weight in tensors["weight"].items()
    }
    engine.set_moments(moments, step - sum(left_out < step for left_out in skipped))
    return step


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, for export and for starting another training."""
    return {name: tensor for _, name, tensor in read(checkpoint, ("ema",))}

"""Checkpoints are written beside the training: copied into the host's memory between two steps, and stored by a thread.

Ranks agree by what lies in the folder, since two threads of a process can not both talk to other ranks: each
publishes its file, and the first rank, once it sees all of them, ``state.json``. What a thread meets is raised
between the next two steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from components import faults
from components.models.ema import Ema
from components.store.files import exists, remove_tree
from components.training.checkpoint import complete, file_of, publish_state
from components.training.engine import Share, TrainEngine
from components.training.ranges import header_digest, key_of, write_ranges

POLL_S = 0.02
PATIENCE = 500
"""Polls that the first rank still makes for the files of others once its own training has ended."""


class Saver:
    """Saves checkpoints of an engine and its average into a folder, and keeps the last ``keep``.

    All ranks must call ``save`` and ``settle`` at the same steps.

    Args:
        fence: raises where another run took this training over.
    """

    def __init__(
        self, folder: Path, engine: TrainEngine, ema: Ema, keep: int, fence: Callable[[], None] = lambda: None
    ):
        self.folder, self.engine, self.ema, self.keep, self.fence = folder, engine, ema, keep, fence
        self.shapes = engine.shapes()
        shares = engine.shares()
        self.shares = portion(shares, engine.rank, engine.world_size) if engine.everywhere else shares
        self.staging = torch.empty(0)
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.closing = threading.Event()

    def save(self, step: int) -> Path:
        """Begin to write the checkpoint after ``step`` optimiser steps, once the one before it is written."""
        faults.point("train.before_checkpoint")
        self.fence()
        self.settle()
        target = self.folder / f"step-{step:08d}"
        if self.engine.rank == 0:
            remove_tree(target)  # what an earlier execution left unfinished
        tensors = self.staged()
        self.engine.barrier()
        self.thread = threading.Thread(target=self._store, args=(target, step, tensors), daemon=True, name="checkpoint")
        self.thread.start()
        return target

    def staged(self) -> dict[str, Tensor]:
        """This rank's part, copied into the host's memory, which is used again for the next one."""
        engine = self.engine
        kinds = {"weight": engine.masters(), "ema": self.ema.averages, **engine.moments()}
        if not len(self.staging):
            size = len(kinds) * sum(share.numel for share in self.shares)
            self.staging = torch.empty(size, pin_memory=engine.device.type == "cuda")
        tensors, place = {}, 0
        for kind, values in kinds.items():
            for share in self.shares:
                copy = self.staging[place : place + share.numel]
                tensors[key_of(kind, share.name, share.start)] = copy.copy_(share.of(values), non_blocking=True)
                place += share.numel
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        return tensors

    def _store(self, target: Path, step: int, tensors: dict[str, Tensor]) -> None:
        try:
            rank, world_size = self.engine.rank, self.engine.world_size
            write_ranges(target / file_of(rank, world_size), tensors)
            faults.point("train.mid_checkpoint")
            if rank == 0 and self._all_there(files := [target / file_of(r, world_size) for r in range(world_size)]):
                self.fence()
                publish_state(target, step, self.shapes, {file.name: header_digest(file) for file in files})
                for old in complete(self.folder)[: -self.keep]:
                    remove_tree(old)
                faults.point("train.after_checkpoint")
        except BaseException as error:
            self.error = error

    def _all_there(self, files: list[Path]) -> bool:
        """Wait until all ranks have published; not for long once this one's training has ended, as others' may have failed."""
        patience = PATIENCE
        while patience and not all(exists(file) for file in files):
            time.sleep(POLL_S)
            patience -= self.closing.is_set()
        return bool(patience)

    def check(self) -> None:
        """Raise what the thread met."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def settle(self) -> None:
        """Wait until the checkpoint that is being written is there for all ranks. Raises what the thread met."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()
        self.engine.barrier()

    def close(self) -> None:
        """Have the thread end: what it is writing is written, but others are waited for only shortly."""
        self.closing.set()
        if self.thread is not None:
            self.thread.join()


def portion(shares: list[Share], rank: int, world_size: int) -> list[Share]:
    """One rank's part of shares that all ranks have: of all elements, one after the other, as many as the others'."""
    total, begin, found = sum(share.numel for share in shares), 0, []
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    for share in shares:
        low, high = max(first - begin, 0), min(last - begin, share.numel)
        if low < high:
            found.append(Share(share.name, share.start + low, high - low, share.master, share.offset + low))
        begin += share.numel
    return found

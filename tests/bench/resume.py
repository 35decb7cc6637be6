"""What a resume reads and holds, how long a checkpoint keeps a training waiting, and what drawing initial weights takes.

Two processes on this machine, against what plain torch does with data-parallel training: one rank writes everything into one
file while all wait, and each reads all of it. Sizes are of all kinds together: float32 weights, averages and both moments, 16
bytes a parameter. What counts is what the processes tell of themselves; that they start takes longer than what they do.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from cluster.cluster import TrainLaunch
from cluster.config import RuntimeConfig
from cluster.worker import build_engine
from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.drawn import drawn_in_parts
from components.models.ema import Ema
from components.models.transformer import Transformer
from components.training import checkpoint
from components.training.engine import Share, TrainEngine
from components.training.saving import Saver
from tests.bench import plain_training as plain
from tests.bench.paired import MB, Pair, forget_peak, resident
from tests.doubles import LENGTH, VOCAB, job

RANKS = 2
STEPS = 5
"""Whose median is a step's time."""
ROWS = 32
FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Gone with the process."""
TURNS = itertools.count()


@dataclass(frozen=True)
class Side:
    """What the processes of one side are: ours at a ZeRO stage, or theirs in plain torch."""

    ours: bool
    folder: Path
    million: float
    stage: int

    def engine(self) -> TrainEngine:
        runtime = RuntimeConfig(engine="deepspeed", zero_stage=self.stage) if self.ours else RuntimeConfig(engine="torch")
        base = self.folder
        return build_engine(TrainLaunch(job=job(base, base), model=model_of(self.million), init=None, runtime=runtime))

    @property
    def saved(self) -> Path:
        return self.folder / "step-00000001" if self.ours else self.folder / "last.ckpt"


def model_of(million: float) -> ModelConfig:
    """A network with about so many parameters: blocks of 12.6 million each at width 1,024."""
    return ModelConfig(dim=1024, depth=max(1, round(million / 12.6)), heads=8, num_positions=LENGTH)


def bytes_read() -> int:
    """By this process so far, from files or caches; nothing is mapped into memory."""
    return int(Path("/proc/self/io").read_text().splitlines()[0].partition(":")[2])


def state(engine: TrainEngine, ema: Ema) -> list[list[Tensor]]:
    """Weights, averages and moments, as this rank has them."""
    return [engine.masters(), ema.averages, *engine.moments().values()]


def made_up(share: Share, kind: int) -> Tensor:
    """Values [numel] by which a part of a state is known again, whoever has it."""
    return ((torch.arange(share.start, share.start + share.numel) + len(share.name)) % 8191).float() + kind


def save(side: Side, rank: int) -> dict[str, float]:
    """A checkpoint of a state that is made up."""
    engine = side.engine()
    ema = Ema(engine.masters(), 0.9)
    for kind, tensors in enumerate(state(engine, ema)):
        for share in engine.shares():
            share.of(tensors).copy_(made_up(share, kind))
    if side.ours:
        saver = Saver(side.folder, engine, ema, keep=1)
        saver.save(1)
        saver.settle()
    else:
        plain.save(side.saved, engine, ema)
    return {}


def resume(side: Side, rank: int) -> dict[str, float]:
    """Restore what was saved, into an engine that made no step yet."""
    engine = side.engine()
    dist.barrier()
    before, read = forget_peak(), bytes_read()
    begin = time.perf_counter()
    ema = Ema(engine.masters(), 0.9)
    if side.ours:
        checkpoint.restore(side.saved, engine, ema)
    else:
        plain.load(side.saved, engine, ema)
    seconds = time.perf_counter() - begin
    found = {"wall_s": seconds, "peak_mb": resident("VmHWM") - before, "MB read by a rank": (bytes_read() - read) / MB}
    for kind, tensors in enumerate(state(engine, ema)):
        for share in engine.shares():
            assert torch.equal(share.of(tensors), made_up(share, kind)), f"{share.name} is not what was saved"
    return found


def checkpoint_stall(side: Side, rank: int) -> dict[str, float]:
    """How long steps wait for a checkpoint; and in all, with how much slower they are while one is written beside them."""
    engine = side.engine()
    ema = Ema(engine.masters(), 0.9)
    saver = Saver(side.folder / "stall", engine, ema, keep=1)
    tokens = torch.full((ROWS, LENGTH), 5) + torch.arange(ROWS)[:, None] % 4

    def step() -> float:
        begin = time.perf_counter()
        engine.backward(engine.network(tokens).logits.square().mean() / RANKS)
        engine.step(1e-4)
        return time.perf_counter() - begin

    def write(number: int) -> None:
        if side.ours:
            saver.save(number)
        else:
            plain.save(side.folder / "stall.ckpt", engine, ema)

    step()
    write(0)  # touches the memory that copies go to
    saver.settle()
    alone = statistics.median(step() for _ in range(STEPS))
    begin = time.perf_counter()
    write(1)
    stall, beside = time.perf_counter() - begin, 0.0
    while busy(saver):
        beside += step() - alone
    saver.settle()
    return {"wall_s": stall, "peak_mb": 0.0, "seconds in all": max(stall, stall + beside)}  # memory is that of steps, on one side alone


def busy(saver: Saver) -> bool:
    """Is the thread of any rank at work? Ranks make as many steps."""
    working = torch.tensor(float(saver.thread is not None and saver.thread.is_alive()))
    return bool(saver.engine.all_reduce(working))


WORK = {"save": save, "resume": resume, "checkpoint_stall": checkpoint_stall}


def rank_main(rank: int, name: str, side: Side, meeting: str) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    use_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    found = WORK[name](side, rank)
    Path(f"{meeting}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def in_ranks(name: str, side: Side) -> dict[str, float]:
    """The largest of what the ranks tell, each in a process that has done nothing before."""
    meeting = str(side.folder / f"{name}-{next(TURNS)}")
    multiprocessing.spawn(rank_main, (name, side, meeting), nprocs=RANKS)
    told = [json.loads(Path(f"{meeting}-{rank}.json").read_text()) for rank in range(RANKS)]
    return {key: max(one[key] for one in told) for key in told[0]}


def build(name: str, given: dict[str, Any]) -> Pair:
    """``given["million"]`` parameters, ours at ZeRO stage ``given["stage"]``."""
    FOLDERS.append(tempfile.TemporaryDirectory(prefix="proseco-bench-"))
    sides = {}
    for which in ("ours", "theirs"):
        folder = Path(FOLDERS[-1].name, which)
        folder.mkdir()
        sides[which] = Side(which == "ours", folder, given["million"], given["stage"])

    def same() -> str:
        for side in sides.values():
            in_ranks("save", side)
            in_ranks("resume", side)  # which sees that it has what was saved
        whole = 16 * model_of(given["million"]).num_parameters(VOCAB) / MB
        return f"both have what was saved, {whole:,.0f} MB"

    setting = {k: given[k] for k in ("million", "stage")}
    return Pair(name, setting, lambda: in_ranks(name, sides["ours"]), lambda: in_ranks(name, sides["theirs"]), same, clock="wall_s")


def start(name: str, given: dict[str, Any]) -> Pair:
    """Draw initial weights: of each an eighth, as one of eight ranks keeps it at stage 3, or all of them."""
    model = model_of(given["million"])

    def drawn() -> dict[str, Tensor]:
        torch.manual_seed(0)
        return drawn_in_parts(model, VOCAB, lambda flat: flat[: -(-len(flat) // 8)])[1]

    def whole() -> Transformer:
        torch.manual_seed(0)
        return Transformer(model, VOCAB)

    def ours() -> dict[str, float]:
        drawn()
        return {}

    def theirs() -> dict[str, float]:
        whole()
        return {}

    def same() -> str:
        expected, found = whole().state_dict(), drawn()
        assert found.keys() == expected.keys(), "the names differ"
        assert all(torch.equal(part, expected[k].flatten()[: len(part)]) for k, part in found.items()), "the weights differ"
        return f"equal parts of {len(found)} weights"

    return Pair(name, {"million": given["million"]}, ours, theirs, same)

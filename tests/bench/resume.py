"""What a resume reads and holds, and how long a checkpoint keeps a training waiting.

``python -m tests.bench.resume NAME [--stages 1 2 3] [--million 63]``, two processes on this machine. Sizes
are of all kinds together: float32 weights, averages and both moments, 16 bytes a parameter.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from cluster.cluster import TrainLaunch
from cluster.config import RuntimeConfig
from cluster.worker import build_engine
from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.drawn import drawn_in_parts
from components.models.ema import Ema
from components.models.transformer import Transformer
from components.training import checkpoint
from components.training.engine import TrainEngine
from components.training.saving import Saver
from tests.doubles import LENGTH, VOCAB, job

RANKS = 2
MB = 1e6
STEPS = 5
"""Whose median is a step's time."""
ROWS = 32


def model_of(million: float) -> ModelConfig:
    """A network with about so many parameters: blocks of 12.6 million each at width 1,024."""
    return ModelConfig(dim=1024, depth=max(1, round(million / 12.6)), heads=8, num_positions=LENGTH)


def launch(base: Path, model: ModelConfig, stage: int) -> TrainLaunch:
    return TrainLaunch(
        job=job(base, base), model=model, init=None, runtime=RuntimeConfig(engine="deepspeed", zero_stage=stage)
    )


def bytes_read() -> int:
    """By this process so far, from files or caches; nothing is mapped into memory."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].partition(":")[2])


def memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def forget_peak() -> None:
    """Have ``VmHWM`` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def share_of(engine: TrainEngine) -> int:
    """Bytes of weights, average and moments that are this rank's own."""
    return 16 * sum(share.numel for share in engine.shares())


def resume(rank: int, base: Path, model: ModelConfig, stage: int) -> dict[str, float]:
    """Restore what was saved, into an engine that made no step yet."""
    folder = base / f"stage-{stage}"
    if not folder.exists():
        engine = build_engine(launch(base, model, stage))
        saver = Saver(folder, engine, Ema(engine.masters(), 0.9), keep=1)
        saver.save(1)
        saver.settle()
        return {}
    engine = build_engine(launch(base, model, stage))
    dist.barrier()
    before, read = memory("VmRSS"), bytes_read()
    forget_peak()
    begin = time.perf_counter()
    ema = Ema(engine.masters(), 0.9)
    checkpoint.restore(folder / "step-00000001", engine, ema)
    seconds = time.perf_counter() - begin
    total = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    return {
        "checkpoint MB": total / MB,
        "read MB": (bytes_read() - read) / MB,
        "share MB": share_of(engine) / MB,
        "peak above MB": (memory("VmHWM") - before) / MB,
        "peak / share": (memory("VmHWM") - before) / share_of(engine),
        "seconds": seconds,
    }


def checkpoint_stall(rank: int, base: Path, model: ModelConfig, stage: int) -> dict[str, float]:
    """Steps, and a checkpoint that is written beside them: how long they wait for it, and how much slower they are meanwhile."""
    engine = build_engine(launch(base, model, stage))
    saver = Saver(base / f"stall-{stage}", engine, Ema(engine.masters(), 0.9), keep=1)
    tokens = torch.full((ROWS, LENGTH), 5) + torch.arange(ROWS)[:, None] % 4

    def step() -> float:
        begin = time.perf_counter()
        engine.backward(engine.network(tokens).logits.square().mean() / RANKS)
        engine.step(1e-4)
        return time.perf_counter() - begin

    step()
    saver.save(0)  # touches the memory that copies go to
    saver.settle()
    alone = statistics.median(step() for _ in range(STEPS))
    begin = time.perf_counter()
    saver.save(1)
    stall, beside = time.perf_counter() - begin, 0.0
    while busy(saver):
        beside += step() - alone
    saver.settle()
    return {
        "share MB": share_of(engine) / MB,
        "step s": alone,
        "stall s": stall,
        "slower s": beside,
        "stall, % of 100 steps": stall / alone,
        "with slower, %": (stall + beside) / alone,
    }


def busy(saver: Saver) -> bool:
    """Is the thread of any rank at work? Ranks make as many steps."""
    working = torch.tensor(float(saver.thread is not None and saver.thread.is_alive()))
    return bool(saver.engine.all_reduce(working))


def start(rank: int, base: Path, model: ModelConfig, stage: int) -> dict[str, float]:
    """Draw initial weights: at stage 3 as one of eight ranks does, else all at once."""

    def part(flat: torch.Tensor) -> torch.Tensor:
        return flat[: -(-len(flat) // 8)]

    drawn_in_parts(dataclasses.replace(model, dim=8, depth=1), VOCAB, part)  # loads what it needs of torch
    before = memory("VmRSS")
    forget_peak()
    begin = time.perf_counter()
    kept = drawn_in_parts(model, VOCAB, part) if stage == 3 else Transformer(model, VOCAB)
    seconds, peak = time.perf_counter() - begin, memory("VmHWM") - before
    del kept
    return {"weights MB": 4 * model.num_parameters(VOCAB) / MB, "peak above MB": peak / MB, "seconds": seconds}


BENCHES = {"resume": resume, "checkpoint_stall": checkpoint_stall, "start": start}


def rank_main(rank: int, base: str, name: str, stage: int, million: float, turn: int) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    use_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    meeting = Path(base) / f"meeting-{turn}"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    found = BENCHES[name](rank, Path(base), model_of(million), stage)
    if found:
        print(f"{name}, stage {stage}, rank {rank}: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--million", type=float, default=63.0, help="parameters; 63 are a checkpoint of 1 GB")
    asked = parser.parse_args()
    for stage in asked.stages:
        with tempfile.TemporaryDirectory() as base:
            for turn in range(2 if asked.name == "resume" else 1):  # processes that saved have held more
                multiprocessing.spawn(rank_main, (base, asked.name, stage, asked.million, turn), nprocs=RANKS)


if __name__ == "__main__":
    main()

"""Checkpoints and initial weights are the same at every stage and world size, and a rank reads its share alone."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from cluster.cluster import TrainLaunch
from cluster.config import RuntimeConfig
from cluster.worker import build_engine
from components.models.ema import Ema
from components.models.transformer import Transformer
from components.models.weights import save_weights
from components.training import checkpoint, ranges
from components.training.checkpoint import KINDS
from components.training.config import OptimizerConfig
from components.training.engine import TorchEngine
from components.training.loop import fit
from components.training.saving import Saver
from tests.doubles import TINY, VOCAB, job, token_rows

pytestmark = pytest.mark.distributed

STAGES = (0, 1, 2, 3)
WIDE = dataclasses.replace(TINY, dim=192, depth=1)
"""Large enough that chunks are small beside it."""
TOKENS = torch.arange(4, 8).repeat(2)[None]
STEP = 7


def contents(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{kind}/{name}": tensor for kind, name, tensor in checkpoint.read(folder, KINDS)}


def engine_of(base: Path, stage: int, precision: str = "fp32", init: Path | None = None):
    # With decay there are two groups of parameters.
    made = job(base, base, precision=precision, optimizer=OptimizerConfig(weight_decay=0.1))
    runtime = RuntimeConfig(engine="deepspeed", zero_stage=stage)
    return build_engine(TrainLaunch(job=made, model=WIDE, init=init, runtime=runtime))


def saved(engine, ema, folder: Path) -> Path:
    saver = Saver(folder, engine, ema, keep=1)
    target = saver.save(STEP)
    saver.settle()
    return target


def start(rank: int, world_size: int, base: Path) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    meeting = f"file://{base}/meeting-{world_size}-{os.getppid()}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)


def pass_on(rank: int, world_size: int, base: str, rounds: list[list[str]]) -> None:
    """One rank: every stage restores what every writer of a round wrote, and saves it again."""
    start(rank, world_size, Path(base))
    for writers in rounds:
        for stage in STAGES:
            engine = engine_of(Path(base), stage)
            ema = Ema(engine.masters(), 0.9)
            for writer in writers:
                read = restored(Path(base) / writer / f"step-{STEP:08d}", engine, ema)
                target = Path(base) / f"{writer}, {stage} on {world_size}"
                saved(engine, ema, target)
                with torch.no_grad():
                    torch.save((read, engine.network(TOKENS).logits), target / f"seen-{rank}")
            if writers == ["by plain torch"]:
                saved(engine, ema, Path(base) / f"by {stage}")
    dist.destroy_process_group()


def restored(folder: Path, engine, ema) -> int:
    """Bytes that this rank reads when it restores."""
    count, read_part = 0, ranges.read_part

    def counted(path, begin, end):
        nonlocal count
        count += end - begin
        return read_part(path, begin, end)

    ranges.read_part = counted
    assert checkpoint.restore(folder, engine, ema) == STEP
    ranges.read_part = read_part
    assert {float(s["step"]) for s in engine._adamw().state.values()} == {STEP}
    return count


def test_every_stage_and_world_size_reads_what_every_other_wrote(tmp_path):
    torch.manual_seed(1)
    plain = TorchEngine(Transformer(WIDE, VOCAB), job(tmp_path, tmp_path).config.optimizer)
    ema = Ema(plain.masters(), 0.9)
    for tensors in (plain.masters(), ema.averages, *plain.moments().values()):
        for tensor in tensors:
            torch.nn.init.uniform_(tensor, 0.1, 0.2)
    saved(plain, ema, tmp_path / "by plain torch")
    with torch.no_grad():
        logits = plain.network(TOKENS).logits
    by_two = [f"by {stage}" for stage in STAGES]
    multiprocessing.spawn(pass_on, (2, str(tmp_path), [["by plain torch"], by_two]), nprocs=2)
    multiprocessing.spawn(pass_on, (1, str(tmp_path), [by_two]), nprocs=1)

    expected = contents(tmp_path / "by plain torch" / f"step-{STEP:08d}")
    assert {len(t.unique()) > 1 for t in expected.values()} == {True}
    size = 4 * sum(t.numel() for t in expected.values())
    passed = [p for p in tmp_path.iterdir() if ", " in p.name]
    assert len(passed) == len(STAGES) * (1 + 2 * len(by_two))
    for folder in passed:
        found = contents(folder / f"step-{STEP:08d}")
        assert all(torch.equal(expected[key], found[key]) for key in expected), folder.name
        stage, world_size = (int(word) for word in folder.name.rpartition(", ")[2].split(" on "))
        for rank in range(world_size):
            read, seen = torch.load(folder / f"seen-{rank}")
            assert torch.allclose(seen, logits, atol=1e-5), f"{folder.name}: it computes with other weights"
            assert read >= size / world_size
            assert read <= (0.6 if stage and world_size == 2 else 1.05) * size, (folder.name, read / size)
    for stage in (1, 2, 3):
        files = (tmp_path / f"by {stage}" / f"step-{STEP:08d}").glob("*.safetensors")
        assert all(0.4 < file.stat().st_size / size < 0.6 for file in files), "ranks write as much as each other"


def begin(rank: int, base: str) -> None:
    """One of two ranks: initial weights at every stage, drawn and given."""
    start(rank, 2, Path(base))
    inits = {
        "drawn": None,
        "file": Path(base) / "given.safetensors",
        "checkpoint": Path(base) / f"given/step-{STEP:08d}",
    }
    for precision in ("fp32", "bf16"):
        for stage in STAGES:
            for name, init in inits.items():
                engine = engine_of(Path(base), stage, precision, init)
                ema = Ema(engine.masters(), 0.9)
                saved(engine, ema, Path(base) / f"{name} {precision} {stage}")
    dist.destroy_process_group()


def test_initial_weights_are_those_of_one_process(tmp_path):
    """In bfloat16 DeepSpeed rounds masters once, when it takes a network over; stage 0 has float32 ones."""
    torch.manual_seed(5)
    given = Transformer(WIDE, VOCAB)
    save_weights(tmp_path / "given.safetensors", given.state_dict())
    plain = TorchEngine(given, job(tmp_path, tmp_path).config.optimizer)
    saved(plain, Ema(plain.masters(), 0.9), tmp_path / "given")
    multiprocessing.spawn(begin, (str(tmp_path),), nprocs=2)
    torch.manual_seed(job(tmp_path, tmp_path).config.seed)
    fresh = Transformer(WIDE, VOCAB)
    for start, model in {"drawn": fresh, "file": given, "checkpoint": given}.items():
        for precision in ("fp32", "bf16"):
            for stage in STAGES:
                found = contents(tmp_path / f"{start} {precision} {stage}" / f"step-{STEP:08d}")
                for name, weight in model.state_dict().items():
                    rounded = weight.bfloat16().float() if precision == "bf16" and stage else weight
                    assert torch.equal(found[f"weight/{name}"], rounded), (start, precision, stage, name)


def train_on_full_disk(rank: int, base: str) -> None:
    """One of two ranks, of which the second can not write its file of the last checkpoint."""
    start(rank, 2, Path(base))
    made = job(Path(base) / "job", Path(base) / "rows", steps=1)
    engine = engine_of(Path(base), 2)
    if rank == 1:
        os.environ["PROSECO_FAULT"] = "disk.full"
    fit(made, engine, None)


def test_a_rank_that_can_not_write_ends_the_others(tmp_path):
    """The first one waits for its file, in vain."""
    token_rows(tmp_path / "rows")
    with pytest.raises(
        multiprocessing.ProcessRaisedException, match=r"rank-1-of-2\.safetensors could not be written: No space"
    ):
        multiprocessing.spawn(train_on_full_disk, (str(tmp_path),), nprocs=2)
    assert checkpoint.latest(tmp_path / "job" / "checkpoints") is None

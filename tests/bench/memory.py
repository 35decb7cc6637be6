"""What `proseco plan` says that a training takes of memory, against the most that a process of one really had.

    python -m tests.bench.memory

Each training is a fresh process with one rank. What one of hardly any weights takes is the baseline: libraries and what they
set up at a first step. Ends with 1 where an estimate is off by more than a quarter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from components.models.config import ModelConfig
from pipelines.training_memory import Shape, taken

OFF = 0.25
ENGINES: tuple[int | None, ...] = (None, 0, 3)
"""Plain torch, and stages of DeepSpeed."""


def shape(dim: int, depth: int, vocab: int, rows: int, length: int, objective: str = "mdlm", checkpointing: bool = False) -> Shape:
    model = ModelConfig(dim=dim, depth=depth, heads=max(1, dim // 64)).resolved()
    return Shape(model, model.num_parameters(vocab), vocab, objective, rows, length, checkpointing=checkpointing)


NOTHING = shape(32, 1, 16, 2, 8)
SHAPES = {
    "7M weights, little else": shape(256, 6, 4096, 2, 16),
    "42M weights, little else": shape(512, 12, 4096, 2, 16),
    "5M weights, 32 rows x 128": shape(256, 6, 16, 32, 128),
    "5M weights, 8 rows x 512": shape(256, 6, 16, 8, 512),
    "5M weights, 32 rows x 128, checkpointed": shape(256, 6, 16, 32, 128, checkpointing=True),
    "2M weights, vocabulary of 8,192": shape(128, 2, 8192, 32, 128),
    "the same, proseco": shape(128, 2, 8192, 32, 128, objective="proseco"),
}


def peak_of(asked: Shape) -> int:
    """The most bytes of a process that trains it for three steps and writes a checkpoint after each."""
    command = [sys.executable, "-m", "tests.bench.memory", json.dumps(asdict(asked))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.splitlines()[-1])


def train(asked: Shape, folder: Path) -> None:
    """In this process, which is the only rank."""
    import numpy as np
    import torch.distributed as dist

    from cluster.cluster import TrainLaunch
    from cluster.config import RuntimeConfig
    from cluster.worker import train_rank
    from components.data.rows import RowBlock, write_rows
    from components.objectives import OBJECTIVES
    from components.training.config import TrainConfig
    from components.training.job import Job

    for name in ("rows", "job"):
        (folder / name).mkdir()
    number = max(asked.rows, 8)
    tokens = np.random.default_rng(0).integers(4, asked.vocab_size, (number, asked.length)).astype(np.uint32)
    block = RowBlock(tokens, np.zeros(number, np.int32), None, np.full(number, asked.length, np.int32))
    shards = {split: [f"{split}.arrow"] for split in ("train", "validation")}
    for names in shards.values():
        write_rows(folder / "rows" / names[0], block)
    told = {"length": asked.length, "pad_in_loss": True, "shards": shards | {"test": []}}
    (folder / "rows" / "rows.json").write_text(json.dumps(told))
    config = TrainConfig(
        objective=OBJECTIVES[asked.objective](), steps=3, checkpoint_every=1, batch_rows=asked.rows, validation_rows=2
    )
    job = Job(config=config, folder=folder / "job", rows=(folder / "rows",), weights=(1.0,), mask_id=0, pad_id=1, vocab_size=asked.vocab_size)
    engine = "torch" if asked.zero is None else "deepspeed"
    runtime = RuntimeConfig(
        engine=engine, zero_stage=asked.zero or 0, workers=1, activation_checkpointing=asked.checkpointing, hang_s=0  # type: ignore[arg-type]
    )  # fmt: skip
    if asked.zero is not None:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    train_rank(TrainLaunch(job=job, model=asked.model, init=None, runtime=runtime))


def main() -> None:
    if len(sys.argv) > 1:
        plain = json.loads(sys.argv[1])
        asked = Shape(**plain | {"model": ModelConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain["model"].items()})})
        with tempfile.TemporaryDirectory() as folder:
            train(asked, Path(folder))
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
        return
    wrong = 0
    for zero in ENGINES:
        baseline = peak_of(replace(NOTHING, zero=zero))
        for name, one in SHAPES.items():
            asked = replace(one, zero=zero)
            real, said = peak_of(asked) - baseline, taken(asked).most
            wrong += abs(said / real - 1) > OFF
            engine = "torch" if zero is None else f"ZeRO {zero}"
            print(f"{engine:7} {name:42} said {said / 2**20:6.0f} MiB, had {real / 2**20:6.0f} MiB, {said / real - 1:+.0%}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()

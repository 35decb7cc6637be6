"""What runs inside a process of the cluster: one rank of a training, one shard on a replica."""

from __future__ import annotations

import json
import os
import platform
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.api import TrainLaunch
from cluster.environment import prepare
from components.errors import ProsecoError
from components.models.cpu import use_threads
from components.models.transformer import Transformer
from components.models.weights import FRESH, fill, load_weights
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard
from components.tracking import JsonlTracker
from components.training import checkpoint
from components.training.engine import TorchEngine, TrainEngine
from components.training.loop import Job, fit

FAILURE = "failure.json"


def train_rank(launch: TrainLaunch) -> None:
    """Train as this process's rank of the group that is already there (or alone).

    An error that a user can mend is also left in the stage's folder, because no runtime carries an
    exception from one of many processes to the driver unharmed.
    """
    use_threads(launch.runtime.threads)
    # Deprecations between DeepSpeed and torch that a user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    try:
        engine = build_engine(launch)
        tracker = JsonlTracker(launch.folder / "metrics.jsonl") if engine.rank == 0 else None
        if tracker:
            tracker.params({"host": platform.node(), "pid": os.getpid(), "world_size": engine.world_size})
        fit(job_of(launch, engine.world_size), engine, tracker)
    except ProsecoError as error:
        text = json.dumps({"type": type(error).__name__, "message": str(error)})
        (launch.folder / FAILURE).write_text(text, encoding="utf-8")
        raise


def micro_batch(launch: TrainLaunch, world_size: int) -> int:
    return launch.runtime.micro_batch or -(-launch.config.batch_rows // world_size)


def job_of(launch: TrainLaunch, world_size: int) -> Job:
    return Job(
        config=launch.config,
        folder=launch.folder,
        train_rows=launch.rows,
        weights=launch.weights,
        mask_id=launch.mask_id,
        pad_id=launch.pad_id,
        vocab_size=launch.vocab_size,
        source=launch.source,
        tokenizer=launch.tokenizer,
        micro_batch=micro_batch(launch, world_size),
        keep=launch.runtime.keep_checkpoints,
    )


def build_engine(launch: TrainLaunch) -> TrainEngine:
    """Model and engine of this rank. Initial weights depend on the seed alone."""
    torch.manual_seed(launch.config.seed)
    model = Transformer(launch.model, launch.vocab_size)
    if launch.init is not None:
        given = load_weights(launch.init) if launch.init.is_file() else checkpoint.averaged_weights(launch.init)
        fill(model, given, str(launch.init), fresh=FRESH)
    if launch.config.objective.freezes_trunk():
        model.freeze_trunk()
    model.activation_checkpointing = launch.runtime.activation_checkpointing
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    optimizer, precision = launch.config.optimizer, launch.config.precision
    if launch.runtime.engine == "torch":
        return TorchEngine(model, optimizer, precision, device)
    prepare()
    from cluster.zero import ZeroEngine

    world_size = dist.get_world_size()
    return ZeroEngine(
        model,
        optimizer,
        launch.runtime.zero_stage,
        micro_batch(launch, world_size),
        precision,
        launch.runtime.offload_optimizer,
        device,
    )


def failure_of(folder: Path) -> ProsecoError | None:
    """The error that a rank left behind."""
    path = folder / FAILURE
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    import components.errors as tree

    return getattr(tree, found["type"])(found["message"])


def do_shard(shard: SampleShard | ScoreShard, threads: int) -> dict[str, Any]:
    """One shard, on whatever thread of whatever replica."""
    use_threads(threads)
    return shard.work()

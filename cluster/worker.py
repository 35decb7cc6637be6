"""What runs inside a process of the cluster: one rank of a training, one shard on a replica."""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.cluster import TrainLaunch
from cluster.environment import prepare
from cluster.watchdog import Watchdog
from components.errors import ConfigError, ProsecoError, TrainingError
from components.models.compiled import compile_for_cpu
from components.models.cpu import use_threads
from components.models.device import device_problems
from components.models.drawn import drawn_in_parts
from components.models.transformer import Transformer
from components.models.weights import FRESH, fill, load_weights, require_same, shapes_of
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard
from components.store.files import publish_text, read_json, remove
from components.tracking import JOURNAL, JsonlTracker
from components.training import checkpoint
from components.training.engine import Share, TorchEngine, TrainEngine
from components.training.job import Job
from components.training.loop import fence_of, fit


def failure_file(job: Job) -> Path:
    """Where a rank leaves the error that ends it. Each execution has its own, so that one that was taken over does not
    end its successor; it is hidden, and so no part of what the stage made."""
    return job.folder / f".failure-{job.fence.id if job.fence else 'alone'}.json"


def train_rank(launch: TrainLaunch, leaving: Callable[[], bool] | None = None) -> None:
    """Train as this process's rank of the group that is already there (or alone).

    Args:
        leaving: is this machine about to go? Then a checkpoint is written before it does.

    An error that a user can mend is also left in the stage's folder, because no runtime carries an
    exception from one of many processes to the driver unharmed.
    """
    use_threads(launch.runtime.threads)
    # Deprecations between DeepSpeed and torch that a user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    watchdog: Watchdog | None = None
    try:
        engine = build_engine(launch)
        tracker = JsonlTracker(launch.job.folder / JOURNAL, fence_of(launch.job)) if engine.rank == 0 else None
        if tracker:
            tracker.params({"host": platform.node(), "pid": os.getpid(), "world_size": engine.world_size})
        watchdog = Watchdog(launch.runtime.hang_s, leaving)
        fit(launch.job, engine, tracker, watchdog)
    except ProsecoError as error:
        text = json.dumps({"type": type(error).__name__, "message": str(error)})
        publish_text(failure_file(launch.job), text)
        raise
    finally:
        if watchdog is not None:
            watchdog.close()


def build_engine(launch: TrainLaunch) -> TrainEngine:
    """Model and engine of this rank. Initial weights depend on the seed alone."""
    job, config, runtime = launch.job, launch.job.config, launch.runtime
    device = runtime.placed_on
    if lost := device_problems(device, "runtime.device"):
        raise ConfigError(lost)
    if runtime.on_gpu:
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    torch.manual_seed(config.seed)
    if runtime.engine == "torch":
        return TorchEngine(network(launch), config.optimizer, config.precision, device)
    os.environ.setdefault("DS_ACCELERATOR", runtime.placed_on)
    prepare()
    from cluster.zero import ZeroEngine, own_part

    drawn: dict[str, Tensor] = {}
    if runtime.zero_stage == 3:
        model, drawn = drawn_in_parts(launch.model, job.vocab_size, own_part)
        set_up(model, launch)
    else:
        model = network(launch)
    own = shapes_of(model.state_dict())
    engine = ZeroEngine(
        model,
        config.optimizer,
        stage=runtime.zero_stage,
        micro_batch=job.rows_at_once(dist.get_world_size()),
        precision=config.precision,
        offload=runtime.offload_optimizer,
        device=device,
    )
    if drawn:
        begin(engine, drawn, given_in_parts(launch.init, own) if launch.init else {}, config.precision)
    return engine


def network(launch: TrainLaunch) -> Transformer:
    """All of the network with its initial weights."""
    model = Transformer(launch.model, launch.job.vocab_size)
    if launch.init is not None:
        given = (
            load_weights(launch.init)
            if launch.init.suffix == ".safetensors"
            else checkpoint.averaged_weights(launch.init)
        )
        fill(model, given, str(launch.init), fresh=FRESH)
    set_up(model, launch)
    return model


def set_up(model: Transformer, launch: TrainLaunch) -> None:
    """What a network needs to know of its training."""
    if launch.job.config.objective.freezes_trunk():
        model.freeze_trunk()
    model.activation_checkpointing = launch.runtime.activation_checkpointing
    # Stage 3 gathers the weights of each layer as it is called, which a kernel for a whole block would not see.
    if launch.runtime.on_gpu and (launch.runtime.engine == "torch" or launch.runtime.zero_stage < 3):
        model.compile_blocks()
    elif launch.runtime.compile:
        compile_for_cpu(model.blocks, model.head)


Parts = Mapping[str, Callable[[Share], Tensor]]
"""By the name of a parameter, what reads a range of it."""


def given_in_parts(init: Path, own: Mapping[str, tuple[int, ...]]) -> Parts:
    """Given weights, of which what is asked for is read and nothing else. Raises ModelError where they do not fit."""
    if init.suffix == ".safetensors":
        tensors = load_weights(init)  # mapped into memory, so that what nobody looks at is not read
        require_same(own, shapes_of(tensors), str(init), FRESH)
        return {name: lambda s: tensors[s.name].view(-1)[s.start : s.start + s.numel].float() for name in tensors}
    found = checkpoint.open_checkpoint(init)
    require_same(own, found.shapes, str(init), FRESH)
    return {name: lambda s: found.part("ema", s.name, s.start, s.numel) for name in found.shapes}


def begin(engine: TrainEngine, drawn: Mapping[str, Tensor], given: Parts, precision: str) -> None:
    """Write initial weights into the masters of all ranks, each its own, rounded as a whole network's would be."""
    masters = engine.masters()
    for share in engine.shares():
        values = given[share.name](share) if share.name in given else drawn[share.name]
        share.of(masters).copy_(values.bfloat16() if precision == "bf16" else values)
    engine.refresh(0)


def failure_of(job: Job) -> ProsecoError | None:
    """The error that a rank left behind; it is taken away."""
    path = failure_file(job)
    found = read_json(path)
    remove(path)
    if not isinstance(found, dict):
        return None
    kind = ProsecoError.named(str(found.get("type"))) or TrainingError
    return kind(str(found.get("message")))


def do_shard(shard: SampleShard | ScoreShard, threads: int) -> dict[str, Any]:
    """One shard, on whatever thread of whatever replica."""
    use_threads(threads)
    return shard.work()

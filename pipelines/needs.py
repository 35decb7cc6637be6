"""What the stages of a run need that are to be made, held against what is here, before anything is started.

Sizes are estimates from the configuration: parameters, rows and tokens times bytes. Activations, the object store and
what libraries take on top of a process are not in them, so enough by them may still be too little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.config import RuntimeConfig
from components.data.rows import read_rows_json
from components.data.tokenizer import load_tokenizer
from components.errors import Problem, ProsecoError
from components.models.device import device_problems, dtype_problems, num_gpus
from components.store.artifact import IDENTITY, read_manifest
from components.store.files import at, folders, is_local, read_json
from components.tracking import JOURNAL, written_metrics
from pipelines.doctor import GIB, Check, file_system, free_bytes, is_remote, memory_bytes, num_cpus
from pipelines.graph.plan import Finding
from pipelines.graph.schedule import PATIENCE_S
from pipelines.graph.short import duration
from pipelines.graph.stage import Given, Stage
from pipelines.training_memory import FLOAT, STATES, Shape, smaller, taken

PROCESS_BYTES = 600 << 20
"""Of a process that has torch, DeepSpeed and Ray in it, and what they take at their first step, whatever the model."""
SURE = 0.75
"""What is refused needs more than there is by so much less of the estimate, which may be wrong by a quarter."""
UNKNOWN_VOCABULARY = 256
"""Taken for a vocabulary that is collected from the corpus and was not made yet."""
SAMPLE_BYTES, TOKEN_BYTES, SCORE_BYTES = 256, 8, 64
"""Of a row of samples, of each of its tokens, as an id and as text, and of a row of scores."""
STOP = "RAY_JOB_STOP_WAIT_TIME_S"
DEFAULT_STOP_S = 3.0
"""What Ray waits where that is not set."""
CLOSE_S = PATIENCE_S + 10
"""What a run that is stopped takes at most to end stages, replicas and workers, and to give its leases back."""
ON_CLUSTER = (STOP, "RAY_ADDRESS", "KUBERNETES_SERVICE_HOST")
"""One of these is set on the machines of a cluster."""
LOOKED_AT = 16
"""Jobs of samples whose journals tell how long a shard takes."""


def needs(findings: list[Finding], runtime: RuntimeConfig, root: Path) -> list[Check]:
    """All checks; none where nothing is to be made. Of the machines of a cluster that is joined nothing is known here."""
    todo = [f.stage for f in findings if f.state != "fresh"]
    if not todo:
        return []
    found = [tracking(runtime, root), *stopping(todo, root)]
    if is_local(root):
        found.append(disk(todo, runtime, root))
    if not runtime.address:
        found += [cpus(todo, runtime), memory(todo, runtime, root)]
        found += [*(Check(p.path, str(p.value), False, p.rule, p.remedy) for p in gpu_problems(runtime)), *idle_gpus(runtime)]
    return found


def tracking_problem(runtime: RuntimeConfig, root: Path) -> Problem | None:
    """SQLite would lie on a file system of a network, whose locks it can not trust."""
    if runtime.tracking_uri or not is_local(root) or not is_remote(kind := file_system(root)):
        return None
    rule = f"not empty where runtime.root is on a file system of a network ({kind}), because SQLite is unsafe there"
    return Problem("runtime.tracking_uri", "", rule, "give the address of an MLflow server, or none")


def refusals(runtime: RuntimeConfig, root: Path, todo: Sequence[Stage] = ()) -> list[Problem]:
    """Why nothing of a run may be started here. Of a cluster that is joined it is not known what fits."""
    lost, unfit = gpu_problems(runtime), dtype_problems(runtime.placed_on, runtime.dtype, "runtime.dtype")
    found = [*filter(None, [tracking_problem(runtime, root)]), *lost, *([] if runtime.address else unfit)]
    trainings = [] if runtime.address or lost else [s for s in todo if s.name == "train"]
    return found + [p for stage in trainings if (p := too_large(stage, runtime, root)) is not None]


def gpu_problems(runtime: RuntimeConfig) -> list[Problem]:
    """GPUs that are asked of this machine and are not there. A cluster that is joined has its own."""
    if runtime.address or not runtime.on_gpu:
        return []
    lost = device_problems(runtime.placed_on, "runtime.gpus" if runtime.gpus else "runtime.device")
    if not lost and runtime.gpus > num_gpus():
        rule = f"at most the {num_gpus()} GPUs of this machine"
        lost = [Problem("runtime.gpus", runtime.gpus, rule, "lower it, or leave it out to take all of them with device=cuda")]
    return lost


def idle_gpus(runtime: RuntimeConfig) -> Iterator[Check]:
    """GPUs of this machine of which nothing was said, so that they are not used."""
    if not runtime.address and (runtime.device, runtime.gpus) == ("auto", 0) and (there := num_gpus()):
        rule = f"at least 1 where there are GPUs, of which torch sees {there} here, or all is computed on CPUs"
        yield Check("runtime.gpus", "0", False, rule, f"set runtime.gpus={there}, or say runtime.device=cpu")


def tracking(runtime: RuntimeConfig, root: Path) -> Check:
    problem = tracking_problem(runtime, root)
    rule, remedy = (problem.rule, problem.remedy) if problem else ("SQLite lies on a disk of this machine, or nowhere", "")
    return Check("runtime.tracking_uri", runtime.tracking_uri or "SQLite in the root", problem is None, rule, remedy)


def processes(stage: Stage, runtime: RuntimeConfig) -> int:
    """How many a stage has at work."""
    one_by_one = runtime.executor == "local" and runtime.jobs == 1
    at_work = {"training": runtime.workers, "replicas": 1 if one_by_one else runtime.replicas}
    return at_work.get(stage.work, 1)


def cpus(todo: list[Stage], runtime: RuntimeConfig) -> Check:
    """Too few make it slow and stop nothing."""
    asked = max(processes(stage, runtime) for stage in todo) * runtime.threads
    rule = f"at least {asked}, one for each thread of workers or replicas, or they take turns"
    remedy = "lower runtime.workers, runtime.replicas or runtime.threads"
    return Check("cpus for the run", str(num_cpus()), num_cpus() >= asked, rule, remedy)


def vocabulary(stage: Stage, root: Path) -> int:
    """Entries of the tokenizer that a stage, or what it is made of, reads; a guess where nobody knows yet."""
    if stage.name == "tokenizer":
        made = read_manifest(stage.folder(root))
        return int(made.info["vocab_size"]) if made is not None else foreseen(stage.config.tokenizer)
    given = stage.inputs.get("tokenizer")
    if isinstance(given, Given):
        return vocabulary_of(str(given.place / "tokenizer.json"))
    return next((vocabulary(below, root) for below in stage.made_of()), UNKNOWN_VOCABULARY)


def foreseen(tokenizer: Any) -> int:
    if tokenizer.kind == "file":
        return vocabulary_of(tokenizer.path)
    return int(tokenizer.vocab_size) if tokenizer.kind == "bpe" else UNKNOWN_VOCABULARY


@lru_cache(maxsize=4)
def vocabulary_of(path: str) -> int:
    return load_tokenizer(at(path)).vocab_size


def parameters(stage: Stage, root: Path) -> int:
    """Of the network that a stage trains, exports or runs; 0 of one that has none."""
    if stage.name in ("train", "export"):
        return int(stage.config.model.num_parameters(vocabulary(stage, root)))
    model = stage.inputs.get("model")
    return parameters(model, root) if isinstance(model, Stage) else 0


def samples(stage: Stage) -> int:
    """Rows that a stage makes or scores."""
    if stage.name == "generate":
        how = stage.config.generate
        return int(how.num_samples * len(how.seeds))
    below = stage.inputs.get("samples")
    return samples(below) if isinstance(below, Stage) else 0


def tokenized(stage: Stage, runtime: RuntimeConfig, root: Path) -> int:
    """Bytes of a corpus in rows: of a generated one by its documents, of files as if each byte were a token."""
    config = stage.config
    width = 2 if vocabulary(stage, root) <= 1 << 16 else 4
    documents = vars(config.corpus.source).get("num_documents", 0)
    tokens = config.content.num_bytes if config.content is not None else documents * config.rows.length
    return int(tokens * width)


BYTES: Mapping[str, Callable[[Stage, RuntimeConfig, Path], int]] = {
    "tokenize": tokenized,
    # The newest is written before the oldest is removed.
    "train": lambda s, runtime, root: parameters(s, root) * FLOAT * STATES * (runtime.keep_checkpoints + 1),
    "export": lambda s, runtime, root: parameters(s, root) * FLOAT,
    "generate": lambda s, runtime, root: samples(s) * (SAMPLE_BYTES + TOKEN_BYTES * s.config.length),
    "score": lambda s, runtime, root: samples(s) * SCORE_BYTES,
}
"""What a stage leaves on the disk, or takes there for a time, by its name; the others leave little."""


def disk(todo: list[Stage], runtime: RuntimeConfig, root: Path) -> Check:
    needed = sum(BYTES[s.name](s, runtime, root) for s in todo if s.name in BYTES)
    free = free_bytes(root)
    remedy = "free space, set runtime.root to another disk, or lower runtime.keep_checkpoints or generate.num_samples"
    return Check(f"disk for the run at {root}", f"{free / GIB:.1f} GiB free", free >= needed, f"about {shown(needed)}", remedy)


def process_memory(stage: Stage, runtime: RuntimeConfig, root: Path) -> int:
    """What the processes of one stage take together on the host. Weights on GPUs are not there."""
    number = processes(stage, runtime)
    if stage.work != "training":
        return number * (PROCESS_BYTES + (0 if runtime.on_gpu else parameters(stage, root) * FLOAT))
    return number * (PROCESS_BYTES + worker_memory(shape_of(stage, runtime, root))[1])


def shape_of(stage: Stage, runtime: RuntimeConfig, root: Path) -> Shape:
    """What decides how much memory a process of a training takes."""
    config, rows = stage.config, next(below for role, below in stage.inputs.items() if role.startswith("rows"))
    share = -(-config.train.batch_rows // runtime.workers)
    return Shape(
        config.model,
        parameters(stage, root),
        vocabulary(stage, root),
        config.train.objective.name,
        rows=min(runtime.micro_batch or share, share),
        length=read_rows_json(rows.place)["length"] if isinstance(rows, Given) else rows.config.rows.length,
        workers=runtime.workers,
        zero=runtime.zero_stage if runtime.engine == "deepspeed" else None,
        bf16=config.train.precision == "bf16",
        on_gpu=runtime.on_gpu,
        checkpointing=runtime.activation_checkpointing,
        offload=runtime.offload_optimizer,
    )


def worker_memory(shape: Shape) -> tuple[int, int]:
    """Bytes that one process of a training takes on its GPU, 0 without one, and on the host, libraries aside."""
    found, share = taken(shape), FLOAT * shape.parameters // shape.workers
    # Masters, gradients, moments and average that are kept there, and what checkpoints are written from.
    return (found.most, found.stored + 5 * share * shape.offload) if shape.on_gpu else (0, found.most)


def gpu_bytes() -> int:
    """Memory of the smallest GPU that torch sees."""
    import torch

    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def room(shape: Shape) -> tuple[int, int, str]:
    """(what the training takes, what there is, and where): of one GPU, or of this machine for all of its processes."""
    on_gpu, on_host = worker_memory(shape)
    if shape.on_gpu:
        return on_gpu, gpu_bytes(), "of a GPU here, for each worker"
    return shape.workers * (PROCESS_BYTES + on_host), memory_bytes(), f"of this machine, for {shape.workers} workers together"


def too_large(stage: Stage, runtime: RuntimeConfig, root: Path) -> Problem | None:
    """Why a training cannot fit into memory, and the least that would have it fit."""
    shape = shape_of(stage, runtime, root)
    needed, there, where = room(shape)
    if needed * SURE <= there:
        return None
    fits = (said for other, said in smaller(shape) if room(other)[0] <= there)
    remedy = next((f"set {said}" for said in fits), "train a smaller model or shorter rows, or use fewer workers or a larger machine")
    return Problem(stage.label, f"about {shown(needed)}", f"at most the {shown(there)} {where}", remedy)


def training_lines(todo: Sequence[Stage], runtime: RuntimeConfig, root: Path) -> Iterator[str]:
    """What the largest of the trainings takes, for people."""
    shapes = {s.label: (s, shape_of(s, runtime, root)) for s in todo if s.name == "train"}
    if not shapes:
        return
    stage, shape = max(shapes.values(), key=lambda pair: taken(pair[1]).most)
    found, place = taken(shape), "on each GPU" if shape.on_gpu else f"and {shown(PROCESS_BYTES)} of libraries in each process"
    parts = ", ".join(f"{name} {shown(size)}" for name, size in found.parts.items() if size)
    yield (
        f"{stage.label}, the largest of {len(shapes)} trainings: about {shown(found.most)} {place}, workers: {shape.workers} ({parts}; "
        f"on the host {shown(found.stored)} that checkpoints are written from), and {shown(BYTES['train'](stage, runtime, root))} of disk for "
        f"{runtime.keep_checkpoints} checkpoints and the one being written"
    )


def memory(todo: list[Stage], runtime: RuntimeConfig, root: Path) -> Check:
    """For the largest stage alone; those that find no room beside it wait."""
    largest = max(todo, key=lambda s: process_memory(s, runtime, root))
    needed, there = process_memory(largest, runtime, root), memory_bytes()
    rule = f"about {shown(needed)}, for {largest.label}"
    remedy = "lower runtime.micro_batch, runtime.workers or runtime.replicas, raise runtime.zero_stage, or train a smaller model"
    return Check("memory for the run", f"{there / GIB:.1f} GiB", there >= needed, rule, remedy)


def shown(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def stopping(todo: list[Stage], root: Path) -> Iterator[Check]:
    """On a cluster: may what is stopped close what it holds, and what is lost of it?"""
    if not any(name in os.environ for name in ON_CLUSTER):
        return
    text = os.environ.get(STOP, "")
    wait_s = float(text) if text.replace(".", "", 1).isdecimal() else DEFAULT_STOP_S
    shard_s = max((shard_seconds(s, root) for s in todo if s.name == "generate"), default=0.0)
    value = f"{wait_s:g} s" + (f", and a shard takes up to {duration(shard_s)}" if shard_s else "")
    rule = f"at least {CLOSE_S:g} s to close, and a shard within it: what is at work when a job is stopped is made again"
    remedy = (
        f"set {STOP}={CLOSE_S:g} or more where the machines are started (and terminationGracePeriodSeconds in Kubernetes); "
        f"a lower generate.shard_rows has a stop cost less"
    )
    yield Check("time to stop", value, wait_s >= max(CLOSE_S, shard_s), rule, remedy)


def shard_seconds(stage: Stage, root: Path) -> float:
    """The longest that a shard as large was at work, by the journals of samples in the root; 0 where none tells."""
    rows = stage.config.generate.shard_rows
    times = [0.0]
    for folder in folders(root / "generate")[:LOOKED_AT]:
        record = read_json(folder / IDENTITY)
        try:
            ages = [float(row["queue_age_s"]) for row in written_metrics(folder / JOURNAL) if "queue_age_s" in row]
            times.append(max(ages, default=0.0) * rows / record["identity"]["config"]["generate"]["shard_rows"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OSError, ProsecoError):
            continue  # another version wrote it, or somebody else
    return max(times)

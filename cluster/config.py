"""Where and how a run is carried out. Nothing here decides a result, so nothing here is hashed; but for the dtype, which
is resolved for each stage that runs a network, and is hashed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from components.errors import Problem, without_passwords
from components.models.device import DTypeName, Kind, Precision, compiler_problems, dtype_on, dtype_problems
from components.options import Count, Natural, NonNegative, Positive, options

ROOT_PASSWORD = "leave it out, and set it for its kind of file system, e.g. FSSPEC_SFTP_PASSWORD"
TRACKING_PASSWORD = (
    "leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for a database the file of its "
    "driver, e.g. ~/.pgpass"
)


Processes = Annotated[int, Field(ge=1, le=100_000)]
Threads = Annotated[int, Field(ge=1, le=1024)]


@options
class RuntimeConfig:
    """The machine side of a run."""

    root: str = "runs"
    """Folder of all results. Runs that share it share finished stages."""
    executor: Literal["ray", "local"] = "ray"
    """``local`` does everything in this process, with the same results and no cluster."""
    address: str = ""
    """Address of a running Ray cluster; empty starts one on this machine for the time of the run."""
    cpus: Natural = 0
    """CPUs of the embedded cluster; 0 takes those of the machine."""
    gpus: Natural = 0
    """GPUs of the embedded cluster; 0 takes those of the machine where ``device`` is cuda. A training process and a
    replica take one each."""
    device: Kind = "auto"
    """Where networks compute; auto is cuda where ``gpus`` is not 0."""
    dtype: Precision = "auto"
    """What samples and scores are computed in; auto is bfloat16 for networks trained in it on GPUs, and on CPUs
    that multiply it, else float32. int8 is for CPUs. What it comes to is part of their identity. Trainings have a ``precision`` of
    their own."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """What updates the weights."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed spreads over workers: nothing, moments, gradients too, weights too."""
    workers: Processes = 2
    """Training processes."""
    min_workers: Natural = 0
    """On Ray, a training goes on with as few where nodes are lost, or begins so where more find no room, and takes more
    when there is room for them. Batches stay the same. 0 needs all of them."""
    resize_every_s: Positive = 60.0
    """Seconds between looks whether a training that has fewer may have more; what it did since its last checkpoint is done
    again then."""
    hang_s: NonNegative = 1800.0
    """Seconds without a step after which the processes of a training are ended and started again; 0 waits for ever."""
    micro_batch: Natural = 0
    """Rows that a worker takes at once; 0 takes its whole share of the batch."""
    activation_checkpointing: bool = False
    """Compute activations twice to hold fewer."""
    compile: bool = False
    """Make kernels of the blocks of networks that learn on CPUs: steps take some nine tenths of the time, and the first half a minute
    more. On GPUs they always are, but at zero_stage 3."""
    offload_optimizer: bool = False
    """Keep the optimiser's moments in the host's memory."""
    threads: Threads = 1
    """Threads of each process. Rows are equal, bit for bit, between runs of equal threads."""
    replicas: Processes = 2
    """Serve replicas for sampling and scoring."""
    service: bool = False
    """Have the replicas of a service on the joined cluster (``proseco serve``) do the shards, with the lanes that people
    leave; ``replicas`` then says how many it has."""
    max_replicas: Natural = 0
    """On Ray, up to so many replicas, as many as there are shards for and as the cluster has or grows room for; the work
    begins with ``replicas``. 0 keeps those."""
    max_failures: Natural = 3
    """Restarts of the training workers before the stage fails."""
    start_wait_s: NonNegative = 900.0
    """How long workers and replicas may wait for CPUs and GPUs, which a growing cluster has to start first."""
    max_attempts: Count = 3
    """Tries of one task or shard."""
    keep_checkpoints: Count = 2
    """The last so many of a training."""
    jobs: Natural = 0
    """Stages that are made at once; 0 as many as the CPUs and GPUs hold, 1 one after the other in a fixed order."""
    lease_wait_s: NonNegative | None = None
    """How long to wait for another run that makes a stage which this one needs; nothing as long as that run lives."""
    lease_expiry_s: Annotated[float, Field(ge=1)] = 60.0
    """A lease that was not renewed for so long is taken over."""
    tracking_uri: str = ""
    """MLflow; empty is a SQLite file in the root, ``none`` tracks in the journal only."""

    @property
    def on_gpu(self) -> bool:
        """Do networks compute on GPUs?"""
        return self.device == "cuda" or (self.device == "auto" and self.gpus > 0)

    @property
    def placed_on(self) -> str:
        """Where a process finds its device: cluster software shows each the GPU that it may use."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def most_replicas(self) -> int:
        """Replicas that there may be at once."""
        return max(self.replicas, self.max_replicas)

    def dtype_of(self, trained_precision: str) -> DTypeName:
        """What a network that was trained in fp32 or bf16 computes in."""
        return dtype_on(self.placed_on, self.dtype, trained_precision)

    def problems(self) -> Iterator[Problem]:
        """Broken rules between options; paths begin below the runtime."""
        alone = (self.executor, self.engine, self.workers, self.jobs) == ("local", "torch", 1, 1)
        if self.root.startswith("memory:") and not alone:
            remedy = "set executor=local engine=torch workers=1 jobs=1, or use a folder"
            yield Problem("root", self.root, "memory is seen by one process alone", remedy)
        if "://" in self.root and not self.tracking_uri:
            rule = "somewhere else where the root is no folder of this machine, because SQLite can not lie there"
            yield Problem("tracking_uri", "", rule, "give the address of an MLflow server, or none")
        for name, place, remedy in (("root", self.root, ROOT_PASSWORD), ("tracking_uri", self.tracking_uri, TRACKING_PASSWORD)):
            if without_passwords(place) != place:
                rule = "without a password, which process lists, manifests, tags and messages would show"
                yield Problem(name, place, rule, remedy)
        if self.executor == "ray" and not self.address and self.cpus and self.cpus < max(self.workers, self.replicas):
            rule = f"at least one for each of {self.workers} workers and {self.replicas} replicas, or they never start"
            yield Problem("cpus", self.cpus, rule, "raise it, or lower workers and replicas")
        if self.min_workers and (self.min_workers > self.workers or self.executor != "ray"):
            rule = f"0, or on executor=ray at most workers ({self.workers})"
            yield Problem("min_workers", self.min_workers, rule, "lower it, or leave it out")
        if self.on_gpu and self.dtype == "int8":
            yield from dtype_problems(self.placed_on, self.dtype)
        if self.service and not self.address:
            rule = "only with runtime.address, because the service is on a cluster that is there already"
            yield Problem("service", True, rule, "set the address that `proseco serve` names, or leave it out")
        if self.max_replicas and (self.max_replicas < self.replicas or self.executor != "ray"):
            rule = f"0, or on executor=ray at least replicas ({self.replicas})"
            yield Problem("max_replicas", self.max_replicas, rule, "raise it, or leave it out")
        if self.compile and not self.on_gpu:
            if self.engine == "deepspeed" and self.zero_stage == 3:
                rule = "not at zero_stage 3, where weights are gathered layer by layer, which kernels of whole blocks would not see"
                yield Problem("compile", True, rule, "leave it out, or use zero_stage 0 to 2")
            yield from compiler_problems("compile", True, "leave it out")
        if self.offload_optimizer and self.engine == "torch":
            yield Problem("offload_optimizer", True, "engine=torch cannot offload", "use engine=deepspeed")
        elif self.offload_optimizer and self.zero_stage == 0:
            rule = "stage 0 holds no partitions to offload"
            yield Problem("offload_optimizer", True, rule, "use zero_stage 1 to 3")

"""Where and how a run is carried out. Nothing here decides a result, so nothing here is hashed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.errors import Problem


@dataclass(frozen=True)
class RuntimeConfig:
    """The machine side of a run."""

    root: str = "runs"
    """Folder of all results. Runs that share it share finished stages."""
    executor: Literal["ray", "local"] = "ray"
    """``local`` does everything in this process, with the same results and no cluster."""
    address: str = ""
    """Address of a running Ray cluster; empty starts one on this machine for the time of the run."""
    cpus: int = 0
    """CPUs of the embedded cluster; 0 takes those of the machine."""
    gpus: int = 0
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 2
    workers: int = 2
    """Training processes."""
    micro_batch: int = 0
    """Rows that a worker takes at once; 0 takes its whole share of the batch."""
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    threads: int = 1
    """Threads of each process. Rows are equal, bit for bit, between runs of equal threads."""
    replicas: int = 2
    """Serve replicas for sampling and scoring."""
    max_failures: int = 3
    """Restarts of the training workers before the stage fails."""
    max_attempts: int = 3
    """Tries of one task or shard."""
    keep_checkpoints: int = 2
    lease_wait_s: float = 0.0
    lease_expiry_s: float = 60.0
    tracking_uri: str = ""
    """MLflow; empty is a SQLite file in the root, ``none`` tracks in the journal only."""

    def problems(self, path: str) -> list[Problem]:
        found: list[Problem] = []
        least = {
            "workers": 1, "threads": 1, "replicas": 1, "micro_batch": 0, "cpus": 0, "gpus": 0, "max_failures": 0,
            "max_attempts": 1, "keep_checkpoints": 1, "lease_wait_s": 0, "lease_expiry_s": 1,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value < low:
                found.append(Problem(f"{path}.{name}", value, f"at least {low}", f"set it to {low} or more"))
        if self.engine == "torch" and self.zero_stage != 0 and self.offload_optimizer:
            found.append(
                Problem(f"{path}.offload_optimizer", True, "engine=torch cannot offload", "use engine=deepspeed")
            )
        if self.offload_optimizer and self.zero_stage == 0:
            found.append(
                Problem(
                    f"{path}.offload_optimizer", True, "stage 0 holds no partitions to offload", "use zero_stage 1 to 3"
                )
            )
        return found

"""Settings that make torch faster on a CPU at the same accuracy.

On AMD processors with AVX-512 torch multiplies float32 matrices by MKL at a third of what oneDNN
reaches; the "medium" precision routes them to oneDNN, which there has no lower precision to fall
back to. On processors with AMX, and on GPUs, the same setting does lower precision, so it is gated.
"""

from __future__ import annotations

import os
import sys

import torch

from components.models.device import processor


def routes_to_onednn() -> bool:
    """Is this a processor on which the gate above opens?"""
    told = processor()
    return {"AuthenticAMD", "avx512f"} <= told and not any(word.startswith("amx") for word in told)


def use_threads(count: int) -> None:
    """Set up this thread's kernels. Results of a job are comparable only at one count."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    if routes_to_onednn() and not torch.cuda.is_available():
        torch.set_float32_matmul_precision("medium")


def share_of_cpus(number: int, of: int, threads: int) -> frozenset[int]:
    """The CPUs that one of several equal processes keeps to: its share where together they take up all that this process
    may use, and otherwise none, which leaves all of it to the system.

    Whoever wakes up on a full machine pushes a thread at work to another CPU, whose caches know nothing of it. Where CPUs
    are left there are better places than any that we could choose.
    """
    if sys.platform != "linux":
        return frozenset()
    there = sorted(os.sched_getaffinity(0))
    return frozenset(there[number * threads : (number + 1) * threads]) if of * threads == len(there) else frozenset()


def keep_to(cpus: frozenset[int]) -> None:
    """Have this thread, and those that it starts, run on these CPUs alone; on any where none are given."""
    if cpus:
        os.sched_setaffinity(0, cpus)

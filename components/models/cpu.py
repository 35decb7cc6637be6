"""Settings that make torch faster on a CPU at the same accuracy.

On AMD processors with AVX-512 torch multiplies float32 matrices by MKL at a third of what oneDNN
reaches; the "medium" precision routes them to oneDNN, which there has no lower precision to fall
back to. On processors with AMX, and on GPUs, the same setting does lower precision, so it is gated.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Environment of compute processes, read by glibc when they start: freed memory is kept, so that
tensors do not fault in fresh pages at every step."""


@cache
def routes_to_onednn() -> bool:
    """Is this a processor on which the gate above opens?"""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return "AuthenticAMD" in text and "avx512f" in flags and not any(f.startswith("amx") for f in flags)


def use_threads(count: int) -> None:
    """Set up this thread's kernels. Results of a job are comparable only at one count."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    if routes_to_onednn() and not torch.cuda.is_available():
        torch.set_float32_matmul_precision("medium")

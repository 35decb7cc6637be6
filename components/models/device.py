"""Where a network computes, and in what precision.

``auto`` is resolved once, before anything is loaded, to a ``Placement``:

    device   auto   the GPU where torch sees one, else the CPU
    dtype    auto   bfloat16 on a GPU for a network that was trained in it, else float32

An export tells what it was trained in by ``trained_precision`` in its config.json; where that is absent it is fp32.
Logits, heads and all that samplers and scorers make of them are float32 in either precision.

A row is a function of its seed and id for one (dtype, kind of device). The dtype is part of the identity of samples
and scores. The kind of device is not: in float32 it moves the last bits alone, which are not worth making all
samples anew, so whoever needs rows bit for bit stays on one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.errors import ConfigError, Problem

Kind = Literal["auto", "cpu", "cuda"]
DTypeName = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Placement:
    """A device of torch, and the dtype of the trunk's weights and activations."""

    device: str = "cpu"
    dtype: DTypeName = "float32"


def resolve(device: str = "auto", dtype: str = "auto", info: Mapping[str, Any] | None = None) -> Placement:
    """What ``auto`` means here, or what was asked for where it is possible.

    Args:
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32 or bfloat16.
        info: config.json of the export.
    Raises:
        ConfigError: a name is unknown, or torch sees no such device; all problems together.
    """
    problems = device_problems(device)
    if dtype not in PRECISIONS:
        problems.append(Problem("dtype", dtype, f"one of {', '.join(PRECISIONS)}", "use auto"))
    if problems:
        raise ConfigError(problems)
    chosen = ("cuda" if num_gpus() else "cpu") if device == "auto" else device
    return Placement(chosen, dtype_on(chosen, dtype, (info or {}).get("trained_precision", "fp32")))


def dtype_on(device: str, dtype: str, trained_precision: str) -> DTypeName:
    """The dtype on a device for a network trained in fp32 or bf16. Needs no such device, so that a plan can ask."""
    if dtype == "auto":
        return "bfloat16" if device.startswith("cuda") and trained_precision == "bf16" else "float32"
    return "bfloat16" if dtype == "bfloat16" else "float32"


def device_problems(device: str, path: str = "device") -> list[Problem]:
    """Why a device cannot be used on this machine; empty where it can."""
    if device in ("auto", "cpu"):
        return []
    kind, _, number = device.partition(":")
    if kind != "cuda" or (device != "cuda" and not number.isdecimal()):
        return [Problem(path, device, "one of auto, cpu, cuda, cuda:N", "use auto")]
    count = num_gpus()
    if not count:
        remedy = "use cpu, or install the CUDA build of torch on a machine with a GPU and its driver"
        return [Problem(path, device, "a GPU that torch sees; here it sees none", remedy)]
    if number and int(number) >= count:
        return [Problem(path, device, f"one of the {count} GPUs of this machine, counted from 0", "lower the number")]
    return []


def num_gpus() -> int:
    """GPUs that torch sees."""
    import torch  # options are read without it

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

"""Where a network computes, and in what precision.

``auto`` is resolved once, before anything is loaded, to a ``Placement``:

    device   auto   the GPU where torch sees one, else the CPU
    dtype    auto   bfloat16 for a network that was trained in it, on a GPU or a CPU that multiplies it; else float32
             int8   on request: products of blocks and head in 8 bits, the rest in float32, in kernels that are made for a CPU

An export tells what it was trained in by ``trained_precision`` in its config.json; where that is absent it is fp32.
Logits, heads and all that samplers and scorers make of them are float32 in any precision.

A row is a function of its seed and id for one (dtype, kind of device). The dtype is part of the identity of samples
and scores. The kind of device is not: in float32 it moves the last bits alone, which are not worth making all
samples anew, so whoever needs rows bit for bit stays on one kind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from components.errors import ConfigError, Problem

Kind = Literal["auto", "cpu", "cuda"]
DTypeName = Literal["float32", "bfloat16", "int8"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Placement:
    """A device of torch, and the dtype of the trunk's weights and activations; of int8 activations are float32 between products."""

    device: str = "cpu"
    dtype: DTypeName = "float32"


def resolve(device: str = "auto", dtype: str = "auto", info: Mapping[str, Any] | None = None) -> Placement:
    """What ``auto`` means here, or what was asked for where it is possible.

    Args:
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32, bfloat16 or int8.
        info: config.json of the export.
    Raises:
        ConfigError: a name is unknown, torch sees no such device, or it can not compute so; all problems together.
    """
    chosen = ("cuda" if num_gpus() else "cpu") if device == "auto" else device
    if problems := [*device_problems(device), *dtype_problems(chosen, dtype)]:
        raise ConfigError(problems)
    return Placement(chosen, dtype_on(chosen, dtype, (info or {}).get("trained_precision", "fp32")))


def dtype_on(device: str, dtype: str, trained_precision: str) -> DTypeName:
    """The dtype on a device for a network trained in fp32 or bf16. Needs no such GPU, so that a plan can ask; CPUs of a
    cluster are taken to be like this one."""
    if dtype == "auto":
        fast = device.startswith("cuda") or multiplies_bfloat16()
        return "bfloat16" if fast and trained_precision == "bf16" else "float32"
    return cast(DTypeName, dtype)


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


def dtype_problems(device: str, dtype: str, path: str = "dtype") -> list[Problem]:
    """Why this machine's device cannot compute in a dtype; empty where it can."""
    if dtype not in PRECISIONS:
        return [Problem(path, dtype, f"one of {', '.join(PRECISIONS)}", "use auto")]
    if dtype != "int8":
        return []
    if device != "cpu":
        return [Problem(path, dtype, "for CPUs alone", "use bfloat16, or device=cpu")]
    if not processor() & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        rule = "for a CPU with instructions for products of bytes (VNNI or AMX), others can lose parts of their sums"
        return [Problem(path, dtype, rule, "use float32")]
    return compiler_problems(path, dtype, "use bfloat16")


def compiler_problems(path: str, value: object, otherwise: str) -> list[Problem]:
    """Why this machine can make no kernels for its CPU; empty where it can."""
    if shutil.which(compiler := os.environ.get("CXX", "g++")) is not None:
        return []
    rule = f"for a machine with a compiler of C++, by which kernels are made; here is no {compiler}"
    return [Problem(path, value, rule, f"install g++, name one in the environment as CXX, or {otherwise}")]


@cache
def processor() -> frozenset[str]:
    """What the first CPU says of itself: its maker and what it can do. Nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    told = {name.strip(): said for name, _, said in (line.partition(":") for line in reversed(lines))}
    return frozenset(" ".join(told.get(name, "") for name in ("vendor_id", "flags", "Features")).split())


def multiplies_bfloat16() -> bool:
    """Has this machine's CPU instructions for products of bfloat16, which others compute slower than those of float32?"""
    return bool(processor() & {"avx512_bf16", "amx_bf16", "bf16"})


def num_gpus() -> int:
    """GPUs that torch sees."""
    import torch  # options are read without it

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

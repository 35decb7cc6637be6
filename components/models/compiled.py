"""Blocks as kernels that torch writes in C++ for a CPU, each made once for all numbers of rows and of positions.

In sampling, a row's bits must not depend on which sizes its process met first, so no size is a constant of a kernel. Torch takes a size of one
for a case of its own all the same, whose kernels would be made in the middle of work: a single row is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from components.models.int8 import Int8
from components.models.layers import Block, Linear, Memory
from components.models.segments import Segments

FORMS = 64
"""Kinds of networks and inputs for which a process makes kernels; torch's own limit is soon reached, and computes other bits."""


def compile_for_cpu(blocks: nn.ModuleList, head: Linear) -> None:
    """Have blocks, and a head's product in 8 bits, computed so; not what is told of keys and values on the way, nor rows of several
    lengths side by side. The first call takes some seconds, of blocks that learn some twenty, and both longer on a machine that has not
    made such kernels before."""
    torch._dynamo.config.recompile_limit = max(FORMS, torch._dynamo.config.recompile_limit)
    for block in blocks:
        for function in (Block.forward, Block.attend, Block.write):
            setattr(block, function.__name__, for_any_size(function).__get__(block))
    if isinstance(head.in8, Int8):
        head.in8 = for_any_size(Int8.__call__).__get__(head.in8)


def for_any_size(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, compiled for any size of leading dimensions."""
    compiled = torch.compile(function, dynamic=False)

    @wraps(function)
    def call(*given: Any) -> Tensor:
        tensors = [one for some in given for one in (some if isinstance(some, tuple) else (some,)) if isinstance(one, Tensor)]
        plain = any(isinstance(one, Memory | Segments) for one in given) or not all(map(torch.numel, tensors))
        if plain or torch.compiler.is_compiling():
            return function(*given)
        if any(map(is_single, given)):
            return call(*(torch.cat([one, one]) if is_single(one) else one for one in given))[:1]
        for tensor in tensors:
            leave_open(tensor)
        return compiled(*given)

    return call


def is_single(given: Any) -> bool:
    """Features, or a condition, of a single row. A mask may be one for all rows."""
    return isinstance(given, Tensor) and len(given) == 1 and given.dtype != torch.bool


def leave_open(tensor: Tensor) -> None:
    """Let its leading sizes change: of features [N, D] or [B, L, D] and the like all but the width, of a mask [B, L, L] all."""
    for size in range(tensor.dim() if tensor.dtype == torch.bool else min(2, tensor.dim() - 1)):
        torch._dynamo.maybe_mark_dynamic(tensor, size)

"""Layers that learn on a CPU with fewer readings of memory, and keep less of it for the backward.

Written in torch's own operations, several of which would each read and write a whole activation, autograd keeps what
every one of them was given. Here each keeps its input alone, and makes again what is cheap to make. The values are those of
the plain layers up to the order of a few sums. B rows, L positions, N all of them, D width, H heads, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 2048
"""Positions of a chunk: their activations stay in the cache from one reading to the next."""


def learns(x: Tensor) -> bool:
    """Is a backward to come, on a CPU? Elsewhere, without one, and where kernels are made of the plain layers, those are used."""
    return torch.is_grad_enabled() and not x.is_cuda and not torch.compiler.is_compiling()


def computed_in(x: Tensor) -> torch.dtype:
    """What products of x are taken in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x.dtype


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``F.rms_norm``, in what the product that comes after it is taken in."""
    out: Tensor = RmsNorm.apply(x, weight, eps, computed_in(x))
    return out


def gated_linear(gate_up: Tensor, weight: Tensor) -> Tensor:
    """See ``GatedLinear``."""
    out: Tensor = GatedLinear.apply(gate_up.to(computed_in(gate_up)), weight)
    return out


def attend(qkv: Tensor, rope: tuple[Tensor, Tensor], heads: int, visible: Tensor | None = None) -> Tensor:
    """See ``Attend``."""
    cos, sin = rope
    out: Tensor = Attend.apply(qkv, cos.to(qkv.dtype), sin.to(qkv.dtype), heads, visible)
    return out


def no_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Inside, operations are taken in the dtypes that they are given."""

    @wraps(function)
    def inner(*given: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return function(*given)

    return inner


class RmsNorm(torch.autograd.Function):
    """x [..., D] over its root mean square, times weight [D]."""

    @staticmethod
    @no_autocast
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        width = x.shape[-1]
        flat = x.reshape(-1, width)
        inverse = torch.linalg.vector_norm(flat, dim=-1, keepdim=True, dtype=exact(x)).square_().div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(flat, weight, inverse)
        return (flat * inverse.to(x.dtype)).mul_(weight.to(x.dtype)).to(dtype).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        flat, own = grad.reshape(x.shape).to(x.dtype), weight.to(x.dtype)
        product = (flat * x).to(inverse.dtype)
        along = (product @ weight.to(inverse.dtype))[:, None] * inverse**3 / x.shape[-1]
        grad_x = (flat * own).mul_(inverse.to(x.dtype)).addcmul_(x, along.to(x.dtype), value=-1)
        grad_weight = (inverse[:, 0] @ product).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_x.view(grad.shape), grad_weight, None, None


class GatedLinear(torch.autograd.Function):
    """``(silu(gate) * up) @ weight.T`` of gate and up [..., 2 M] side by side, weight [D, M]."""

    @staticmethod
    @no_autocast
    def forward(ctx: Any, gate_up: Tensor, weight: Tensor) -> Tensor:
        flat, own = gate_up.reshape(-1, gate_up.shape[-1]), weight.to(gate_up.dtype)
        ctx.save_for_backward(flat, weight)
        out = flat.new_empty(len(flat), len(weight))
        for rows in chunks(len(flat)):
            gate, up = flat[rows].chunk(2, -1)
            torch.mm(F.silu(gate).mul_(up), own.T, out=out[rows])
        return out.view(*gate_up.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        own, given = weight.to(flat.dtype), grad.reshape(-1, len(weight))
        grad_in = torch.empty_like(flat)
        grad_weight = torch.zeros_like(weight, dtype=exact(weight)) if ctx.needs_input_grad[1] else None
        for rows in chunks(len(flat)):
            gate, up = flat[rows].chunk(2, -1)
            to_gate, to_up = grad_in[rows].chunk(2, -1)
            back, opened = given[rows] @ own, F.silu(gate)
            torch.mul(back, opened, out=to_up)
            torch.ops.aten.silu_backward.grad_input(back.mul_(up), gate, grad_input=to_gate)
            if grad_weight is not None:
                add_product(grad_weight, given[rows].T, opened.mul_(up))
        return grad_in.view(*grad.shape[:-1], flat.shape[1]), None if grad_weight is None else grad_weight.to(weight.dtype)


class Attend(torch.autograd.Function):
    """Attention of queries, keys and values [B, L, 3 D] side by side, turned by the tables [L, K/2]: [B, L, D]. Everything is
    seen, or what ``visible`` [B or 1, L, L] says."""

    @staticmethod
    @no_autocast
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, visible: Tensor | None) -> Tensor:
        rows, length, width = qkv.shape
        parts = qkv.view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        turned = torch.empty(parts.shape, dtype=qkv.dtype)
        turn(parts[:2], cos, sin, turned[:2])
        turned[2] = parts[2]
        turned[0] *= turned.shape[-1] ** -0.5
        q, k, v = turned.flatten(1, 2)
        scores = q @ k.mT
        if visible is not None:
            scores.view(rows, heads, length, length).masked_fill_(~visible[:, None], float("-inf"))
        share = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(turned, share, cos, sin)
        return (share @ v).view(rows, heads, length, -1).transpose(1, 2).reshape(rows, length, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        turned, share, cos, sin = ctx.saved_tensors
        _, rows, heads, length, width = turned.shape
        q, k, v = turned.flatten(1, 2)
        given = grad.view(rows, length, heads, width).transpose(1, 2).reshape(rows * heads, length, width)
        back = torch._softmax_backward_data(given @ v.mT, share, -1, share.dtype)
        grad_qkv = torch.empty(rows, length, 3, heads, width, dtype=grad.dtype)
        parts = grad_qkv.permute(2, 0, 3, 1, 4)
        grads = torch.stack([(back @ k).mul_(width**-0.5), back.mT @ q]).view(2, rows, heads, length, width)
        turn(grads, cos, -sin, parts[:2])
        parts[2] = (share.mT @ given).view(rows, heads, length, width)
        return grad_qkv.view(rows, length, -1), None, None, None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write [..., L, K], whose halves are turned by angles [L, K/2], into ``out``."""
    (first, second), (left, right) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)


def chunks(number: int) -> list[slice]:
    """Of so many positions."""
    return [slice(begin, begin + ROWS) for begin in range(0, number, ROWS)]


def exact(x: Tensor) -> torch.dtype:
    """What sums over a width are taken in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``, in one operation where the dtypes are one, or sums are taken in that of the total."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        for some, left in zip(total.split(ROWS), a.split(ROWS), strict=True):
            some += left @ b


def write_product(place: Tensor, a: Tensor, b: Tensor) -> None:
    """Write ``a @ b`` into ``place``, which is in float32 where the factors are in bfloat16."""
    if a.dtype == place.dtype:
        torch.mm(a, b, out=place)
    elif a.is_cuda:  # sums are in float32 there, and are not rounded
        torch.mm(a, b, out_dtype=place.dtype, out=place)
    else:
        for some, left in zip(place.split(ROWS), a.split(ROWS), strict=True):
            some.copy_(left @ b)

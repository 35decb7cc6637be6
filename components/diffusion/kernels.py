"""Kernels of a GPU, in Triton: what torch would do in hundreds of launches, or in several readings of all logits.

Each has a plain form beside its caller, which is its definition and which a CPU runs. Nothing is tuned when it is run, so
that a row's bits are the same in every process. Imported where ``makes_kernels`` says that it can be.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 2048
"""Numbers that one program looks at together."""


def uniforms(keys: Tensor, tick: Tensor, inner: Tensor, stream: int, num_positions: int) -> Tensor:
    """``noise.uniform`` of keys [B, 2], columns [B, 1] of ticks and inner steps: [B, L] float64."""
    drawn = torch.empty(len(keys), num_positions, dtype=torch.float64, device=keys.device)
    grid = (len(keys), triton.cdiv(num_positions, LANES))
    if drawn.numel():
        with torch.cuda.device(keys.device):  # which need not be the one that this thread is at
            _uniforms[grid](keys.contiguous(), tick.contiguous(), inner.contiguous(), drawn, stream, num_positions, LANES)
    return drawn


@triton.jit(do_not_specialize=["stream", "length"])
def _uniforms(keys, tick, inner, drawn, stream, length, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * LANES + tl.arange(0, LANES)
    c0 = position.to(tl.int64)
    zero = tl.zeros_like(c0)
    c1, c2, c3 = zero + tl.load(tick + row), zero + tl.load(inner + row), zero + stream
    k0, k1 = zero + tl.load(keys + 2 * row), zero + tl.load(keys + 2 * row + 1)
    for _ in tl.static_range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        high0, low0 = (product0 >> 32) & 0xFFFFFFFF, product0 & 0xFFFFFFFF
        high1, low1 = (product1 >> 32) & 0xFFFFFFFF, product1 & 0xFFFFFFFF
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    high, low = (c0 >> 6).to(tl.float64), (c1 >> 6).to(tl.float64)
    u = (high * 67108864.0 + low + 0.5) / 4503599627370496.0
    tl.store(drawn + row * length + position, u, mask=position < length)


def opinion(logits: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``categorical.opinion`` of float32 logits [N, V], read once."""
    best, log_best, log_own = torch.empty_like(own), *(logits.new_empty(len(own)) for _ in range(2))
    if len(own):
        with torch.cuda.device(logits.device):
            _opinion[(len(own),)](logits, own, best, log_best, log_own, logits.shape[1], logits.stride(0), LANES)
    return best, log_best, log_own


@triton.jit
def _opinion(logits, own, best, log_best, log_own, size, stride, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    lane = tl.arange(0, LANES)
    # Each lane keeps the largest of its own numbers, where that stood first, and the sum of exponentials below it.
    top = tl.full((LANES,), -3.0e38, tl.float32)
    first, total = tl.zeros((LANES,), tl.int32), tl.zeros((LANES,), tl.float32)
    for begin in range(0, size, LANES):
        at = begin + lane
        x = tl.load(start + at, mask=at < size, other=float("-inf"))
        new = tl.maximum(top, x)
        total = total * tl.exp(top - new) + tl.exp(x - new)
        first = tl.where(x > top, at, first)
        top = new
    largest = tl.max(top, 0)
    log_total = tl.log(tl.sum(total * tl.exp(top - largest), 0))
    word = tl.minimum(tl.min(tl.where(top == largest, first, size), 0), size - 1)
    tl.store(best + row, word.to(tl.int64))
    tl.store(log_best + row, -log_total)
    tl.store(log_own + row, tl.load(start + tl.load(own + row)) - largest - log_total)


def look(part: Tensor, clean: Tensor, never: int, writes: bool) -> tuple[Tensor, Tensor]:
    """(the best token [P], -log p of the right one [P]) under logits [P, V], of which the token ``never`` is none.

    With ``writes`` the logits are overwritten by what each token is off, ``p - [it is the right one]``.
    """
    best, nll = torch.empty_like(clean), torch.empty(len(clean), dtype=torch.float32, device=part.device)
    if len(clean):
        with torch.cuda.device(part.device):
            _look[(len(clean),)](part, clean.contiguous(), best, nll, never, part.shape[1], part.stride(0), writes, LANES)
    return best, nll


@triton.jit(do_not_specialize=["never"])
def _look(part, clean, best, nll, never, size, stride, writes: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    start = part + row * stride
    right = tl.load(clean + row)
    said = tl.load(start + right).to(tl.float32)
    lane = tl.arange(0, LANES)
    top = tl.full((LANES,), -3.0e38, tl.float32)
    first, total = tl.zeros((LANES,), tl.int32), tl.zeros((LANES,), tl.float32)
    for begin in range(0, size, LANES):
        at = begin + lane
        x = tl.load(start + at, mask=(at < size) & (at != never), other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, x)
        total = total * tl.exp(top - new) + tl.exp(x - new)
        first = tl.where(x > top, at, first)
        top = new
    largest = tl.max(top, 0)
    whole = tl.sum(total * tl.exp(top - largest), 0)
    word = tl.minimum(tl.min(tl.where(top == largest, first, size), 0), size - 1)
    tl.store(best + row, word.to(tl.int64))
    tl.store(nll + row, largest + tl.log(whole) - said)
    if writes:  # which the sums above have made all wait for
        for begin in range(0, size, LANES):
            at = begin + lane
            x = tl.load(start + at, mask=(at < size) & (at != never), other=float("-inf")).to(tl.float32)
            off = tl.exp(x - largest) / whole - tl.where(at == right, 1.0, 0.0)
            tl.store(start + at, off.to(part.dtype.element_ty), mask=at < size)

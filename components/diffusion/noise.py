"""Counter-based randomness: every draw is a pure function of what it is for.

Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised in
torch, and on a CPU in numpy, whose operations take a third of the time to begin. A draw is named by
(seed, sample id, particle, sweep) -> a 64-bit row key, and then by (tick, inner step, position, stream).
No state, no global generator: a row is the same alone, in a crowd, on another replica or on the third try.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Any, TypeVar

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, library

from components.diffusion.gpu import makes_kernels

Words = TypeVar("Words", Tensor, NDArray[Any])

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


class Stream(enum.IntEnum):
    """What a draw is for. Two purposes never share a stream."""

    REVEAL = 0
    TOKEN = 1
    DRAFT = 2
    ORDER = 4
    TIME = 5
    CORRUPT = 6
    CORRUPT_DRAFT = 7
    SCORE = 9
    REMASK = 10
    REMASK_COUNT = 11
    POLICY = 12
    GUESS = 13
    RESAMPLE = 14
    PICK = 15
    BROWNIAN = 16
    CHOICE = 17
    CONTROL = 18
    PAIR = 19
    FILL = 20
    SECOND_MASK = 21
    MIX = 22
    RANDOM_TOKEN = 23
    ORDER_OF_PREDICTION = 24
    EVIDENCE = 25
    EVIDENCE_NOISE = 26
    LABEL = 27


FIRST_NAMED = 1 << 16
"""Numbers of streams below this are ``Stream``'s own."""


def named_stream(name: str) -> int:
    """A stream for a part that lives in another distribution, by a name of its own, e.g. ``"acme.shuffle"``.

    The number is a hash of the name, the same in every process and version, at least ``FIRST_NAMED`` and below 2^32,
    so it is no member of ``Stream``. Two names share one with a probability of 2^-32.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return FIRST_NAMED + int.from_bytes(digest, "big") % ((1 << 32) - FIRST_NAMED)


def _mulhilo(constant: int, x: Words) -> tuple[Words, Words]:
    # The product of two 32-bit numbers wraps in int64, but its 64 bits are right: shift and mask.
    product = x * constant
    return (product >> 32) & _LOW, product & _LOW


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of Philox 4x32.

    Args:
        counter: four tensors or arrays, int64 of 32-bit values, broadcastable against each other and the key.
        key: two such ones.
    Returns:
        Four such ones.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _mulhilo(_M0, c0)
        high1, low1 = _mulhilo(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def row_keys(seed: Tensor | int, ids: Tensor, particle: Tensor | int = 0, sweep: Tensor | int = 0) -> Tensor:
    """Keys [B, 2] of rows: a hash of (seed, sample id, particle, sweep).

    Args:
        seed: any 64-bit integer, or one for each row [B], int64.
        ids: sample ids [B], int64.
    """
    zero = torch.zeros_like(ids)
    counter = (ids & _LOW, (ids >> 32) & _LOW, zero + particle, zero + sweep)
    words = philox(counter, (zero + (seed & _LOW), zero + ((seed >> 32) & _LOW)))
    return torch.stack(words[:2], dim=-1)


def uniform(keys: Tensor, tick: Tensor | int, inner: Tensor | int, num_positions: int, stream: Stream | int) -> Tensor:
    """Uniforms in the open interval (0, 1), float64 with 52 random bits, [B, num_positions].

    An integer tensor plus a Python float is float32 in torch, so the bits are put together in float64: with
    24 of them rare tokens of a large vocabulary would be lost, and one draw in 2^25 would be 1.

    Args:
        keys: row keys [B, 2].
        tick: logical step of each row, [B] or a number. It never counts network calls.
        inner: step inside the tick, [B] or a number.
        stream: what the draw is for: one of ``Stream``, or a ``named_stream``.
    """
    zero = torch.zeros_like(keys[:, :1])

    def column(value: Tensor | int) -> Tensor:
        return value[:, None] + zero if isinstance(value, Tensor) else zero + value

    if keys.is_cuda and makes_kernels():
        from components.diffusion import kernels

        return kernels.uniforms(keys, column(tick), column(inner), int(stream), num_positions)
    found: Tensor = uniforms(keys, column(tick), column(inner), int(stream), num_positions)
    return found


@library.custom_op("proseco::uniforms", mutates_args=())
def uniforms(keys: Tensor, tick: Tensor, inner: Tensor, stream: int, num_positions: int) -> Tensor:
    """See ``uniform``; ticks and inner steps are columns [B, 1]."""
    position = torch.arange(num_positions, device=keys.device)[None, :]
    columns = (tick, inner, torch.full_like(tick, stream), keys[:, :1], keys[:, 1:])
    if keys.is_cuda:
        high, low = drawn(position, *columns)
        return (high.double() * 67108864 + low + 0.5) / 4503599627370496.0
    upper, lower = drawn(position.numpy(), *(x.numpy() for x in columns))
    return torch.from_numpy((upper.astype(numpy.float64) * 67108864 + lower + 0.5) / 4503599627370496.0)


@uniforms.register_fake
def _(keys: Tensor, tick: Tensor, inner: Tensor, stream: int, num_positions: int) -> Tensor:
    return keys.new_empty(len(keys), num_positions, dtype=torch.float64)


def drawn(position: Words, tick: Words, inner: Words, stream: Words, key0: Words, key1: Words) -> tuple[Words, Words]:
    """The upper 26 bits of the first two words."""
    first, second, *_ = philox((position, tick, inner, stream), (key0, key1))
    return first >> 6, second >> 6


def normal(keys: Tensor, tick: Tensor | int, num_positions: int, stream: Stream | int) -> Tensor:
    """Standard normals, float64 [B, num_positions], by the inverse distribution function."""
    return torch.special.ndtri(uniform(keys, tick, 0, num_positions, stream))

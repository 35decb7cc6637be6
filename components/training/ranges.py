"""Ranges of flattened parameters in safetensors files: written in one pass, read by the bytes that are needed.

A file holds float32 tensors of one dimension. Each is named ``kind/parameter@start`` and has the elements of a
flattened parameter from ``start`` on. It is digested in chunks, and the header's metadata have the digests; whoever
knows the digest of the header can so tell of every chunk whether its bytes are those that were written, and need not
read another one. Nothing is memory-mapped, so what is read is what is asked for, from any file system.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.models.weights import require_short_header
from components.outside import from_json
from components.store.files import publish_bytes, read_part, size_of

MAX_CHUNK = 1 << 20
"""Elements that are digested together, at most."""
MIN_CHUNK = 1 << 12
CHUNKS = 16
"""A range has so many chunks if these limits allow it: who needs half of it reads at most a sixteenth too much."""
HEX = 32
"""Digits of a chunk's digest: the first of its SHA-256."""
KEY = re.compile(r"([a-z_]+)/(.+)@(\d{1,18})")
BYTES = 4


@dataclass(frozen=True)
class Range:
    """Elements of a flattened parameter in a file."""

    kind: str
    name: str
    start: int
    numel: int
    file: Path
    place: int
    """Byte of the file at which it begins."""
    chunk: int
    """Elements that are digested together."""
    digests: str


def key_of(kind: str, name: str, start: int) -> str:
    """The name of a range in its file."""
    return f"{kind}/{name}@{start}"


def write_ranges(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Publish float32 tensors [numel] of the host's memory, none of them empty, by the names of ``key_of``.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    entries: dict[str, Any] = {}
    digests, place = {}, 0
    for key, tensor in tensors.items():
        size = tensor.numel() * BYTES
        entries[key] = {"dtype": "F32", "shape": [tensor.numel()], "data_offsets": [place, place + size]}
        place += size
        chunk = min(MAX_CHUNK, max(MIN_CHUNK, -(-tensor.numel() // CHUNKS)))
        digests[key] = f"{chunk}:{''.join(digest_of(raw_of(part)) for part in tensor.split(chunk))}"
    header = json.dumps({"__metadata__": digests, **entries}).encode()
    header += b" " * (-len(header) % 8)
    publish_bytes(path, len(header).to_bytes(8, "little"), header, *map(raw_of, tensors.values()))


def raw_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, without a copy."""
    return tensor.numpy().data.cast("B")


def digest_of(raw: bytes | memoryview) -> str:
    """What the bytes of a chunk are known by."""
    return hashlib.sha256(raw).hexdigest()[:HEX]


def header_of(file: Path) -> bytes:
    """The header of a safetensors file. Raises OSError or ValueError."""
    start = read_part(file, 0, 8)
    require_short_header(start)
    return read_part(file, 8, 8 + int.from_bytes(start, "little"))


def header_digest(file: Path) -> str:
    """What a file is known by: its header has the digests of all that it holds. Raises OSError or ValueError."""
    return hashlib.sha256(header_of(file)).hexdigest()


def read_header(file: Path, digest: str) -> Iterator[Range]:
    """The ranges in a file, of which the header is read and nothing else.

    Raises:
        OSError, ValueError: it is missing, cut off, or its header is another one or none.
    """
    header = header_of(file)
    if hashlib.sha256(header).hexdigest() != digest:
        raise ValueError("its header is not the one that was written")
    begin = 8 + len(header)
    room = size_of(file) - begin
    entries = from_json(header)
    metadata = entries.pop("__metadata__") if isinstance(entries, dict) and "__metadata__" in entries else None
    if not isinstance(metadata, dict):
        raise ValueError("its header has no digests")
    for key, entry in entries.items():
        yield range_of(key, entry, metadata.get(key), file, begin, room)


def range_of(key: str, entry: Any, told: Any, file: Path, begin: int, room: int) -> Range:
    """One entry of a header. Raises ValueError where it is none of ours."""
    named = KEY.fullmatch(key)
    match entry:
        case {"dtype": "F32", "shape": [int(numel)], "data_offsets": [int(first), int(last)]} if (
            named is not None and 0 <= first < last <= room and last - first == numel * BYTES
        ):
            pass
        case _:
            raise ValueError(f"{key[:80]!r} is no range of float32 elements in it, or it was cut off")
    chunk, _, digests = str(told).partition(":")
    if not re.fullmatch(r"[1-9]\d{0,8}", chunk) or len(digests) != HEX * -(-numel // int(chunk)):
        raise ValueError(f"the digests of {key[:80]!r} are missing")
    return Range(named[1], named[2], int(named[3]), numel, file, begin + first, int(chunk), digests)


def read_range(stored: Range, start: int, out: Tensor) -> None:
    """Put elements of a flattened parameter from ``start`` on, as far as they are in a range, where they belong in ``out``.

    Reads the chunks in which they lie.

    Args:
        out: [numel], any float type, any device.
    Raises:
        OSError, ValueError: the file is cut off, or a chunk's bytes are not those that were written.
    """
    first, last = max(start, stored.start), min(start + out.numel(), stored.start + stored.numel)
    if first >= last:
        return
    for number in range((first - stored.start) // stored.chunk, -(-(last - stored.start) // stored.chunk)):
        begin = number * stored.chunk
        end = min(begin + stored.chunk, stored.numel)
        raw = read_part(stored.file, stored.place + begin * BYTES, stored.place + end * BYTES)
        if digest_of(raw) != stored.digests[number * HEX : (number + 1) * HEX]:
            raise ValueError(f"bytes of {stored.kind}/{stored.name} are not those that were written")
        values = torch.frombuffer(bytearray(raw), dtype=torch.float32)
        low, high = max(first, stored.start + begin), min(last, stored.start + end)
        out[low - start : high - start].copy_(values[low - stored.start - begin : high - stored.start - begin])

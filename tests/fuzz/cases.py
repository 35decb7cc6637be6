"""What comes from outside, and how it may be wrong: values, JSON, bytes and tensors that were right and were changed."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

JUNK = [
    None, True, False, 0, -1, 1, 3.5, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "../x", "/dev/zero", "a\0b", "x" * 300,
    "${name}", "${oc.env:HOME}", "???", [], [1], {}, {"name": None}, {"x": {"y": [1]}}, 2**31, 2**40, 2**63, -(2**63), 10**30,
    int("9" * 4000), [[[[[]]]]], [None], ["a", 1, None], "nan", "1e9",
]  # fmt: skip


def deep(levels: int) -> Any:
    """Lists inside one another."""
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def junk() -> st.SearchStrategy[Any]:
    """A value that is hardly ever meant."""
    plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12))
    nested = st.recursive(plain, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=6), x, max_size=3), max_leaves=6)
    return st.one_of(st.sampled_from(JUNK), nested, st.integers(20, 200).map(deep))


def places(plain: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in nested ones."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from places(value, (*place, key))


@st.composite
def changed(draw: st.DrawFn, plain: Any) -> Any:
    """Plain values of which a few were changed, dropped, renamed or added to."""
    found = copy.deepcopy(plain)
    for _ in range(draw(st.integers(0, 3))):
        everywhere = list(places(found))
        if not everywhere:
            break
        *above, last = draw(st.sampled_from(everywhere))
        holder = found
        for key in above:
            holder = holder[key]
        what = draw(st.sampled_from(["set", "set", "set", "drop", "add"]))
        if what == "set":
            holder[last] = copy.deepcopy(draw(junk()))
        elif what == "drop":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=6) | st.sampled_from(list(holder) or ["x"]))] = copy.deepcopy(draw(junk()))
    return found


def as_json(plain: Any) -> bytes:
    return json.dumps(plain).encode()


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes of which some were flipped, cut off, left out, doubled or put in."""
    found = bytearray(raw)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        size = draw(st.integers(1, 64))
        what = draw(st.sampled_from(["flip", "flip", "flip", "cut", "leave out", "double", "put in"]))
        if what == "flip" and found:
            found[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del found[place:]
        elif what == "leave out":
            del found[place : place + size]
        elif what == "double":
            found[place:place] = found[place : place + size]
        else:
            found[place:place] = draw(st.binary(max_size=64))
    return bytes(found)


def json_bytes(plain: Any) -> st.SearchStrategy[bytes]:
    """A JSON file of which values or bytes were changed."""
    return st.one_of(changed(plain).map(as_json), changed(plain).map(as_json), damaged(as_json(plain)), st.binary(max_size=64))


@st.composite
def safetensors(draw: st.DrawFn, raw: bytes) -> bytes:
    """A file of tensors with another header, or other bytes."""
    if draw(st.booleans()):
        return draw(damaged(raw))
    (size,) = struct.unpack("<Q", raw[:8])
    header = as_json(draw(changed(json.loads(raw[8 : 8 + size]))))
    told = draw(st.sampled_from([len(header), len(header), len(header), 0, 2**20, 2**40, 2**63]))
    return struct.pack("<Q", told) + header + raw[8 + size :]

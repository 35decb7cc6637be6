"""Sample trajectories as pictures: tokens appear, and are corrected.

A frame is the canvas after a call that changed it. Short rows of single characters are drawn as cells, in
a square where their length is one; other rows as running text with the call's own tokens marked.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CELLS = 100
"""Longer rows are drawn as running text instead of as cells."""

REASONS = (("reveal", "fill", "choose"), ("replace",), ("remask",))
"""Why tokens change (``components.samplers.contract.Edit``), by how they are drawn."""


@dataclass(frozen=True)
class Frame:
    """The canvas after a call, and what that call did."""

    call: int
    tokens: tuple[int, ...]
    revealed: frozenset[int]
    replaced: frozenset[int]
    remasked: frozenset[int]


def frames(final: Sequence[int], trace: Sequence[Mapping[str, Any]]) -> list[Frame]:
    """Replay a trace from the canvas as it was given. The last frame equals ``final``."""
    tokens = [*final]
    for e in reversed(trace):
        tokens[e["position"]] = e["old"]
    found = [Frame(0, tuple(tokens), frozenset(), frozenset(), frozenset())]
    for call in sorted({e["call"] for e in trace}):
        edits = [e for e in trace if e["call"] == call]
        for e in edits:
            tokens[e["position"]] = e["new"]
        did = [frozenset(e["position"] for e in edits if e["reason"] in reasons) for reasons in REASONS]
        found.append(Frame(call, tuple(tokens), *did))
    return found


def without_padding(found: list[Frame], pad: int) -> list[Frame]:
    """The same without what is padding at the end of the last frame; all of it where there is nothing else."""
    final = found[-1].tokens
    kept = max((place + 1 for place, token in enumerate(final) if token != pad), default=len(final))
    places = frozenset(range(kept))
    return [Frame(f.call, f.tokens[:kept], f.revealed & places, f.replaced & places, f.remasked & places) for f in found]


def draw(found: list[Frame], show: Callable[[int], str], num_prompt: int) -> str:
    """Frames side by side."""
    length = len(found[0].tokens)
    if length > MAX_CELLS or any(len(show(t)) > 1 for t in found[-1].tokens):
        chosen = found if len(found) <= 6 else [found[round(i * (len(found) - 1) / 5)] for i in range(6)]
        return "".join(running(f, show) for f in chosen)
    side = math.isqrt(length)
    columns = side if side * side == length else min(length, 32)
    return f'<div class="frames">{"".join(grid(f, show, columns, num_prompt) for f in found)}</div>'


def grid(frame: Frame, show: Callable[[int], str], columns: int, num_prompt: int) -> str:
    cells = "".join(
        f'<b class="{kind(frame, i, num_prompt)}">{html.escape(show(t))}</b>' for i, t in enumerate(frame.tokens)
    )
    title = "start" if frame.call == 0 else f"call {frame.call}"
    return (
        f'<div class="frame"><small>{title}</small><div class="cells" style="--columns:{columns}">{cells}</div></div>'
    )


def running(frame: Frame, show: Callable[[int], str]) -> str:
    parts = "".join(
        f'<b class="{kind(frame, i, 0)}">{html.escape(show(t))}</b>'
        if i in frame.revealed | frame.replaced | frame.remasked
        else html.escape(show(t))
        for i, t in enumerate(frame.tokens)
    )
    title = "start" if frame.call == 0 else f"call {frame.call}"
    return f'<div class="running"><small>{title}</small><pre>{parts}</pre></div>'


def kind(frame: Frame, position: int, num_prompt: int) -> str:
    if position in frame.replaced:
        return "replaced"
    if position in frame.revealed:
        return "revealed"
    if position in frame.remasked:
        return "remasked"
    return "prompt" if position < num_prompt else ""

"""From a query to an answer: the network is run on what a sampler asks about.

Inputs beyond one a row (guidance, leave-one-out) are split over several forwards, and a row's answers are put
together again. With ``Batching.deterministic`` every forward is of as many inputs as there are lanes, so that the shape
of each matrix product is the same in every step: the last bits of a row's logits then do not depend on its company.
(The head is computed at wanted positions alone, by the network, in products of one shape as well.) Without it only
live inputs are computed.

The host must know how many inputs and positions a query really asks about, and waits for the device to learn it:
once, in ``measure``. ``answer`` waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from components.models.denoiser import Denoiser, Prediction
from components.samplers.contract import Answer, Query


@dataclass(frozen=True)
class Batching:
    """How inputs are put into forwards."""

    num_lanes: int
    """Inputs of one forward."""
    deterministic: bool = True
    """Forwards of one shape; else all live inputs are in one forward of their own number."""
    always: bool = False
    """With as many inputs as lanes, run the network on all of them in any case, even if none is live."""


@dataclass(frozen=True)
class Extent:
    """What a query really asks about, in numbers that the host knows."""

    active: list[bool]
    """[Q]: is the input live?"""
    wanted: list[int]
    """[Q]: positions wanted of each input."""
    drawn: list[int]
    """[Q]: positions of them at which tokens are drawn."""


def measure(query: Query) -> Extent:
    """The extent of a query. The host waits for the device, once."""
    counts = torch.stack([query.active.long(), query.wanted.sum(-1), (query.drawn & query.wanted).sum(-1)]).tolist()
    active, wanted, drawn = counts
    return Extent([bool(a) for a in active], wanted, drawn)


def answer(
    denoiser: Denoiser,
    query: Query,
    extent: Extent,
    batching: Batching,
    labels: Float32[Tensor, "R"] | None = None,
    num_classes: int = 0,
) -> Answer:
    """The answer to a query, without rewards.

    Args:
        labels: class or value of each row of the state, NaN for none.
        num_classes: V, for a query that needs no forward; 0 finds it out by one that is counted for no row.
    """
    num_inputs, length = query.tokens.shape
    num_wanted, device = sum(extent.wanted), query.tokens.device
    select = torch.nonzero_static(query.wanted.flatten(), size=num_wanted)[:, 0]
    draw = torch.nonzero_static(query.drawn.flatten()[select], size=sum(extent.drawn))[:, 0]
    whole = batching.deterministic and num_inputs == batching.num_lanes and (num_wanted > 0 or batching.always)
    live = torch.arange(num_inputs, device=device)
    wanted = extent.wanted
    if not whole:
        live = torch.nonzero_static(query.active, size=sum(extent.active))[:, 0]
        wanted = [count for count, active in zip(extent.wanted, extent.active, strict=True) if active]
    number = torch.zeros_like(query.row).index_copy(0, live, torch.arange(len(live), device=device))
    at = number[select // length] * length + select % length
    logits, heads = [], []
    for prediction, size in forwards(denoiser, query, live, at, wanted, batching, labels):
        logits.append(prediction.logits)
        heads.append({name: prediction.heads[name][:size] for name in query.heads})
    if not logits:
        num_classes = num_classes or run(denoiser, query, live.new_zeros(1), None, labels).logits.shape[-1]
        logits.append(torch.zeros(0, num_classes, device=device))
    joined = logits[0] if len(logits) == 1 else torch.cat(logits)
    spread = {n: torch.zeros(query.tokens.shape, dtype=torch.float64, device=device) for n in query.heads}
    if heads:
        spread = {n: v.index_copy(0, live, torch.cat([h[n] for h in heads]).double()) for n, v in spread.items()}
    return Answer(select, joined if joined.dtype == torch.float64 else joined.float(), draw, spread)


def forwards(
    denoiser: Denoiser,
    query: Query,
    live: Int[Tensor, "M"],
    at: Int[Tensor, "N"],
    wanted: list[int],
    batching: Batching,
    labels: Float32[Tensor, "R"] | None,
) -> Iterator[tuple[Prediction, int]]:
    """(a prediction whose logits are those of wanted positions, number of its live inputs), forward by forward.

    Args:
        live: inputs to run the network on.
        at: wanted positions, flat in the live inputs, ascending.
        wanted: how many of them each live input has.
    """
    length = query.tokens.shape[1]
    before = [0, *accumulate(wanted)]
    size = batching.num_lanes if batching.deterministic else max(1, len(live))
    for start in range(0, len(live), size):
        chunk = live[start : start + size]
        inside = at[before[start] : before[start + len(chunk)]] - start * length
        padded = torch.cat([chunk, chunk[-1:].expand(size - len(chunk))])
        yield run(denoiser, query, padded, inside, labels), len(chunk)


def run(
    denoiser: Denoiser, query: Query, inputs: Int[Tensor, "B"], select: Tensor | None, labels: Float32[Tensor, "R"] | None
) -> Prediction:
    """One forward of the given inputs."""
    given: dict[str, object] = {}
    if query.soft is not None:
        given["soft"] = (query.soft[0][inputs], query.soft[1][inputs])
    if query.dense is not None:
        given["dense"] = query.dense[inputs]
    if query.heads:
        given["heads"] = query.heads
    label = None
    if labels is not None:
        label = labels[query.row[inputs]]
        if query.unlabelled is not None:
            label = label.masked_fill(query.unlabelled[inputs], torch.nan)
    return denoiser(
        query.tokens[inputs],
        select=select,
        label=label,
        time=query.time[inputs],
        **given,  # type: ignore[arg-type]
    )

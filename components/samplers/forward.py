"""From a query to an answer: the network is run on what a sampler asks about.

Inputs beyond one a row (guidance, leave-one-out) are split over several forwards, and a row's answers are put
together again. With ``Batching.deterministic`` every forward is of as many inputs as there are lanes, so that the shape
of each matrix product is the same in every step: the last bits of a row's logits then do not depend on its company.
(The head is computed at wanted positions alone, by the network, in products of one shape as well.) Fewer inputs are
computed where that was seen to change no bit (see ``components.samplers.sizes``). Without it only live inputs are computed.

A query with a window has two kinds of forwards: of whole rows, whose keys and values are kept, and of parts of rows. Each
has a shape of its own.

The host must know how many inputs and positions a query really asks about, and waits for the device to learn it:
once, in ``measure``. ``answer`` waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from components.models.denoiser import Denoiser, Past, Prediction
from components.samplers.contract import Answer, Query
from components.samplers.sizes import Sizes, places_of, same


@dataclass(frozen=True)
class Batching:
    """How inputs are put into forwards."""

    num_lanes: int
    """Inputs of one forward."""
    deterministic: bool = True
    """Forwards of one shape, or of those that have its bits; else all live inputs are in one forward of their own number."""
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
    narrow: list[bool]
    """[Q]: is it live, and a part of it enough?"""


def measure(query: Query) -> Extent:
    """The extent of a query. The host waits for the device, once."""
    narrow = torch.zeros_like(query.active) if query.window is None else query.window.narrow & query.active
    counts = torch.stack(
        [query.active.long(), query.wanted.sum(-1), (query.drawn & query.wanted).sum(-1), narrow.long()]
    ).tolist()
    active, wanted, drawn, narrowed = counts
    return Extent([bool(a) for a in active], wanted, drawn, [bool(n) for n in narrowed])


class Cache:
    """Keys and values of rows, for forwards of a part of them."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        """[depth, 1 + R, 2, H, L, D/H], from the first time that any are kept; the first is nobody's."""

    def keep(self, query: Query, inputs: Int[Tensor, "B"], new: Tensor) -> None:
        """Replace those of the rows of some inputs by ``new`` [depth, B, 2, H, L, D/H], where they are to be kept."""
        assert query.window is not None
        kept = new[:, :0] if self.kept is None else self.kept
        if (more := 1 + len(query.row) - kept.shape[1]) > 0:  # a session's rows become more
            depth, _, *shape = new.shape
            kept = torch.cat([kept, new.new_zeros(depth, more, *shape)], dim=1)
        self.kept = kept.index_copy_(1, torch.where(query.window.kept, query.row + 1, 0)[inputs], new)

    def past(self, query: Query, inputs: Int[Tensor, "B"]) -> Past:
        """What is known of the rows of inputs that ask about a part."""
        assert self.kept is not None, "a part of a row is enough, and nothing was kept of it"
        assert query.window is not None
        return Past(self.kept, query.row[inputs] + 1, query.window.start[inputs])


REFRESHED = 8
"""One in so many lanes is in a forward of whole rows where most forwards are of blocks alone: few rows at a time begin one."""


@dataclass(frozen=True)
class Kind:
    """Forwards of one shape, and whom they are of."""

    live: Int[Tensor, "M"]
    """Inputs to run the network on."""
    at: Int[Tensor, "N"]
    """Wanted positions, flat in what is computed of them, ascending."""
    wanted: list[int]
    """How many of them each has."""
    span: int
    """Positions that are computed of an input."""
    lanes: int
    """Inputs of one forward."""
    chosen: Int[Tensor, "N"]
    """Which of all wanted positions these are."""


def answer(
    denoiser: Denoiser,
    query: Query,
    extent: Extent,
    batching: Batching,
    labels: Float32[Tensor, "R"] | None = None,
    num_classes: int = 0,
    cache: Cache | None = None,
    sizes: Sizes | None = None,
) -> Answer:
    """The answer to a query, without rewards.

    Args:
        labels: class or value of each row of the state, NaN for none.
        num_classes: V, for a query that needs no forward; 0 finds it out by one that is counted for no row.
        cache: of the rows of the state, for a query with a window.
        sizes: of smaller forwards that may be made; without it, and on a GPU, all are full ones.
    """
    num_wanted, device = sum(extent.wanted), query.tokens.device
    select = torch.nonzero_static(query.wanted.flatten(), size=num_wanted)[:, 0]
    draw = torch.nonzero_static(query.drawn.flatten()[select], size=sum(extent.drawn))[:, 0]
    if query.tokens.is_cuda:
        sizes = None  # a GPU's kernels are chosen by the number of rows
    whole = sizes is None or 2 * sum(extent.active) > batching.num_lanes
    kinds = (
        [everything(query, extent, select, batching, whole)] if query.window is None else by_part(query, extent, select, batching)
    )
    parts: list[tuple[Tensor, Tensor]] = []
    spread = {n: torch.zeros(query.tokens.shape, dtype=torch.float64, device=device) for n in query.heads}
    for kind in kinds:
        logits = []
        asker = Asker(denoiser, query, labels, None if kind.span == query.tokens.shape[1] else cache)
        for inputs, inside, size in forwards(kind, asker, sizes):
            prediction = asker.run(inputs, inside)
            logits.append(prediction.logits)
            spread = {n: v.index_copy(0, inputs[:size], prediction.heads[n][:size].double()) for n, v in spread.items()}
            if cache is not None and prediction.kept is not None:
                cache.keep(query, inputs[:size], prediction.kept[:, :size])
        if logits:
            parts.append((kind.chosen, logits[0] if len(logits) == 1 else torch.cat(logits)))
    if not parts:
        num_classes = num_classes or Asker(denoiser, query, labels).run(select.new_zeros(1), None).logits.shape[-1]
        parts.append((select, torch.zeros(0, num_classes, device=device)))
    joined = parts[0][1]
    if len(parts) > 1:
        joined = joined.new_empty(num_wanted, joined.shape[-1])
        for chosen, logits_of in parts:
            joined.index_copy_(0, chosen, logits_of)
    return Answer(select, joined if joined.dtype == torch.float64 else joined.float(), draw, spread)


def everything(query: Query, extent: Extent, select: Int[Tensor, "N"], batching: Batching, whole: bool) -> Kind:
    """Whole inputs: all lanes where ``whole`` ones are wanted and that keeps the shape and saves a copy, else those that are live."""
    num_inputs, length = query.tokens.shape
    whole = whole and batching.deterministic and num_inputs == batching.num_lanes and (len(select) > 0 or batching.always)
    live, wanted = torch.arange(num_inputs, device=select.device), extent.wanted
    if not whole:
        live = torch.nonzero_static(query.active, size=sum(extent.active))[:, 0]
        wanted = [count for count, active in zip(extent.wanted, extent.active, strict=True) if active]
    lanes = batching.num_lanes if batching.deterministic else max(1, len(live))
    at = numbered(query, live)[select // length] * length + select % length
    return Kind(live, at, wanted, length, lanes, torch.arange(len(select), device=select.device))


def by_part(query: Query, extent: Extent, select: Int[Tensor, "N"], batching: Batching) -> list[Kind]:
    """Inputs that are computed whole, and those of which a part is enough."""
    length, window = query.tokens.shape[1], query.window
    assert window is not None
    kinds = []
    for narrow, span in ((False, length), (True, window.size)):
        mine = [a and n == narrow for a, n in zip(extent.active, extent.narrow, strict=True)]
        wanted = [count for count, m in zip(extent.wanted, mine, strict=True) if m]
        live = torch.nonzero_static(query.active & (window.narrow == narrow), size=sum(mine))[:, 0]
        inputs = select // length
        chosen = torch.nonzero_static(window.narrow[inputs] == narrow, size=sum(wanted))[:, 0]
        inputs, place = inputs[chosen], select[chosen] % length
        before = window.start[inputs] if narrow else 0
        lanes = batching.num_lanes if narrow else max(1, batching.num_lanes // REFRESHED)
        lanes = lanes if batching.deterministic else max(1, len(live))
        kinds.append(Kind(live, numbered(query, live)[inputs] * span + place - before, wanted, span, lanes, chosen))
    return kinds


def numbered(query: Query, live: Int[Tensor, "M"]) -> Int[Tensor, "Q"]:
    """The place of each input among the live ones."""
    return torch.zeros_like(query.row).index_copy(0, live, torch.arange(len(live), device=live.device))


def forwards(
    kind: Kind, asker: Asker, sizes: Sizes | None
) -> Iterator[tuple[Int[Tensor, "B"], Int[Tensor, "W"], int]]:
    """(inputs, wanted positions flat in what is computed of them, number of live inputs), forward by forward."""
    before = [0, *accumulate(kind.wanted)]
    for start in range(0, len(kind.live), kind.lanes):
        chunk = kind.live[start : start + kind.lanes]
        inside = kind.at[before[start] : before[start + len(chunk)]] - start * kind.span
        size = kind.lanes
        if sizes is not None and 2 * len(chunk) <= size:
            size = sizes.of((kind.span, asker.asked), len(chunk), size, partial(asker.alike, chunk, kind))
        yield filled(chunk, size), inside, len(chunk)


def filled(inputs: Int[Tensor, "B"], size: int) -> Int[Tensor, "N"]:
    """So many inputs: the last is there again and again."""
    return torch.cat([inputs, inputs[-1:].expand(size - len(inputs))])


@dataclass(frozen=True)
class Asker:
    """Asks the network about inputs of a query: about a part of each where there is a cache of the rest."""

    denoiser: Denoiser
    query: Query
    labels: Float32[Tensor, "R"] | None
    cache: Cache | None = None

    @property
    def asked(self) -> tuple[object, ...]:
        """What kernels depend on besides the number of inputs: lengths of rows, and what is computed besides the logits of tokens."""
        query = self.query
        mixed = 0 if query.soft is None else query.soft[0].shape[-1]
        windows = query.window is not None, self.cache is not None
        return query.tokens.shape[1], mixed, query.dense is not None, query.heads, self.labels is not None, *windows

    def run(self, inputs: Int[Tensor, "B"], select: Tensor | None) -> Prediction:
        """One forward of the given inputs."""
        query, given = self.query, dict[str, object]()
        tokens = query.tokens[inputs]
        if self.cache is not None and query.window is not None:
            given["past"] = past = self.cache.past(query, inputs)
            tokens = tokens.gather(1, past.at(query.window.size))
        elif query.window is not None:
            given["keep"] = True
        if query.soft is not None:
            given["soft"] = (query.soft[0][inputs], query.soft[1][inputs])
        if query.dense is not None:
            given["dense"] = query.dense[inputs]
        if query.heads:
            given["heads"] = query.heads
        label = None
        if self.labels is not None:
            label = self.labels[query.row[inputs]]
            if query.unlabelled is not None:
                label = label.masked_fill(query.unlabelled[inputs], torch.nan)
        return self.denoiser(
            tokens,
            select=select,
            label=label,
            time=query.time[inputs],
            **given,  # type: ignore[arg-type]
        )

    def alike(self, live: Int[Tensor, "M"], kind: Kind, size: int) -> bool:
        """Has the first of some inputs the bits of a full forward in one of ``size``, in another place and company?"""
        places = places_of(kind.span, live.device)
        full = self.run(filled(live[:size], kind.lanes), places)
        few = self.run(filled(live[:size], size).flip(0), (size - 1) * kind.span + places)
        return same(said_of(full, 0), said_of(few, size - 1))


def said_of(prediction: Prediction, place: int) -> dict[str, Tensor]:
    """All that was said of one input, whose logits alone were asked for."""
    kept = {} if prediction.kept is None else {"kept": prediction.kept[:, place]}
    return {"logits": prediction.logits} | kept | {name: value[place] for name, value in prediction.heads.items()}

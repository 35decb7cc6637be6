"""Queries of several samplers put to one network at once, and the answer taken apart again.

Whoever reads rows in the same way can share a forward: the sampler, its budget and its phase do not matter to the
network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch

from components.samplers.contract import Answer, Query
from components.samplers.forward import Batching, Extent


@dataclass(frozen=True)
class Manner:
    """How a query is put to a network. Queries of one manner can be joined."""

    length: int
    batching: Batching
    num_mixed: int
    """K of mixtures, 0 without."""
    dense: bool
    heads: tuple[str, ...]


def manner(query: Query, batching: Batching) -> Manner:
    num_mixed = 0 if query.soft is None else query.soft[0].shape[-1]
    return Manner(query.tokens.shape[1], batching, num_mixed, query.dense is not None, query.heads)


def joined(queries: Sequence[Query], num_rows: Sequence[int]) -> Query:
    """One query with the inputs of all, which are of one manner, about rows that are numbered through. What only their
    own sampler is told, such as rewards, is left out.

    Args:
        num_rows: rows of the state of each.
    """
    first = queries[0]
    before = accumulate(num_rows, initial=0)
    unlabelled = None
    if any(q.unlabelled is not None for q in queries):
        hidden = [torch.zeros_like(q.active) if q.unlabelled is None else q.unlabelled for q in queries]
        unlabelled = torch.cat(hidden)
    soft, dense = first.soft, first.dense
    if soft is not None:
        ids, weights = zip(*(q.soft for q in queries if q.soft is not None), strict=True)
        soft = torch.cat(ids), torch.cat(weights)
    if dense is not None:
        dense = torch.cat([q.dense for q in queries if q.dense is not None])
    return Query(
        row=torch.cat([q.row + offset for q, offset in zip(queries, before, strict=False)]),
        active=torch.cat([q.active for q in queries]),
        tokens=torch.cat([q.tokens for q in queries]),
        time=torch.cat([q.time for q in queries]),
        wanted=torch.cat([q.wanted for q in queries]),
        drawn=torch.cat([q.drawn for q in queries]),
        unlabelled=unlabelled,
        soft=soft,
        dense=dense,
        heads=first.heads,
    )


def parted(said: Answer, extent: Extent, queries: Sequence[Query]) -> Iterator[Answer]:
    """The answer of each of the queries that were joined."""
    num_inputs = [len(q.row) for q in queries]
    length = queries[0].tokens.shape[1]
    at = list(accumulate(num_inputs, initial=0))
    wanted, drawn = ([sum(counts[a:b]) for a, b in pairwise(at)] for counts in (extent.wanted, extent.drawn))
    first_wanted, first_drawn = (list(accumulate(counts, initial=0)) for counts in (wanted, drawn))
    for number, count in enumerate(num_inputs):
        a, b = first_wanted[number], first_drawn[number]
        here = slice(a, a + wanted[number])
        yield replace(
            said,
            select=said.select[here] - at[number] * length,
            logits=said.logits[here],
            draw=said.draw[b : b + drawn[number]] - a,
            heads={name: head[at[number] : at[number] + count] for name, head in said.heads.items()},
        )

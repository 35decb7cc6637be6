"""The state of sampled rows, the fields that parts keep in it, and the one function that writes a canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.errors import SamplingError


class Field(NamedTuple):
    """A tensor with R rows that a part keeps in the state, and what becomes of it."""

    value: Tensor
    reset: float | None = None
    """For fields [R, L, ...]: the value where a token is masked again; None where its owner sees to that."""
    follows: bool = True
    """It belongs to the chain, and follows it to another slot of a search; else it belongs to the slot and stays."""
    recorded: bool = True
    """It is part of a chain's trajectory, which particle Gibbs stores and replays."""


SLOT = {"follows": False, "recorded": False}
FIXED = {"recorded": False}


@dataclass(frozen=True)
class State:
    """R rows of L positions, each at a point of its own in its own trajectory."""

    tokens: Int[Tensor, "R L"]
    """The canvas."""
    fixed: Bool[Tensor, "R L"] = field(metadata=FIXED)
    """Prompts and templates. The mask id never marks them."""
    ids: Int[Tensor, "R"] = field(metadata=SLOT)
    """Sample ids."""
    keys: Int[Tensor, "R 2"] = field(metadata=SLOT)
    """Random keys."""
    tick: Int[Tensor, "R"]
    """Logical step, 1..T; T + 1 is the last fill. It never counts calls."""
    inner: Int[Tensor, "R"]
    """0 before the predictor pass of the tick, j before its j-th corrector pass."""
    active: Bool[Tensor, "R"] = field(metadata=FIXED)
    """The row is not finished."""
    draft: Int[Tensor, "R L"]
    """What the corrector is looking at."""
    confidence: Float[Tensor, "R L"] = field(metadata={"reset": 0.0})
    """Probability of each visible token when it was written; 1 where fixed. That of one that replaced another may be NaN, as in
    ``Record``."""
    edits: Int[Tensor, "R"]
    """Visible tokens replaced or masked again so far."""
    fields: Mapping[str, Field]
    """What parts registered at the start; ``state[name]`` is the tensor."""

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name].value

    def registered(self, fields: Mapping[str, Field]) -> State:
        """The same with more fields. Raises SamplingError where one has the name of another."""
        if taken := sorted(set(fields) & set(self.declared())):
            raise SamplingError(f"Two parts of a sampler keep a field named {taken[0]!r}. Rename one of the two.")
        return dataclasses.replace(self, fields={**self.fields, **fields})

    def declared(self) -> dict[str, Field]:
        """All fields by name, the state's own among them."""
        own = {f.name: Field(getattr(self, f.name), **f.metadata) for f in dataclasses.fields(self)[:-1]}
        return own | dict(self.fields)

    def tensors(self) -> dict[str, Tensor]:
        """The values of all fields by name."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:-1]}
        return own | {name: field.value for name, field in self.fields.items()}

    def having(self, values: Mapping[str, Tensor]) -> State:
        """The same with other values of some fields, by name."""
        own = {name: value for name, value in values.items() if name not in self.fields}
        fields = {n: f._replace(value=values[n]) if n in values else f for n, f in self.fields.items()}
        return dataclasses.replace(self, fields=fields, **own)

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same with every tensor changed, for selecting and moving rows."""
        return self.having({name: change(value) for name, value in self.tensors().items()})

    def loaded(self, lanes: Int[Tensor, "N"], rows: State) -> State:
        """The same with the N ``rows`` in the given lanes."""
        new = rows.tensors()
        return self.having({name: old.index_copy(0, lanes, new[name]) for name, old in self.tensors().items()})

    def followed_by(self, rows: State) -> State:
        """The same with further rows behind its own."""
        new = rows.tensors()
        return self.having({name: torch.cat([old, new[name]]) for name, old in self.tensors().items()})

    def where(self, chosen: Bool[Tensor, "R"], other: State) -> State:
        """This state in the chosen rows, ``other`` in the rest."""
        theirs = other.tensors()
        return self.having({name: choose_rows(chosen, mine, theirs[name]) for name, mine in self.tensors().items()})

    def reset(self, remasked: Bool[Tensor, "R L"]) -> State:
        """The same with every field at its reset value where a token was masked again."""
        values = {}
        for name, declared in self.declared().items():
            if declared.reset is not None:
                values[name] = declared.value.masked_fill(fit(remasked, declared.value), declared.reset)
        return self.having(values)

    def inherited(self, ancestors: Int[Tensor, "R"]) -> State:
        """Chains as copies of the rows ``ancestors``: what follows a chain is theirs, what belongs to a slot stays."""
        follows = {name: field.value for name, field in self.declared().items() if field.follows}
        return self.having({name: value.index_select(0, ancestors) for name, value in follows.items()})

    def num_bytes(self) -> int:
        """Memory of all fields."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())

    def recorded(self) -> dict[str, Tensor]:
        """The fields that make up a chain's trajectory, by name."""
        return {name: field.value for name, field in self.declared().items() if field.recorded}


def fit(flags: Tensor, value: Tensor) -> Tensor:
    """Flags of fewer dimensions than ``value``, with trailing ones, so that they broadcast against it."""
    return flags.view(*flags.shape, *[1] * (value.dim() - flags.dim()))


def choose_rows(chosen: Bool[Tensor, "R"], ours: Tensor, theirs: Tensor) -> Tensor:
    """Rows of ``ours`` where chosen, of ``theirs`` elsewhere."""
    return torch.where(fit(chosen, ours), ours, theirs)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one step did: input of the trace viewer, of dirty sets for caches, of policies that learn."""

    before: Int[Tensor, "R L"]
    """The canvas before the step,"""
    after: Int[Tensor, "R L"]
    """and after it."""
    confidence: Float[Tensor, "R L"]
    """Probability of the token that was written, where one was; of one that replaced another it may be NaN, where nobody follows."""
    revealed: Bool[Tensor, "R L"]
    """Where a mask became a token,"""
    replaced: Bool[Tensor, "R L"]
    """a token another one,"""
    remasked: Bool[Tensor, "R L"]
    """and a token the mask again."""
    tick: Int[Tensor, "R"]
    """Of the call that was answered,"""
    inner: Int[Tensor, "R"]
    """and its corrector pass."""
    learned: dict[str, Tensor] = field(default_factory=dict)
    """What a policy needs to learn from: confidence c, masked m, action u [R, L]; time t, logpi [R]."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A canvas after a step, and what really changed."""

    tokens: Int[Tensor, "R L"]
    revealed: Bool[Tensor, "R L"]
    replaced: Bool[Tensor, "R L"]
    remasked: Bool[Tensor, "R L"]


def write(
    state: State,
    *,
    reveal: Bool[Tensor, "R L"],
    revealed: Int[Tensor, "R L"],
    replace: Bool[Tensor, "R L"],
    replacement: Int[Tensor, "R L"],
    remask: Bool[Tensor, "R L"],
    mask_id: int,
) -> Written:
    """The only place where a canvas changes.

    The three sets are compared with the canvas as it was before the step, so a token is never revealed
    and remasked in one step.

    Args:
        reveal: where to write ``revealed``; takes effect on masks only.
        replace: where to write ``replacement``; takes effect on visible, unfixed tokens only, and not where they
            are remasked.
        remask: where to write the mask; takes effect on visible, unfixed tokens only.
    """
    masked = (state.tokens == mask_id) & ~state.fixed
    visible = ~masked & ~state.fixed
    reveal = reveal & masked
    remask = remask & visible
    replace = replace & visible & ~remask & (replacement != state.tokens)
    tokens = torch.where(reveal, revealed, torch.where(replace, replacement, state.tokens))
    return Written(tokens=tokens.masked_fill(remask, mask_id), revealed=reveal, replaced=replace, remasked=remask)

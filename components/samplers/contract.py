"""Ask, forward, tell: what passes between a sampler and whoever runs the network for it.

A sampler is a pure transition on rows. It says what the network should look at next (``Query``); the engine
runs the network and counts the cost; the sampler is told what came back (``Answer``) and moves its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.samplers.state import Record, State


@dataclass(frozen=True)
class Row:
    """A canvas to fill."""

    id: int
    canvas: tuple[int, ...]
    """Token ids; the mask where something is to be written."""
    fixed: tuple[bool, ...]
    """Positions that stay as they are."""
    label: float | None = None
    """Class, or value of a property, for networks that are conditioned on one."""
    trace: bool = False
    """Its edits are kept."""
    seed: int = 0
    """Of all its draws, together with its id; at least 0 and below 2^63."""
    corrections: bool = False
    """Those of its edits that change visible tokens are kept; cheaper, and nothing of a search."""


CHANGES = ("replace", "remask")
"""Reasons of edits that change a visible token."""


@dataclass(frozen=True)
class Edit:
    """One written token, for viewers. A row's edits, replayed on its canvas, give its tokens."""

    call: int
    tick: int
    position: int
    old: int
    new: int
    confidence: float | None
    """Probability of the token when it was written; None where ``reason`` is one of the last two."""
    reason: str
    """``reveal``, ``replace`` or ``remask``; ``fill`` for what only the end of a row wrote, and ``choose`` for all
    that the chain wrote which a search kept."""


@dataclass(frozen=True)
class Sample:
    """A finished row with its cost."""

    id: int
    tokens: tuple[int, ...]
    calls: int
    """Forwards of this row; those of all its chains where a search has several."""
    call_positions: float
    """Positions computed for it / L: less than ``calls`` where forwards compute a part of the row and take the rest from a
    cache."""
    reward_calls: int
    """Full rows that were scored for it."""
    edits: int
    """Visible tokens that were replaced or masked again."""
    trace: tuple[Edit, ...] = ()


Reward = Callable[[Tensor, list[Row]], Tensor]
"""(full rows [N, L], the row that each belongs to) -> rewards [N], larger is better."""


@dataclass(frozen=True)
class Window:
    """Inputs that a forward may compute a part of, with keys and values of the rest as they were kept."""

    start: Int[Tensor, "Q"]
    """First position of the part,"""
    size: int
    """and how many there are."""
    narrow: Bool[Tensor, "Q"]
    """Where the part is enough."""
    kept: Bool[Tensor, "Q"]
    """Of which keys and values are kept, in place of those before."""

    def computed(self, length: int) -> Int[Tensor, "Q"]:
        """Positions of each input that a call computes."""
        return torch.where(self.narrow, self.size, length)


@dataclass(frozen=True)
class Query:
    """Q network inputs: none, one or several for each of the R rows of the state.

    Inputs come in planes of R: the rows themselves, then, where a score or guidance needs them, the
    same rows seen otherwise. A row's answers arrive together.
    """

    row: Int[Tensor, "Q"]
    """The row of the state that each input belongs to."""
    active: Bool[Tensor, "Q"]
    """Inputs that are really wanted; the others are padding and cost nothing."""
    tokens: Int[Tensor, "Q L"]
    """What the network is shown."""
    time: Float[Tensor, "Q"]
    """The row's own time, for networks that read it."""
    wanted: Bool[Tensor, "Q L"]
    """Positions whose logits the sampler will read; none of inputs that are not active."""
    drawn: Bool[Tensor, "Q L"]
    """Inside ``wanted``: positions at which a token will be drawn. Elsewhere the best token is enough, so no
    distribution is made there."""
    unlabelled: Bool[Tensor, "Q"] | None = None
    """Inputs that must not see the row's class or value."""
    soft: tuple[Int[Tensor, "Q L K"], Float[Tensor, "Q L K"]] | None = None
    """(ids, weights): mixtures that the network sees instead of the tokens."""
    dense: Float[Tensor, "Q L D"] | None = None
    """Noisy embeddings that it sees instead."""
    heads: tuple[str, ...] = ()
    """Heads whose outputs are wanted."""
    rewarded: Bool[Tensor, "R P"] | None = None
    """Which of the ``candidates`` want a reward."""
    candidates: Int[Tensor, "R P L"] | None = None
    """Full rows, P for each row of the state."""
    window: Window | None = None
    """Parts of the inputs that are enough; then there is one input for each row of the state."""


@dataclass(frozen=True)
class Answer:
    """What came back, for the N wanted positions of active inputs."""

    select: Int[Tensor, "N"]
    """Flat positions, input * L + position, ascending."""
    logits: Float[Tensor, "N V"]
    """Raw; float64 where the network's are, else float32. Whoever is told may make tokens impossible in them."""
    draw: Int[Tensor, "M"]
    """Indices into ``select`` of the positions to draw at."""
    heads: dict[str, Float[Tensor, "Q L"]] = field(default_factory=dict)
    """float64. Quality is in [0, 1], larger is better."""
    rewards: Float[Tensor, "R P"] | None = None
    """float64, larger is better; 0 where none was wanted."""
    followed: bool = True
    """Somebody reads how likely tokens were that replaced others: who follows edits, or weighs chains."""


@dataclass(frozen=True)
class Samples:
    """G finished rows, one for each group of chains."""

    ids: Int[Tensor, "G"]
    tokens: Int[Tensor, "G L"]
    edits: Int[Tensor, "G"]


@dataclass(frozen=True)
class Vocabulary:
    """Ids with a meaning."""

    mask_id: int
    never: tuple[int, ...] = ()
    """Ids, besides the mask, that must not be written."""
    end_id: int | None = None
    """The token after which a row's text ends."""


@dataclass(frozen=True)
class Extras:
    """What parts need of a network besides its outputs."""

    policy: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """(confidence [R, L], masked [R, L] bool, time [R]) -> reveal logits [R, L]."""
    embedding: Float[Tensor, "V D"] | None = None
    """Unit-norm token embeddings of a network with a noisy-embedding encoder."""
    gamma_max: float = math.inf
    """The largest signal-to-noise ratio that this encoder was trained on."""
    attention_block: int = 0
    """Positions of the blocks in which the network sees what is before; 0 where it sees the whole row."""


NO_EXTRAS = Extras()


@runtime_checkable
class Sampler(Protocol):
    """See the module's docstring. Every method works on all rows at once, and none waits for the device."""

    width: int
    """Rows of the state that make one sample; they are contiguous."""

    def start(
        self, canvas: Int[Tensor, "B L"], fixed: Bool[Tensor, "B L"], ids: Int[Tensor, "B"], seeds: Int[Tensor, "B"]
    ) -> State:
        """Rows at the start, ``width`` for each canvas, which holds masks where something is to be written."""

    def query(self, state: State) -> Query:
        """What the network should look at next."""

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]:
        """The rows after an answer to ``query(state)``, and what was done to them."""

    def finish(self, state: State) -> Samples:
        """The result of each group, whose rows have all ended."""

    def max_calls(self, length: int) -> int:
        """No group of this length ever needs more calls. Raises SamplingError where what the options ask for can not
        happen in a row of this length."""

"""What every objective says of itself: what it does to a network, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from components.errors import Problem
from components.options import options
from components.plugins import Card


class Training(Protocol):
    """What an objective may ask of the training that it is part of: ``components.training.config.TrainConfig``."""

    @property
    def steps(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


@options
class ObjectiveOptions(Card):
    """A way to train."""

    rewarded: ClassVar[bool] = False
    """It learns from rewards of its own rollouts."""
    keeps_logits: ClassVar[bool] = True
    """It has logits of many positions at once, whether it keeps them for the backward or not."""

    def passes(self, steps: int) -> float:
        """Work of one optimiser step in forward-backwards of the batch, averaged over a training of so many steps;
        a forward alone is a third."""
        return 1.0

    def model_changes(self) -> dict[str, Any]:
        """What it adds to the network: fields of ``components.models.config.ModelConfig``."""
        return {}

    def teaches_visible(self) -> bool:
        """It teaches the network what to say at visible positions. A corrector that replaces tokens does harm on a
        network that never was taught it, so exports record this."""
        return False

    def trains_heads_only(self) -> bool:
        """It leaves the trunk as it is, so it needs a trained one, and what was taught before still holds."""
        return False

    def freezes_trunk(self) -> bool:
        """The trunk's own weights are made constants, because adapters beside them are trained."""
        return False

    def smallest_time(self) -> float:
        """Where times begin that are trained, unless a training says so itself."""
        return 1e-3

    @property
    def row_stride(self) -> int:
        """Every process must have a multiple of so many rows at a time."""
        return 1

    def problems(self, train: Training) -> Iterator[Problem]:
        """Broken rules inside these options and with the training; paths begin below the training."""
        yield from ()

"""What goes from block to block beside features."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from components.models.layers import Memory
from components.models.segments import Segments


class Seen(NamedTuple):
    """What every block is given besides features."""

    rope: tuple[Tensor, Tensor]
    condition: Tensor | None
    visible: Tensor | Segments | None
    memory: Memory | None

    @property
    def plain(self) -> bool:
        """No kernels are made for this: memory is told of keys and values on the way, or rows of any sizes are taken one by one."""
        return self.memory is not None or (isinstance(self.visible, Segments) and not self.visible.most)

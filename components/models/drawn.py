"""Networks too large for one process: weights are drawn as they always are, one after the other, and a part of each is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from components.models.config import ModelConfig
from components.models.transformer import Transformer

aten = torch.ops.aten
FILLS = {aten.normal_.default, aten.uniform_.default, aten.zero_.default, aten.fill_.Scalar}
"""What initialisers write a whole tensor with."""


class Drawing(TorchDispatchMode):
    """Inside, what fills a tensor without memory is done to one with memory, of which a part is kept.

    The generator moves on as if all tensors had memory, so that what is drawn depends on the seed alone.
    """

    def __init__(self, part: Callable[[Tensor], Tensor]):
        super().__init__()
        self.part = part
        self.kept: dict[int, Tensor] = {}
        """By the address of a tensor's storage, which its views share."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        made = function(*args, **given)
        if function in FILLS and args[0].is_meta:
            self._keep(made, function(torch.empty_like(made, device="cpu"), *args[1:], **given))
        elif function is aten.randn.default and made.is_meta:
            self._keep(made, torch.randn(made.shape, dtype=made.dtype, device="cpu"))
        return made

    def _keep(self, made: Tensor, drawn: Tensor) -> None:
        self.kept[made.untyped_storage()._cdata] = self.part(drawn.view(-1)).clone()

    def of(self, parameter: Tensor) -> Tensor:
        """What was kept of a parameter."""
        return self.kept[parameter.untyped_storage()._cdata]


def drawn_in_parts(
    config: ModelConfig, vocab_size: int, part: Callable[[Tensor], Tensor]
) -> tuple[Transformer, dict[str, Tensor]]:
    """A network without memory, and of each of its initial weights, by name, the part that is to be kept.

    They are those of ``Transformer(config, vocab_size)`` at the same state of torch's generator.

    Args:
        part: of a flattened parameter. Only one is in memory at a time.
    """
    with torch.device("meta"), Drawing(part) as drawing:
        model = Transformer(config, vocab_size)
    return model, {name: drawing.of(parameter) for name, parameter in model.named_parameters()}

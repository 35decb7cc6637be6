"""What the loop needs of an engine, and its plain-torch form.

``cluster/zero.py`` has the DeepSpeed form. Gradients are *summed* over ranks and micro-batches: the
loss that is handed in has been divided by the global count already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from components.models.transformer import Transformer
from components.objectives.base import Network
from components.training.config import OptimizerConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
FEW = 2
"""A gradient of the table of tokens is kept by those that were looked up while these are at most one in so many of its rows."""


@dataclass(frozen=True)
class Share:
    """A range of a flattened parameter that a rank keeps, and where it lies in what its optimiser changes."""

    name: str
    start: int
    """In the flattened parameter."""
    numel: int
    master: int
    """Number of the tensor in ``TrainEngine.masters``."""
    offset: int
    """In that tensor, flattened."""

    def of(self, tensors: list[Tensor]) -> Tensor:
        """The view [numel] into a list of tensors like the masters."""
        return tensors[self.master].view(-1)[self.offset : self.offset + self.numel]


class TrainEngine(Protocol):
    """A model with its optimiser, spread over ranks in some way."""

    rank: int
    world_size: int
    device: torch.device
    network: Network
    """What is trained, as objectives call it."""
    everywhere: bool
    """Does every rank have all of every parameter in its masters, or else each its own part?"""

    def backward(self, loss: Tensor) -> None:
        """Add this loss's gradient."""

    def step(self, lr: float) -> float:
        """Sum gradients over ranks, clip, update, clear. Returns the norm before clipping."""

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over ranks."""

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def masters(self) -> list[Tensor]:
        """The float32 tensors that this rank's optimiser changes in place."""

    def moments(self) -> dict[str, list[Tensor]]:
        """By the name of the moment, tensors like the masters, in place; zeros before the first step."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape by its name, the same on all ranks."""

    def shares(self) -> list[Share]:
        """What of the parameters lies in this rank's masters. Padding does not."""

    def refresh(self, updates: int) -> None:
        """Go on from what was written into masters and moments, as after so many updates. All ranks must call this."""

    def train(self, training: bool) -> None:
        """Turn dropout on or off."""


class Autocast:
    """A network in bfloat16 arithmetic where that is enabled: a transformer, or what DeepSpeed made of one.

    Everything goes through the module's one call, the question to the policy, too: DeepSpeed keeps account of
    sharded parameters and of the backward that follows around the calls of its root module, and of no part of it.
    """

    def __init__(self, module: Callable[..., Any], device: torch.device, enabled: bool):
        self.module = module
        self.precision = torch.autocast(device.type, torch.bfloat16, enabled=enabled)

    def __call__(self, tokens: Tensor, **given: Any) -> Any:
        with self.precision:
            return self.module(tokens, **given)

    def decide(self, confidence: Tensor, masked: Tensor, time: Tensor, sizes: Tensor | None = None) -> Tensor:
        with self.precision:
            return self.module(decided=(confidence, masked, time), sizes=sizes)


class TorchEngine:
    """Plain torch: one process, or several that hold the whole model each (gradients are summed)."""

    everywhere = True

    def __init__(self, model: Transformer, config: OptimizerConfig, precision: str = "fp32", device: str = "cpu"):
        self.device = torch.device(device)
        self._model = model.to(self.device)
        self.config = config
        self.precision = precision
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.optimizer = adamw(model, config)
        self.network: Network = Autocast(self._model, self.device, enabled=precision == "bf16")
        self._table = model.embed.weight
        # A step looks up few tokens of a large vocabulary; the encoder of noisy embeddings reads all of them.
        model.embed.sparse = self.device.type == "cpu" and model.encoder is None

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        grad = self._table.grad
        if grad is not None and grad.is_sparse and FEW * grad._nnz() > len(grad):
            self._table.grad = grad.to_dense()  # to which what comes later is added where it lies

    def step(self, lr: float) -> float:
        parameters = list(self._model.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
            if self.world_size > 1:
                dist.all_reduce(parameter.grad)
        limit = self.config.clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def all_reduce(self, values: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def masters(self) -> list[Tensor]:
        return [p.data for p in self._model.parameters()]

    def moments(self) -> dict[str, list[Tensor]]:
        return moments_of(self.optimizer, list(self._model.parameters()))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in self._model.named_parameters()}

    def shares(self) -> list[Share]:
        return whole_shares(self.shapes())

    def refresh(self, updates: int) -> None:
        set_updates(self.optimizer, updates)

    def train(self, training: bool) -> None:
        self._model.train(training)


def adamw(model: torch.nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW as configured; matrices decay, vectors do not."""
    groups: Iterable[dict[str, object]]
    if config.weight_decay:
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    else:
        groups = [{"params": list(model.parameters())}]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def whole_shares(shapes: dict[str, tuple[int, ...]]) -> list[Share]:
    """All of every parameter, where the masters are the parameters."""
    return [Share(name, 0, math.prod(shape), number, 0) for number, (name, shape) in enumerate(shapes.items())]


def moments_of(optimizer: torch.optim.Optimizer, owned: list[Tensor]) -> dict[str, list[Tensor]]:
    """The moments of what AdamW changes, in its order; made as it makes them where it made no step yet."""
    for tensor in owned:
        if not optimizer.state[tensor]:
            zeros = {m: torch.zeros_like(tensor) for m in MOMENTS}
            optimizer.state[tensor] |= {"step": torch.zeros((), device=tensor.device), **zeros}
    return {m: [optimizer.state[tensor][m] for tensor in owned] for m in MOMENTS}


def set_updates(optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Have AdamW correct its moments as after so many updates."""
    for state in optimizer.state.values():
        state["step"].fill_(updates)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr

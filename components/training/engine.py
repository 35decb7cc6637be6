"""What the loop needs of an engine, and its plain-torch form.

``cluster/zero.py`` has the DeepSpeed form. Gradients are *summed* over ranks and micro-batches: the
loss that is handed in has been divided by the global count already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from components.models.transformer import Transformer
from components.objectives.base import Network
from components.training.config import OptimizerConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """One parameter in full, in float32: everything that a checkpoint keeps of it."""

    name: str
    weight: Tensor
    moments: dict[str, Tensor]


class TrainEngine(Protocol):
    """A model with its optimiser, spread over ranks in some way."""

    rank: int
    world_size: int
    device: torch.device
    network: Network
    """What is trained, as objectives call it."""

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

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in full, in float32, one after the other. All ranks must iterate together."""

    def pieces(self) -> Iterator[Piece]:
        """Every parameter in full with its moments, one after the other. All ranks must iterate together."""

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Put full parameters into the masters, exactly, and into what the network computes with."""

    def set_moments(self, moments: dict[str, dict[str, Tensor]], step: int) -> None:
        """Put the optimiser into the state it had after ``step`` steps."""

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

    def decide(self, confidence: Tensor, masked: Tensor, time: Tensor) -> Tensor:
        with self.precision:
            return self.module(decided=(confidence, masked, time))


class TorchEngine:
    """Plain torch: one process, or several that hold the whole model each (gradients are summed)."""

    def __init__(self, model: Transformer, config: OptimizerConfig, precision: str = "fp32", device: str = "cpu"):
        self.device = torch.device(device)
        self._model = model.to(self.device)
        self.config = config
        self.precision = precision
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.optimizer = adamw(model, config)
        self.network: Network = Autocast(self._model, self.device, enabled=precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        parameters = list(self._model.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
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

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._model.named_parameters():
            yield name, parameter.data

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self._model.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            yield Piece(name, parameter.data, {m: state[m] for m in MOMENTS if m in state})

    @torch.no_grad()
    def set_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(weights[name])

    def set_moments(self, moments: dict[str, dict[str, Tensor]], step: int) -> None:
        for name, parameter in self._model.named_parameters():
            state = {m: moments[name][m].clone().to(self.device) for m in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(step)), **state}

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
    # On a CPU the plain form reads and writes every weight ten times; on a GPU the default is as good.
    fused = None if torch.cuda.is_available() else True
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=fused
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr

"""DeepSpeed ZeRO 0 to 3 as a ``TrainEngine``.

Gradients use DeepSpeed's unmanaged accumulation: any number of backwards, then one ``step`` that
reduces and updates. That is what a loss of several terms over several micro-batches needs, since
every term is divided by its global count before its backward. Defaults that moved between releases
(clipping, overflow skip, group timeout) are pinned here.

Which ranges of which parameters lie in a rank's optimiser is told as ``shares``, so that checkpoints know neither
stage nor world size, and nothing is gathered for them. Offload goes to the host's memory.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from components.models.transformer import Transformer
from components.objectives.base import Network
from components.training.config import OptimizerConfig
from components.training.engine import Autocast, Share, adamw, moments_of, set_lr, set_updates, whole_shares

GROUP_TIMEOUT = timedelta(minutes=30)


def zero_config(
    stage: int, micro_batch: int, clip: float, precision: str, offload: bool, world_size: int
) -> dict[str, Any]:
    """The DeepSpeed configuration. Nothing that matters is left to a default."""
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": stage > 0}
    if stage == 3:
        # Small parameters are partitioned as well, or a small model would not be sharded at all.
        zero["stage3_param_persistence_threshold"] = 0
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "train_batch_size": micro_batch * world_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }
    if precision == "bf16" and stage > 0:
        # A step whose gradient is not finite is not skipped in silence: the loop stops on its norm.
        config["bf16"] = {"enabled": True, "check_grad_overflow": False}
    return config


def own_part(flat: Tensor) -> Tensor:
    """What stage 3 leaves of a flattened parameter to this rank, without padding."""
    size = -(-flat.numel() // dist.get_world_size())
    return flat[dist.get_rank() * size :][:size]


def spread(model: Transformer, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Give the parameters of a network without memory to all ranks, one after the other, each rank its part of it."""
    for parameter in model.parameters():
        whole = torch.nn.Parameter(torch.empty_like(parameter, device="cpu", dtype=dtype))
        torch.utils.swap_tensors(parameter, whole)  # the optimiser and tied layers know it
        deepspeed.zero.Init(module=torch.nn.ParameterList([parameter]), config_dict_or_path=settings, dtype=dtype)


class ZeroEngine:
    """See ``components.training.engine.TrainEngine``.

    At stage 3 the model may come without memory (``components.models.drawn``): then no process ever holds all of it, and
    its weights are what was there by chance until they are written into the masters.
    """

    def __init__(
        self,
        model: Transformer,
        config: OptimizerConfig,
        stage: int,
        micro_batch: int,
        precision: str = "fp32",
        offload: bool = False,
        device: str = "cpu",
    ):
        if not dist.is_initialized():
            raise RuntimeError("a process group must be there before a ZeroEngine is made")
        # Launchers set it on machines with several GPUs; elsewhere there is one rank per device.
        os.environ.setdefault("LOCAL_RANK", "0")
        # Reuses the group; compiling DeepSpeed's shared-memory operator would take half a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False, timeout=GROUP_TIMEOUT)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device(device)
        self.stage = stage
        settings = zero_config(stage, micro_batch, config.clip, precision, offload, self.world_size)
        optimizer = adamw(model, config)  # while the shapes are seen
        if next(model.parameters()).is_meta:
            spread(model, settings, torch.bfloat16 if precision == "bf16" else torch.float32)
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        self.parameters = dict(self.engine.module.named_parameters())
        self.everywhere = stage == 0
        autocast = precision == "bf16" and stage == 0
        self.network: Network = Autocast(self.engine, self.device, enabled=autocast)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks; the loss was divided by the global count, so it must be summed.
        self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        set_lr(self.engine.optimizer, lr)
        if self.stage == 0:
            return self._step_without_partitions()
        self.engine.step()
        if self.stage == 3:
            # The first backward of a step overwrites what it touches and later ones add. A parameter that
            # only a later term touches, such as a head, would be added to the gradient of the step before.
            self.engine.optimizer.grad_partitions_flat_buffer.zero_()
        return float(self.engine.get_global_grad_norm())

    def _step_without_partitions(self) -> float:
        """Stage 0 reports no norm: reduce first, measure, and let DeepSpeed clip and update."""
        norms: list[Tensor] = []

        def measure(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
            grads = [p.grad for p in self.parameters.values() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(grads))

        limit = self.engine.gradient_clipping()
        self.engine._config.gradient_clipping = 0.0
        handle = self.engine.optimizer.register_step_pre_hook(self._clip_hook(measure, norms, limit))
        try:
            self.engine.step()
        finally:
            handle.remove()
            self.engine._config.gradient_clipping = limit
        return float(norms[0])

    def _clip_hook(self, measure: Any, norms: list[Tensor], limit: float) -> Any:
        def hook(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
            measure(optimizer, args, kwargs)
            if limit:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), limit, norms[0])

        return hook

    def all_reduce(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        dist.barrier()

    def train(self, training: bool) -> None:
        self.engine.train(training)

    def masters(self) -> list[Tensor]:
        return [t.data for t in self._owned()]

    def moments(self) -> dict[str, list[Tensor]]:
        return moments_of(self._adamw(), self._owned())

    def _owned(self) -> list[Tensor]:
        """What this rank's optimiser holds: whole parameters, or flat pieces. Named by wrapper, in the
        order of stages 3, 1 and 2, and 1 with bf16."""
        if self.stage == 0:
            return list(self.parameters.values())
        inner = self.engine.optimizer
        names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
        return list(next(getattr(inner, n) for n in names if hasattr(inner, n)))

    def _adamw(self) -> torch.optim.Optimizer:
        inner: Any = self.engine.optimizer
        optimizer: torch.optim.Optimizer = inner if self.stage == 0 else inner.optimizer
        return optimizer

    def shapes(self) -> dict[str, tuple[int, ...]]:
        if self.stage == 3:
            return {name: tuple(p.ds_shape) for name, p in self.parameters.items()}
        return {name: tuple(p.shape) for name, p in self.parameters.items()}

    def shares(self) -> list[Share]:
        if self.stage == 0:
            return whole_shares(self.shapes())
        place = self._place_of_part if self.stage == 3 else self._place_of_fragment
        found = (place(name, parameter) for name, parameter in self.parameters.items())
        return [share for share in found if share is not None]

    def _place_of_part(self, name: str, parameter: Any) -> Share | None:
        """Stage 3: each rank has as many elements of every parameter, the last ones of which may be padding."""
        inner = self.engine.optimizer
        master, offset, size = inner.grad_position[inner.get_param_id(parameter)]
        start = self.rank * size
        numel = min(size, parameter.ds_numel - start)
        return Share(name, start, numel, master, offset) if numel > 0 else None

    def _place_of_fragment(self, name: str, parameter: Any) -> Share | None:
        """Stages 1 and 2: each rank has a piece of all parameters of a group, one after the other."""
        found = parameter._hp_mapping
        if found is None:
            return None
        low, high = found.lp_fragment_address, found.hp_fragment_address
        return Share(name, low.start, low.numel, found.param_group_index, high.start)

    @torch.no_grad()
    def refresh(self, updates: int) -> None:
        set_updates(self._adamw(), updates)
        inner = self.engine.optimizer
        if self.stage == 3:
            inner.parameter_offload.partition_all_parameters()
            for group in range(len(inner.fp32_partitioned_groups_flat)):
                inner._reassign_or_swap_out_partitioned_parameters(group)
        elif self.stage:
            inner.update_lp_params()

"""ZeRO 0 to 3 on two gloo processes against plain torch on one. One launch a stage runs all cases."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from components.models.transformer import Transformer
from components.objectives.config import (
    CmlmConfig,
    DscConfig,
    DslConfig,
    MapetConfig,
    MdlmConfig,
    ObjectiveOptions,
    PolicyGrpoConfig,
    PolicyImitationConfig,
    PrismConfig,
    ProsecoConfig,
    SmartConfig,
    SoftMaskConfig,
)
from components.training import checkpoint, rewards
from components.training.engine import TorchEngine
from components.training.loop import fit
from tests.doubles import TINY, VOCAB, MemoryTracker, job, token_rows, uneven_rows

pytestmark = pytest.mark.distributed

OBJECTIVES = {
    "mdlm": MdlmConfig(),
    "proseco": ProsecoConfig(),
    "proseco late, every second row": ProsecoConfig(
        start_step=2, every=2, draft_token="sample", draft_positions="masked"
    ),
    "proseco, rolled-out drafts": ProsecoConfig(rollout=1, random_share=0.2),
    "prism": PrismConfig(num_fills=2, draws=2, head_layers=1),
    "prism, frozen": PrismConfig(num_fills=2, mdm_weight=0.0, frozen=True),
    "prism, adapters": PrismConfig(num_fills=2, adapter_rank=2),
    "dsc": DscConfig(step=0.2, head_layers=1),
    "cmlm": CmlmConfig(),
    "smart": SmartConfig(random_share=0.1),
    "dsl": DslConfig(noise_dim=8),
    "mapet": MapetConfig(),
    "policy_imitation": PolicyImitationConfig(),
    "policy_grpo": PolicyGrpoConfig(rollouts=3, expert_thresholds=(0.5,)),
    "soft_mask": SoftMaskConfig(base="proseco"),
}


UNEVEN = ("proseco", "prism", "policy_imitation")
SIZES = (8, 8, 8, 8, 5, 3)
"""Of rows of several lengths: now and then one rank's have all the same, and the other's have not."""

PLAIN = MdlmConfig()


def network(seed: int = 0, dropout: float = 0.0, objective: ObjectiveOptions = PLAIN) -> Transformer:
    torch.manual_seed(seed)
    changes = objective.model_changes()
    model = Transformer(dataclasses.replace(TINY, dropout=dropout, **changes), VOCAB)
    if changes.get("adapter_rank"):
        model.freeze_trunk()
    return model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    return {f"{kind}/{name}": t for kind, name, t in checkpoint.read(found, ("weight", "ema", "exp_avg", "exp_avg_sq"))}


def share_right(tokens: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """A reward that rollouts of random rows differ in; ``rewards.match`` is 0 for all of them, and so is the gradient."""
    return (tokens == clean).double().mean(-1)


def rank_main(rank: int, stage: int, folder: str) -> None:
    """All cases of a stage, on one of two ranks."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rewards.match = share_right
    os.environ["LOCAL_RANK"] = str(rank)
    base = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{base}/meeting-{stage}", rank=rank, world_size=2)
    from cluster.zero import ZeroEngine

    def train(name, model, rows="rows", **changes):
        made = job(base / name, base / rows, **changes)
        engine = ZeroEngine(model, made.config.optimizer, stage, made.rows_at_once(2), made.config.precision)
        fit(made, engine, None)

    for name, objective in OBJECTIVES.items():
        train(f"zero/{name}", network(objective=objective), objective=objective)
    for name in UNEVEN:
        train(f"zero/uneven {name}", network(objective=OBJECTIVES[name]), "uneven", objective=OBJECTIVES[name])
    # Stopped after step 3 and resumed, with dropout: the random state must follow as well.
    train("whole", network(dropout=0.1))
    train("half", network(dropout=0.1), steps=3)
    train("half", network(seed=9, dropout=0.1))
    # From a checkpoint of plain torch on one process.
    train("from one", network(seed=9))
    model = network()
    model.activation_checkpointing = True
    train("checkpointed activations", model)
    train("bf16", network(), precision="bf16")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same trainings with plain torch on one process."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("plain")
    rows = token_rows(base / "rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewards, "match", share_right)
        for name, objective in OBJECTIVES.items():
            made = job(base / name, rows, micro_batch=4, objective=objective)
            fit(made, TorchEngine(network(objective=objective), made.config.optimizer), MemoryTracker())
    uneven = uneven_rows(base / "uneven", SIZES)
    for name in UNEVEN:
        made = job(base / f"uneven {name}", uneven, micro_batch=4, objective=OBJECTIVES[name])
        fit(made, TorchEngine(network(objective=OBJECTIVES[name]), made.config.optimizer), MemoryTracker())
    return base


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_equals_plain_torch(stage, plain, tmp_path):
    token_rows(tmp_path / "rows")
    uneven_rows(tmp_path / "uneven", SIZES)
    # What "from one" resumes from: three of six steps by plain torch.
    made = job(tmp_path / "from one", tmp_path / "rows", steps=3)
    fit(made, TorchEngine(network(), made.config.optimizer), None)
    multiprocessing.spawn(rank_main, (stage, str(tmp_path)), nprocs=2)
    for name in [*OBJECTIVES, *(f"uneven {name}" for name in UNEVEN)]:
        expected, found = weights(plain / name), weights(tmp_path / "zero" / name)
        assert expected.keys() == found.keys()
        assert any(t.any() for key, t in expected.items() if key.startswith("exp_avg/")), f"{name} has no gradient"
        for key, value in expected.items():
            assert torch.allclose(value, found[key], atol=2e-5), (name, key)
    whole, half = weights(tmp_path / "whole"), weights(tmp_path / "half")
    assert all(torch.equal(whole[k], half[k]) for k in whole), "resuming at the same world size is not bit for bit"
    reference = weights(plain / "proseco")
    for name in ("from one", "checkpointed activations"):
        found = weights(tmp_path / name)
        assert all(torch.allclose(reference[k], found[k], atol=2e-5) for k in reference), name
    low, start = weights(tmp_path / "bf16"), network().state_dict()
    assert all(torch.isfinite(t).all() for t in low.values())
    learned = {k: reference[k] - start[k.removeprefix("ema/")] for k in reference if k.startswith("ema/")}
    off = sum(float((low[k] - reference[k]).square().sum()) for k in learned)
    assert off < 0.2**2 * sum(float(t.square().sum()) for t in learned.values()), "bf16 learns something else"
    # And back: two ranks' checkpoint continues on one process without DeepSpeed.
    back = job(tmp_path / "zero" / "proseco", tmp_path / "rows", steps=9)
    fit(back, TorchEngine(network(seed=9), back.config.optimizer), None)
    straight = job(tmp_path / "straight", tmp_path / "rows", steps=9)
    fit(straight, TorchEngine(network(), straight.config.optimizer), None)
    one, two = weights(tmp_path / "straight"), weights(tmp_path / "zero" / "proseco")
    assert all(torch.allclose(one[k], two[k], atol=5e-5) for k in one)

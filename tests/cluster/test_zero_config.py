"""DeepSpeed's defaults moved between releases; what matters is pinned, and DeepSpeed accepts it."""

from __future__ import annotations

import pytest

from cluster.zero import GROUP_TIMEOUT, zero_config


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_moved_is_pinned(stage, precision):
    from deepspeed.runtime.config import DeepSpeedConfig

    made = zero_config(stage, 4, 0.0, precision, offload=stage > 0, world_size=1)
    assert made["gradient_clipping"] == 0.0
    assert made["managed_gradient_accumulation"] is False
    if precision == "bf16" and stage:
        assert made["bf16"]["check_grad_overflow"] is False
    parsed = DeepSpeedConfig(made)
    assert parsed.zero_optimization_stage == stage
    assert parsed.gradient_clipping == 0.0
    assert parsed.zero_config.offload_optimizer is not None or stage == 0


def test_the_group_timeout_is_ours():
    assert GROUP_TIMEOUT.total_seconds() == 1800


def test_a_key_that_deepspeed_removed_is_refused_by_it():
    """Were one to slip in, the configuration fails when it is parsed and not after an hour."""
    from deepspeed.runtime.config import DeepSpeedConfig

    with pytest.raises(Exception, match="elasticity"):
        DeepSpeedConfig(zero_config(1, 4, 1.0, "fp32", False, 1) | {"elasticity": {"enabled": True}})

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


class Asked(dict):
    """A configuration that remembers which of its values were read."""

    def __init__(self, values: dict):
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.read.add(key)
        return super().__contains__(key)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_key_is_read_by_the_version_that_is_installed(stage, precision):
    """At the top DeepSpeed ignores what it does not know, so a key that it dropped would be without effect."""
    from deepspeed.runtime.config import DeepSpeedConfig

    made = Asked(zero_config(stage, 4, 1.0, precision, offload=stage > 0, world_size=1) | {"of_nobody": 1})
    DeepSpeedConfig(made)
    assert made.keys() - made.read == {"of_nobody"}


def test_below_the_top_a_key_that_is_not_known_is_refused_by_it():
    from deepspeed.runtime.config import DeepSpeedConfig

    for section in ("zero_optimization", "bf16"):
        made = zero_config(2, 4, 1.0, "bf16", False, 1)
        made[section] |= {"of_nobody": 1}
        with pytest.raises(ValueError, match="of_nobody"):
            DeepSpeedConfig(made)

"""A small soak: a replica and the head of the cluster are killed, and the table is that of an undisturbed run."""

from __future__ import annotations

import pytest

from tests.chaos.soak import soak


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_under_fire_makes_the_table_of_an_undisturbed_one(tmp_path):
    killed = soak(tmp_path / "soak", rows=6000, kills=2, seed=3, shard_rows=100, pause_s=(0.5, 1.0))
    assert killed.total() == 2

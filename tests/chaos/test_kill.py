"""SIGKILL at every fault point, and at ten moments, loses and changes nothing (executor: local).

``python -m tests.chaos.harness`` does the same on a Ray cluster.
"""

from __future__ import annotations

import random
import time

import pytest

from components.faults import POINTS
from tests.chaos import harness

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(rows, seconds) of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    harness.finish(harness.start(folder, folder / "root", "local"))
    seconds = time.monotonic() - begin
    rows = harness.samples(folder / "root")
    assert len(rows) == 48
    assert len(set(rows)) == 48
    return rows, seconds


@pytest.mark.parametrize("point", [*POINTS, "train.after_checkpoint:4", "generate.mid_publish:5"])
def test_killed_at_a_fault_point(point, undisturbed, tmp_path):
    assert harness.samples(harness.disturb_at(point, tmp_path, "local")) == undisturbed[0]


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_moment(seed, undisturbed, tmp_path):
    moment = random.Random(seed).uniform(0.05, 0.95) * undisturbed[1]
    assert harness.samples(harness.disturb_after(moment, tmp_path, "local")) == undisturbed[0]


def test_a_full_disk_loses_nothing(undisturbed, tmp_path):
    process = harness.start(tmp_path, tmp_path / "root", "local", "disk.full")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "No space left on device" in said
    assert "Traceback" not in said
    harness.finish(harness.start(tmp_path, tmp_path / "root", "local"))
    assert harness.samples(tmp_path / "root") == undisturbed[0]

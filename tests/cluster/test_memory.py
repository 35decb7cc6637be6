"""Ray's own watch over memory kills a process of a run: its item is done again, and told in a sentence where that is in vain."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys, time
from cluster.config import RuntimeConfig
from cluster.open import open_cluster
from components.errors import ClusterError

place, gives_up = sys.argv[1], sys.argv[2] == "gives up"
TAKEN, PART = int(sys.argv[3]), 1 << 26

class Takes:
    def __call__(self, item):
        with open(place, "a") as file:
            file.write("begun\\n")
        if not gives_up or len(open(place).readlines()) == 1:
            taken = [bytearray(b"x") * PART for _ in range(TAKEN // PART)]
            time.sleep(600)  # until it is killed
        return item * 2

opened = open_cluster(RuntimeConfig(cpus=1, workers=1, replicas=1, max_attempts=3))
begun = time.monotonic()
try:
    print("result", opened.map(Takes(), [21], lambda number, result: None))
except ClusterError as error:
    print("told", error)
finally:
    print("seconds", time.monotonic() - begun)
    opened.close()
"""
USED = "import ray._private.utils as u; print(u.get_used_memory(), u.get_system_memory())"
"""As Ray counts it."""
ROOM, TAKEN = 4 << 30, 6 << 30
"""Bytes that may be taken beyond those in use, by the cluster itself and by others, and those that a task takes."""
NOTICED_S = 60


@pytest.fixture(scope="module")
def watch():
    """What Ray is told, so that it kills whoever takes that much."""
    said = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, check=True).stdout
    used, there = map(int, said.split())
    if there - used < TAKEN + ROOM:
        pytest.skip(f"this machine has {(there - used) >> 30} GiB of memory left, and a task takes {TAKEN >> 30}")
    return {"RAY_memory_usage_threshold": f"{(used + ROOM) / there:.5f}", "RAY_memory_monitor_refresh_ms": "100"}


def killed(place, how, watch):
    """What a map came to whose only task is killed for its memory, how often it was begun, and how long it took."""
    command = [sys.executable, "-c", CODE, str(place), how, str(TAKEN)]
    done = subprocess.run(command, env=os.environ | watch, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    said, seconds = (line for line in done.stdout.splitlines() if line.startswith(("result", "told", "seconds")))
    return said, len(place.read_text().splitlines()), float(seconds.split()[1])


@pytest.mark.ray
def test_a_task_that_is_killed_for_its_memory_is_done_again(tmp_path, watch):
    said, begun, seconds = killed(tmp_path / "begun", "gives up", watch)
    assert said == "result [42]"
    assert begun == 2
    assert seconds < NOTICED_S


@pytest.mark.ray
def test_a_task_that_always_takes_too_much_memory_is_told_after_as_many_tries_as_are_allowed(tmp_path, watch):
    """Ray itself would try it for ever."""
    said, begun, seconds = killed(tmp_path / "begun", "never gives up", watch)
    assert said.startswith("told Processes of the cluster were lost")
    assert "running low on memory" in said
    assert "runtime.max_attempts = 3" in said
    assert begun == 3
    assert seconds < NOTICED_S

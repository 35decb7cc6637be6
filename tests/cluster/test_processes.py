"""Processes that a closed cluster leaves behind are ended, and nobody else."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

from cluster.processes import Process, children, descendants, end

# A shell that starts a sleeper of its own, so that there are two generations.
FAMILY = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]


def family() -> tuple[subprocess.Popen[bytes], set[Process]]:
    parent = subprocess.Popen(FAMILY, start_new_session=True)
    deadline = time.monotonic() + 20
    while not (below := descendants([parent.pid])):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return parent, below | {p for p in children() if p.pid == parent.pid}


def test_two_generations_are_found_and_ended_and_others_live_on():
    bystander = subprocess.Popen(["sleep", "60"])
    parent, found = family()
    try:
        assert len(found) == 2
        assert bystander.pid not in {p.pid for p in found}
        end(found, 0)
        assert not [p for p in found if p.lives()]
        assert parent.wait(timeout=10) < 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_number_that_now_is_somebody_elses_is_left_alone():
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        own = next(p for p in children() if p.pid == bystander.pid)
        assert own.lives()
        former = dataclasses.replace(own, start=own.start - 1)
        assert not former.lives()
        end({former}, 0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_ends_in_time_is_not_killed():
    parent = subprocess.Popen(["sleep", "0.3"])
    end({p for p in children() if p.pid == parent.pid}, 10)
    assert parent.wait() == 0

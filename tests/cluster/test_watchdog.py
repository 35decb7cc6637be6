"""A rank that makes no step is ended, one that makes steps is not, and a machine that goes is told of once."""

from __future__ import annotations

import subprocess
import sys
import time

from cluster.watchdog import HUNG, Watchdog
from tests.waiting import until


def test_a_rank_that_makes_no_step_ends_and_says_what_it_was_at():
    code = """
import time
from cluster.watchdog import Watchdog
def stuck_here():
    time.sleep(60)
Watchdog(0.5).beat()
stuck_here()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.returncode == HUNG
    assert "runtime.hang_s" in ran.stderr
    assert "stuck_here" in ran.stderr


def test_one_that_makes_steps_lives_and_0_waits_for_ever():
    ended: list[int] = []
    watched, patient = Watchdog(0.8, end=ended.append), Watchdog(0.0, end=ended.append)
    for _ in range(20):
        watched.beat()
        time.sleep(0.1)
    assert ended == []
    until(lambda: ended, 10)
    assert ended == [HUNG]
    watched.close()
    patient.close()


def test_a_checkpoint_is_wanted_once_when_the_machine_is_about_to_go():
    answers = iter([ConnectionError("nobody answers"), False, True, True, True])

    def leaving() -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watchdog = Watchdog(0.4, leaving, end=lambda code: None)
    beats = []
    until(lambda: beats.append(watchdog.beat()) or True in beats, 10)
    time.sleep(0.5)
    assert not watchdog.beat()
    assert next(answers), "nobody was asked again"
    watchdog.close()

"""Which CPUs a process keeps to."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from cluster.benches import Benches
from components.models import cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread choose its CPUs")


def test_processes_that_fill_the_machine_share_its_cpus_out_and_others_keep_to_none(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7})
    assert [cpu.share_of_cpus(i, of=2, threads=2) for i in range(2)] == [{2, 3}, {5, 7}]
    assert [cpu.share_of_cpus(i, of=4, threads=1) for i in range(4)] == [{2}, {3}, {5}, {7}]
    assert not cpu.share_of_cpus(0, of=2, threads=1), "two CPUs are left, which may be better ones"
    assert not cpu.share_of_cpus(0, of=4, threads=2), "there are more threads than CPUs"


@pytest.mark.parametrize("number", [1, 0])
def test_the_engines_of_a_replica_keep_to_its_cpus_and_its_other_threads_do_not(number):
    before, found = os.sched_getaffinity(0), []
    kept = frozenset(sorted(before)[:number])
    benches = Benches(1, kept)

    def engine() -> None:
        benches.settle()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=engine)
    thread.start()
    thread.join()
    assert found == [kept or before]
    assert os.sched_getaffinity(0) == before

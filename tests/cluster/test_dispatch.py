"""Feeding shards to replicas: order, what is in flight, errors, and ending in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from cluster.cluster import Stopped
from cluster.serving import dispatch


def test_results_keep_the_order_and_no_more_than_the_width_is_in_flight():
    lock, flying, most, seen = threading.Lock(), 0, 0, []

    def work(item: int) -> int:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.01 * (item % 3))
        with lock:
            flying -= 1
        return item * item

    found = dispatch(work, range(12), 3, lambda number, result: seen.append((number, result)), threading.Event())
    assert found == [i * i for i in range(12)]
    assert sorted(seen) == list(enumerate(found))
    assert most == 3


def test_an_error_ends_it_with_that_error():
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        return item

    with pytest.raises(ValueError, match="one"):
        dispatch(work, range(9), 2, lambda number, result: None, threading.Event())


def test_an_interrupt_does_not_wait_for_what_never_comes_back():
    release = threading.Event()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            dispatch(lambda item: release.wait(20), range(4), 2, lambda number, result: None, threading.Event())
        assert time.monotonic() - begun < 10
    finally:
        release.set()
        signal.signal(signal.SIGINT, former)


def test_a_stopped_run_does_not_wait_either():
    release, stopped, begun = threading.Event(), threading.Event(), time.monotonic()
    threading.Timer(0.2, stopped.set).start()
    try:
        with pytest.raises(Stopped):
            dispatch(lambda item: release.wait(20), range(4), 2, lambda number, result: None, stopped)
        assert time.monotonic() - begun < 10
    finally:
        release.set()

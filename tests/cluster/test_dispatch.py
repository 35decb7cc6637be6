"""Feeding shards to replicas: what is in flight, errors, stragglers, and ending in the middle."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pytest

from cluster.cluster import Stopped
from cluster.dispatch import Dispatch, Straggling, pause_s


class Seen:
    """A watcher that remembers."""

    def __init__(self):
        self.results: dict[int, object] = {}
        self.retries: list[tuple[int, str]] = []
        self.reissues: list[int] = []
        self.most = 0

    def done(self, number, receipt):
        assert number not in self.results, "a shard counted twice"
        self.results[number] = receipt

    def retried(self, number, why):
        self.retries.append((number, why))

    def reissued(self, number):
        self.reissues.append(number)

    def waits(self, in_flight, oldest_s):
        self.most = max(self.most, in_flight)


def dispatch(work, items, width=2, seen=None, stopped=None, straggling=None):
    seen = seen or Seen()
    Dispatch(work, seen, lambda: width, stopped or threading.Event(), straggling or Straggling()).run(items)
    return seen


def test_every_result_is_told_by_its_number_and_no_more_than_the_width_is_in_flight():
    lock, flying, most = threading.Lock(), 0, 0
    full = threading.Barrier(3)

    def work(item, again):
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        if item < 3:
            full.wait(10)  # three really are at work at once
        with lock:
            flying -= 1
        return item * item

    seen = dispatch(work, range(12), 3)
    assert seen.results == {i: i * i for i in range(12)}
    assert most == 3


def test_items_are_drawn_as_there_is_room_for_them():
    drawn, finished = itertools.count(), itertools.count()
    ahead = []

    def items():
        for _ in range(50):
            ahead.append(next(drawn))
            yield 0

    def work(item, again):
        next(finished)
        return item

    class Counting(Seen):
        def done(self, number, receipt):
            super().done(number, receipt)
            assert len(ahead) - len(self.results) <= 3, "more was drawn than there is room for"

    assert len(dispatch(work, items(), 3, Counting()).results) == 50


def test_an_error_ends_it_with_that_error():
    def work(item, again):
        if item == 1:
            raise ValueError("one")
        return item

    with pytest.raises(ValueError, match="one"):
        dispatch(work, range(9))


def test_what_is_tried_again_is_told_with_its_number():
    def work(item, again):
        if item == 4:
            again("lost")
        return item

    assert dispatch(work, range(6)).retries == [(4, "lost")]


def test_the_last_straggler_is_given_to_a_second_one_and_counts_once():
    release, calls = threading.Event(), []

    def work(item, again):
        calls.append(item)
        if item == 5 and calls.count(5) == 1:
            release.wait(30)  # its first replica never comes back while the second one works
            return "late"
        return "in time"

    try:
        seen = dispatch(work, range(6), 2, straggling=Straggling(times=1.0, at_least_s=0.05))
    finally:
        release.set()
    assert seen.reissues == [5]
    assert seen.results == dict.fromkeys(range(6), "in time")


def test_what_takes_as_long_as_usual_is_not_given_to_a_second_one():
    assert dispatch(lambda item, again: item, range(6), straggling=Straggling(times=3.0, at_least_s=5.0)).reissues == []


def test_where_the_second_one_fails_the_first_one_still_counts():
    release, calls = threading.Event(), []

    def work(item, again):
        if item == 0:
            return item
        calls.append(item)
        if len(calls) == 1:
            release.wait(30)
            return "first"
        release.set()
        raise ValueError("the second attempt")

    seen = dispatch(work, range(2), 2, straggling=Straggling(times=1.0, at_least_s=0.05))
    assert seen.results == {0: 0, 1: "first"}


def test_pauses_grow_are_bounded_and_differ():
    first, fifth = [pause_s(1) for _ in range(50)], [pause_s(5) for _ in range(50)]
    assert max(first) <= 2.0 < min(fifth)
    assert max(pause_s(50) for _ in range(50)) <= 30.0
    assert len(set(first)) == 50


def test_an_interrupt_does_not_wait_for_what_never_comes_back():
    release = threading.Event()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            dispatch(lambda item, again: release.wait(20), range(4))
        assert time.monotonic() - begun < 10
    finally:
        release.set()
        signal.signal(signal.SIGINT, former)


def test_a_stopped_run_does_not_wait_either():
    release, stopped, begun = threading.Event(), threading.Event(), time.monotonic()
    threading.Timer(0.2, stopped.set).start()
    try:
        with pytest.raises(Stopped):
            dispatch(lambda item, again: release.wait(20), range(4), stopped=stopped)
        assert time.monotonic() - begun < 10
    finally:
        release.set()

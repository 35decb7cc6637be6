"""A cluster that was joined is asked whether it lives, and what waits for Ray can be told to end."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import pytest
from ray import NodeID
from ray.exceptions import RpcError

from cluster import ray_life, serving
from cluster.cluster import Stopped
from components.errors import ClusterError


@pytest.fixture
def joined(monkeypatch):
    """Looks at a cluster whose answer, and how late it is, the test says."""
    state = SimpleNamespace(alive=True, now=100.0)

    def check_alive(nodes, timeout):
        assert timeout == ray_life.ASK_S
        if state.alive is None:
            raise RpcError("no answer")
        return [state.alive for _ in nodes]

    context = SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: NodeID.from_random().hex())
    monkeypatch.setattr(ray_life.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray_life, "GcsClient", lambda address: SimpleNamespace(check_alive=check_alive))
    monkeypatch.setattr(ray_life, "time", SimpleNamespace(monotonic=lambda: state.now))
    return state, ray_life.of_joined()


def test_a_head_that_is_silent_for_long_is_lost_and_one_that_comes_back_in_time_is_not(joined):
    state, look = joined
    assert look() == ""
    state.alive, state.now = None, 100 + ray_life.SILENT_S - 1
    assert look() == "", "it may be started anew"
    state.alive = True
    assert look() == ""
    state.alive = None
    state.now += ray_life.SILENT_S - 1
    assert look() == "", "it answered in between"
    state.now += 2
    assert look() == "The GCS at 10.0.0.1:6379, the head of the cluster, did not answer for 30 s"


def test_a_raylet_that_died_is_told_by_the_head(joined):
    state, look = joined
    state.alive = False
    assert look().startswith("The raylet of this machine, by which this run was in the cluster at 10.0.0.1:6379, died")


def test_a_silent_head_is_noticed_before_ray_ends_the_process():
    assert ray_life.SILENT_S + 2 * ray_life.ASK_S + ray_life.END_S < 60


@pytest.mark.parametrize("listening", [False, True])
def test_an_address_where_no_cluster_is_is_told_soon(listening, monkeypatch):
    """Where nobody listens, and where somebody does who is no cluster and says nothing."""
    monkeypatch.setattr(ray_life, "REACH_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        if not listening:
            silent.close()
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=f"No Ray cluster answers at {address} .*: .*({'no answer in 3 s' if listening else 'refused'})"):
            ray_life.require_answer(address)
        assert time.monotonic() - begun < 8


def test_what_work_comes_to_is_passed_on():
    assert ray_life.watched(lambda: 3, threading.Event()) == 3
    with pytest.raises(KeyError):
        ray_life.watched(lambda: {}[1], threading.Event())


def test_work_that_does_not_end_when_it_is_stopped_is_left_alone(monkeypatch):
    monkeypatch.setattr(ray_life, "END_S", 0.5)
    stopped, never = threading.Event(), threading.Event()
    threading.Timer(0.2, stopped.set).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        ray_life.watched(lambda: never.wait(30), stopped)
    assert 0.5 < time.monotonic() - begun < 5
    never.set()


def test_work_that_ends_by_being_stopped_tells_how(monkeypatch):
    stopped = threading.Event()
    stopped.set()

    def work():
        stopped.wait()
        raise ValueError("ended")

    with pytest.raises(ValueError, match="ended"):
        ray_life.watched(work, stopped)


def test_a_controller_of_serve_that_hangs_is_told_of(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(serving, "STATUS_S", 0.3)
    monkeypatch.setattr(serving.serve, "status", lambda: never.wait(30))
    begun = time.monotonic()
    with pytest.raises(ClusterError, match="Serve's controller says nothing in 0.3 s"):
        serving.num_running("proseco")
    assert time.monotonic() - begun < 5
    never.set()


@pytest.mark.parametrize("stopped", [False, True])
def test_replicas_that_never_run_are_not_waited_for_for_ever(stopped):
    closing = threading.Event()
    if stopped:
        closing.set()
    begun = time.monotonic()
    with pytest.raises(Stopped if stopped else ClusterError, match=None if stopped else "Of 2 replicas 1 run after 0.3 s"):
        serving.wait_for_replicas(lambda: 1, 2, 0.3, closing)
    assert time.monotonic() - begun < 5
    serving.wait_for_replicas(lambda: 2, 2, 0.0, closing)

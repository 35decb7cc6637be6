"""Kills processes of one run: below its driver, or, on a cluster that it has joined, on whatever machine they are.

On a cluster that others use, too, nothing of theirs is touched: what is killed belongs to the job of that driver.
"""

from __future__ import annotations

import contextlib
import os
import signal

from cluster import processes
from cluster.config import RuntimeConfig
from cluster.environment import prepare

RAY = b"ray::"
"""What the titles of Ray's workers begin with."""
KILL_S = 60.0
"""How long the machine of a process may take to have it killed."""


def kill(runtime: RuntimeConfig, driver: int, name: str) -> str:
    """Kill one process of a run.

    Args:
        driver: number of the process that has the run.
        name: of the actor's class, e.g. ``ServeReplica``, or of a program, e.g. ``gcs_server``.
    Returns:
        what was killed; empty where there was none, or its machine did not answer.
    """
    return kill_there(runtime, driver, name) if runtime.address else kill_below(driver, name.encode())


def kill_below(driver: int, name: bytes) -> str:
    for process in sorted(processes.descendants([driver]), key=lambda p: p.pid):
        said = processes.command(process.pid)
        if said.startswith(RAY + name) or said.partition(b"\0")[0].rpartition(b"/")[2] == name:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                return f"{name.decode()} (process {process.pid})"
    return ""


def kill_there(runtime: RuntimeConfig, driver: int, name: str) -> str:
    prepared = prepare(runtime)
    try:
        import ray
        from ray._private.state import state
        from ray.exceptions import GetTimeoutError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray.init(address=runtime.address, log_to_driver=False, logging_level="ERROR")
        try:
            jobs = {j["JobID"] for j in state.job_table() if j["DriverPid"] == driver and not j["IsDead"]}
            for actor in state.actor_table(None, actor_state_name="ALIVE").values():
                if actor["JobID"] in jobs and actor["ActorClassName"].startswith(name):
                    place = NodeAffinitySchedulingStrategy(actor["Address"]["NodeID"], soft=False)
                    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(kill_actor)
                    with contextlib.suppress(GetTimeoutError):
                        if ray.get(task.remote(actor["Pid"]), timeout=KILL_S):
                            return f"{name} (process {actor['Pid']} on {actor['Address']['IPAddress']})"
            return ""
        finally:
            ray.shutdown()
    finally:
        prepared.close()


def kill_actor(pid: int) -> bool:
    """Kill a process of this machine, if it is one of Ray's workers. Was it?"""
    if not processes.command(pid).startswith(RAY):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False

"""Ways to disturb a run. Whoever adds one says when its moment is and what is done then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster import processes
from cluster.injector import kill
from components.store.artifact import MANIFEST, read_manifest
from components.store.files import children, exists, publish_bytes
from components.store.samples import shard_file
from components.tracking import JOURNAL
from pipelines.chaos.running import Running

CAUGHT_UP_S = 8.0
"""How long whoever takes over has before the sleeper wakes up."""
AWAKE_S = 180.0
"""How long the sleeper has to notice, and to end. One that does not is killed, which its exit code tells."""


def training(run: Running) -> bool:
    """Amid a training, after its first steps."""
    return any(exists(f / JOURNAL) and not exists(f / MANIFEST) for f in run.of("train"))


def sampling(run: Running) -> bool:
    """Amid a table of samples, after its first shard."""
    return any(
        not exists(f / MANIFEST) and any(p.suffix == ".json" for p in children(f / "receipts"))
        for f in run.of("generate")
    )


Strike = Callable[[Running], str]
"""Starts the run and disturbs it. Returns what was done; empty where the moment did not come."""


def killing(name: str, moment: Callable[[Running], bool]) -> Strike:
    """A strike that kills one process of the run."""

    def strike(run: Running) -> str:
        run.start()
        while run.wait_for(moment):
            assert run.driver is not None
            if done := kill(run.runtime, run.driver.pid, name):
                return f"killed {done}"
        return ""

    return strike


def killing_driver(moment: Callable[[Running], bool]) -> Strike:
    def strike(run: Running) -> str:
        driver = run.start()
        if not run.wait_for(moment):
            return ""
        driver.kill()
        return f"killed the driver (process {driver.pid})"

    return strike


def full_disk(run: Running) -> str:
    run.start(PROSECO_FAULT="disk.full")
    return "every file that was written met a full disk" if run.wait() else ""


def damaged_shard(run: Running) -> str:
    """Bytes of a finished table change."""
    run.start()
    if run.wait():
        return ""
    folder = next(run.of("generate"))
    manifest = read_manifest(folder)
    assert manifest is not None
    place = shard_file(folder / "shards", manifest.info["shards"][0])
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 0xFF
    publish_bytes(place, bytes(data))
    command = [sys.executable, "-m", "pipelines.cli", "gc", "--root", str(run.root), "--corrupt", "--delete"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"changed a byte of {place.name}; gc {said.splitlines()[0][:60]}"


def sleeping(run: Running) -> str:
    """The driver sleeps past its lease, another takes over, and the sleeper wakes up."""
    driver = run.start()
    if not run.wait_for(training):
        return ""
    group = [driver.pid, *(p.pid for p in processes.descendants([driver.pid]))]
    signal_all(group, signal.SIGSTOP)
    time.sleep(run.runtime.lease_expiry_s + 1)
    successor = run.start()
    time.sleep(CAUGHT_UP_S)
    signal_all(group, signal.SIGCONT)
    try:
        code = driver.wait(AWAKE_S)
    except subprocess.TimeoutExpired:
        signal_all(group, signal.SIGKILL)
        code = driver.wait()
    run.driver = successor
    return f"stopped the driver for longer than its lease; awake, it ended with {code}"


def signal_all(group: list[int], number: int) -> None:
    for pid in group:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


@dataclass(frozen=True)
class Fault:
    """One way to disturb a run."""

    what: str
    strike: Strike
    on: str = ""
    """``ray`` where only a cluster has it, ``own`` where only a cluster of the run's own."""


FAULTS: dict[str, Fault] = {
    "driver": Fault("the driver is killed amid a training", killing_driver(training)),
    "driver-sampling": Fault("the driver is killed amid a table", killing_driver(sampling)),
    "worker": Fault("a training worker is killed", killing("RayTrainWorker", training), "ray"),
    "watcher": Fault(
        "the process that watches over the workers is killed", killing("TrainController", training), "ray"
    ),
    "replica": Fault("a replica is killed", killing("ServeReplica", sampling), "ray"),
    "controller": Fault("Serve's controller is killed", killing("ServeController", sampling), "ray"),
    "head": Fault("the head of the cluster is killed", killing("gcs_server", sampling), "own"),
    "disk": Fault("the disk is full", full_disk),
    "damage": Fault("a finished shard is damaged", damaged_shard),
    "sleep": Fault("a holder sleeps past its lease", sleeping),
}

"""Notices that a run has lost its cluster: what waits for one that is gone would wait for ever."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from typing import TypeVar

import ray
from ray import NodeID
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError, RpcError

from cluster import processes
from cluster.aside import aside
from cluster.cluster import Stopped
from cluster.ray_tasks import POLL_S, first_line
from components.errors import ClusterError

HEADS = {b"gcs_server": "The GCS", b"raylet": "The raylet"}
"""Programs that a cluster cannot be without."""
ASK_S = 5
"""How long the GCS of a joined cluster has for an answer."""
REACH_S = 20.0
"""How long a cluster may take for its first answer."""
SILENT_S = 30.0
"""How long it may be silent. One that is started anew is back sooner; after a minute Ray ends this process, with a dump in
place of a sentence, and keeps it from closing what it holds."""

END_S = 5.0
"""How long what is stopped has to come back by itself."""

Look = Callable[[], str]
"""Says what was lost, without its full stop; nothing as long as nothing was."""
T = TypeVar("T")


def require_answer(address: str) -> None:
    """Raises ClusterError where no cluster answers at an address. Ray itself tries for minutes, and says so by the line."""

    def ask() -> str:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ASK_S).close()
            GcsClient(address=address).check_alive([], timeout=ASK_S)
        except (OSError, ValueError, RayError) as error:
            return first_line(error)
        return ""

    try:
        trouble = aside(ask).result(REACH_S)
    except TimeoutError:
        trouble = f"no answer in {REACH_S:g} s"
    if trouble:
        raise ClusterError(
            f"No Ray cluster answers at {address} (runtime.address): {trouble}. See whether it runs, whether this is the address "
            f"of its GCS, such as HEAD:6379, and whether RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH are those of the cluster."
        )


def head_of(command: bytes) -> str:
    """What such a program is called; empty for any other process."""
    return HEADS.get(command.partition(b"\0")[0].rpartition(b"/")[2], "")


def of_own(started: Iterable[processes.Process]) -> Look:
    """Looks at the processes of a cluster that was started here."""
    heads = {p: name for p in started if (name := head_of(processes.command(p.pid)))}

    def look() -> str:
        for process, name in heads.items():
            if not process.lives():
                return f"{name}, a process of the cluster that was started for this run, died, and the cluster with it"
        return ""

    return look


def of_joined() -> Look:
    """Asks the GCS of the cluster that was joined, which knows who lives. It is on another machine, perhaps."""
    context = ray.get_runtime_context()
    address, node = context.gcs_address, NodeID.from_hex(context.get_node_id())
    gcs = GcsClient(address=address)
    heard = time.monotonic()

    def look() -> str:
        nonlocal heard
        try:
            (lives,) = gcs.check_alive([node], timeout=ASK_S)
        except RpcError:
            silent = time.monotonic() - heard > SILENT_S
            return f"The GCS at {address}, the head of the cluster, did not answer for {SILENT_S:g} s" if silent else ""
        heard = time.monotonic()
        return "" if lives else f"The raylet of this machine, by which this run was in the cluster at {address}, died"

    return look


def watched(work: Callable[[], T], stopped: threading.Event) -> T:
    """What some work comes to, which is done in a thread of its own: much of Ray waits without an end, and without a look
    whether there is a cluster. A training would also take the handler of Ctrl-C from the main thread.

    Raises:
        Stopped: ``stopped`` was set, and the work did not end by that.
    """
    came = aside(work)
    told = math.inf
    while not wait([came], POLL_S).done:
        if stopped.is_set():
            told = min(told, time.monotonic())
        if time.monotonic() > told + END_S:
            raise Stopped
    return came.result()

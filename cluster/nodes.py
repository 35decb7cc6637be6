"""A Ray cluster of several nodes on this machine, closed to others: for trials and tests of what is meant for many machines.

All of it listens to loopback, and every command needs the token of the cluster. Its processes are children of this one, and
end with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import processes
from cluster.config import RuntimeConfig
from cluster.environment import prepare
from components.errors import ClusterError

HOST = "127.0.0.1"
START_S = 60.0
STOP_S = 10.0
POLL_S = 0.2
JOB_STOP_S = 60
"""How long a job that is stopped may take to close what it holds."""


@dataclass(frozen=True)
class LocalNodes:
    """How the cluster is reached."""

    address: str
    """For ``runtime.address``."""
    jobs: str
    """URL that jobs are sent to."""
    token: Path
    """File with the token, without which nothing is taken."""
    lost: Callable[[], int]
    """Nodes that have ended; the cluster lives as long as the first of them, its head, is not among them."""
    lives: Callable[[], bool]
    add: Callable[[], object]
    """Start another node."""

    def environment(self) -> dict[str, str]:
        """Variables of whoever joins the cluster or sends it jobs."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_API_SERVER_ADDRESS": self.jobs,
        }


@contextlib.contextmanager
def local_nodes(number: int, cpus: int) -> Iterator[LocalNodes]:
    """A cluster of so many nodes that say that they have ``cpus`` CPUs each, for the length of the block.

    Ray must not have been imported before.

    Raises:
        ClusterError: it takes no jobs after a while.
    """
    prepared = prepare(RuntimeConfig())
    prepared.change("RAY_JOB_STOP_WAIT_TIME_S", str(JOB_STOP_S))
    prepared.change("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")  # of jobs' commands
    before, nodes = processes.children(), []
    try:
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
        head = {"include_dashboard": True, "dashboard_host": HOST, **ports}

        def add(**options: object) -> None:
            nodes.append(cluster.add_node(num_cpus=cpus, node_ip_address=HOST, **options))

        for options in [head, *[{}] * (number - 1)]:
            add(**options)
        assert prepared.token is not None
        made = LocalNodes(
            cluster.address,
            f"http://{HOST}:{ports['dashboard_port']}",
            prepared.token,
            lost=lambda: sum(bool(n.dead_processes()) for n in nodes),
            lives=lambda: not nodes[0].dead_processes(),
            add=add,
        )
        wait(made)
        yield made
    finally:
        started = processes.children() - before
        below = started | processes.descendants(p.pid for p in started)
        for node in reversed(nodes):
            node.kill_all_processes(check_alive=False, allow_graceful=True)
        processes.end(below, STOP_S)
        prepared.close()


def wait(nodes: LocalNodes) -> None:
    """Wait until jobs are taken."""
    headers = {"Authorization": f"Bearer {nodes.token.read_text()}"}
    begun = time.monotonic()
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(urllib.request.Request(f"{nodes.jobs}/api/jobs/", headers=headers), timeout=5):
                return
        if not nodes.lives() or time.monotonic() - begun > START_S:
            logs = f"{os.environ['RAY_TMPDIR']}/ray/session_latest/logs"
            raise ClusterError(
                f"The cluster on this machine took no jobs within {START_S:g} s. Its logs lie in {logs}; "
                f"see whether the machine has memory and disk left (`proseco doctor`)."
            )
        time.sleep(POLL_S)


def free_port() -> int:
    """A port of loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

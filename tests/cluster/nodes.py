"""A cluster of several nodes in a process of its own, which ``proseco cluster up`` is."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Nodes:
    process: subprocess.Popen[str]
    printed: str

    @property
    def environment(self) -> dict[str, str]:
        return dict(re.findall(r"^export (\w+)=(.+)$", self.printed, re.MULTILINE))

    @property
    def address(self) -> str:
        return re.search(r"runtime\.address=(\S+)", self.printed)[1]

    @property
    def token(self) -> Path:
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"])


@contextlib.contextmanager
def nodes(number: int, cpus: int = 2, **variables: str) -> Iterator[Nodes]:
    command = [sys.executable, "-m", "pipelines.cli", "cluster", "up", "--local", str(number), "--cpus", str(cpus)]
    with started(command, variables) as made:
        yield made


@contextlib.contextmanager
def growing(cpus: int = 1, **variables: str) -> Iterator[Nodes]:
    """A cluster of one node; each line that its standard input gets is another."""
    code = """
import sys
from cluster.nodes import local_nodes
with local_nodes(1, int(sys.argv[1])) as made:
    for name, value in made.environment().items():
        print(f"export {name}={value}")
    print(f"runtime.address={made.address}", flush=True)
    for line in sys.stdin:
        made.add()
"""
    with started([sys.executable, "-c", code, str(cpus)], variables) as made:
        yield made


@contextlib.contextmanager
def started(command: list[str], variables: dict[str, str]) -> Iterator[Nodes]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=os.environ | variables, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    )
    printed = ""
    try:
        while "runtime.address=" not in printed:
            line = process.stdout.readline()
            assert line, f"it did not start: {printed!r}"
            printed += line
        yield Nodes(process, printed)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)

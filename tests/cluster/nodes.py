"""A cluster of several nodes in a process of its own, which ``proseco cluster up`` is."""

from __future__ import annotations

import contextlib
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
def nodes(number: int, cpus: int = 2) -> Iterator[Nodes]:
    command = [sys.executable, "-m", "pipelines.cli", "cluster", "up", "--local", str(number), "--cpus", str(cpus)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
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

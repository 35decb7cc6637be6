"""Processes of our own tree, by number and time of start, so that a number that was given again is nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
KILLED_S = 30.0
"""How long the kernel may take to end who was killed: one that waits for a disk ends when that answers."""


@dataclass(frozen=True)
class Process:
    """One process. ``start`` is in clock ticks since the machine started."""

    pid: int
    start: int

    def lives(self) -> bool:
        """Is it there, other than as a zombie?"""
        state = read(self.pid)
        return state is not None and state[1:] == (self.start, True)


def read(pid: int) -> tuple[int, int, bool] | None:
    """(parent, start, is it more than a zombie) of a process, or None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return int(fields[1]), int(fields[19]), fields[0] != "Z"


def command(pid: int) -> bytes:
    """The command line of a process, empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(roots: Iterable[int]) -> set[Process]:
    """All processes that the roots started, and those that these started. Empty where there is no /proc."""
    parents: dict[int, list[Process]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        found = read(int(path.name))
        if found is not None:
            parents.setdefault(found[0], []).append(Process(int(path.name), found[1]))
    below: set[Process] = set()
    todo = list(roots)
    while todo:
        for process in parents.get(todo.pop(), ()):
            if process not in below:
                below.add(process)
                todo.append(process.pid)
    return below


def children() -> set[Process]:
    """The direct children of this process."""
    return {p for p in descendants([os.getpid()]) if (found := read(p.pid)) and found[0] == os.getpid()}


def end(processes: set[Process], patience_s: float) -> None:
    """Wait for processes that are about to end, and kill those that are not gone in time."""
    deadline = time.monotonic() + patience_s
    while (alive := [p for p in processes if p.lives()]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for process in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + KILLED_S
    while any(p.lives() for p in alive) and time.monotonic() < deadline:
        time.sleep(POLL_S)

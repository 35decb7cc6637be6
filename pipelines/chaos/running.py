"""A run as a command that may be disturbed: started, watched, and looked over for what it leaves behind."""

from __future__ import annotations

import math
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster import processes
from cluster.config import RuntimeConfig
from pipelines.graph.stage import Stage

GONE_S = 150.0
"""How long an embedded cluster may take to follow a driver that was killed; Ray's agents look now and then."""
MOMENT_S = 600.0
"""How long the moment of a fault may take to come."""
STOP_S = 60.0
"""How long a driver may take to stop when it is told to."""
POLL_S = 0.05


@dataclass
class Running:
    """A run under fire."""

    command: list[str]
    root: Path
    runtime: RuntimeConfig
    stages: Mapping[str, Stage]
    log: Path
    draw: random.Random
    patience_s: float = math.inf
    """How long the command may take."""
    driver: subprocess.Popen[bytes] | None = None
    hung: bool = False
    """Was it ended because it took longer?"""
    seen: set[processes.Process] = field(default_factory=set)

    def start(self, **variables: str) -> subprocess.Popen[bytes]:
        """Give the command."""
        environment = {k: v for k, v in os.environ.items() if k != "PROSECO_FAULT"} | variables
        with self.log.open("ab") as said:
            self.driver = subprocess.Popen(
                self.command, stdout=said, stderr=said, env=environment, start_new_session=True
            )
        return self.driver

    def look(self) -> None:
        """Remember what the driver has started."""
        if self.driver is not None:
            self.seen |= processes.descendants([self.driver.pid])

    def wait(self) -> int:
        """Wait for the end of the command, and end it where it takes too long. Returns its exit code."""
        assert self.driver is not None
        begun = time.monotonic()
        while self.driver.poll() is None:
            self.look()
            if time.monotonic() - begun > self.patience_s:
                self.hung = True
                self.end()
            time.sleep(POLL_S)
        return self.driver.returncode

    def end(self) -> None:
        """Have the driver stop, as a scheduler does, and kill it with all that it started where it does not."""
        if self.driver is None or self.driver.poll() is not None:
            return
        self.look()
        self.driver.terminate()
        try:
            self.driver.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
            processes.end(self.seen, 0.0)

    def wait_for(self, moment: Callable[[Running], bool]) -> bool:
        """Wait for a moment. False where the run ended before it came."""
        assert self.driver is not None
        begun = time.monotonic()
        while not moment(self):
            self.look()
            if self.driver.poll() is not None or time.monotonic() - begun > MOMENT_S:
                return False
            time.sleep(POLL_S)
        time.sleep(self.draw.uniform(0, 0.5))
        self.look()
        return self.driver.poll() is None

    def of(self, name: str) -> Iterator[Path]:
        """Folders of this run's stages of a name."""
        for stage in self.stages.values():
            if stage.name == name:
                yield stage.folder(self.root)

    def left(self) -> list[str]:
        """Processes that the run has left behind, after a while."""
        deadline = time.monotonic() + GONE_S
        while (alive := [p for p in self.seen if p.lives()]) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [processes.command(p.pid)[:60].decode(errors="replace") for p in alive]

"""A run as a command that may be disturbed: started, watched, and looked over for what it leaves behind."""

from __future__ import annotations

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
    driver: subprocess.Popen[bytes] | None = None
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
        """Wait for the end of the command. Returns its exit code."""
        assert self.driver is not None
        while self.driver.poll() is None:
            self.look()
            time.sleep(POLL_S)
        return self.driver.returncode

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

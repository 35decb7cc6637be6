"""Which stage runs when: those whose inputs are there, side by side as far as the machines have room.

A stage is made under its lease, by one process; another that needs it goes on with what else there is to do, and
waits for it where there is nothing. What a failed stage was needed for is left out, and the rest is made.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.config import RuntimeConfig
from components.errors import LeaseHeld, ProsecoError, StoreError
from components.store.lease import Lease
from pipelines.graph.plan import Finding, find
from pipelines.graph.progress import Screen
from pipelines.graph.resources import Resources, fits
from pipelines.graph.stage import Stage

POLL_S = 0.5
PATIENCE_S = 20.0
"""How long stages may take to end when the run is stopped."""

Make = Callable[[Finding, Lease], None]


@dataclass
class Outcome:
    """What became of the stages that were not made, by key."""

    failed: dict[str, tuple[Stage, BaseException]] = field(default_factory=dict)
    left_out: dict[str, Stage] = field(default_factory=dict)
    """Those that need a failed one."""


@dataclass
class Schedule:
    """One execution of stages that are to be made, inputs first."""

    todo: list[Finding]
    root: Path
    purpose: str
    runtime: RuntimeConfig
    capacity: Callable[[], Resources]
    make: Make
    stop: Callable[[], None]
    """Ends what runs, when the run is stopped."""
    screen: Screen
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.waiting = {f.stage.key: f.stage for f in self.todo}
        self.running: dict[str, Stage] = {}
        self.leases: dict[str, Lease] = {}
        self.threads: list[threading.Thread] = []
        self.ended: queue.Queue[tuple[Stage, BaseException | None]] = queue.Queue()
        self.blocked_since: dict[str, float] = {}
        """Stages that somebody else makes, by key, since when."""
        self.number = 0

    def run(self) -> Outcome:
        """Make all that can be made."""
        try:
            while self.waiting or self.running:
                started = self.start_ready()
                if self.running or not started:
                    self.collect()
        except BaseException:
            self.stop()
            deadline = time.monotonic() + PATIENCE_S
            for thread in self.threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            for key in list(self.leases):
                self.give_back(key)
            raise
        return self.outcome

    def start_ready(self) -> bool:
        """Start what can be started now. Was there anything?"""
        started = crowded = False
        for key, stage in list(self.waiting.items()):
            if any(below.key in self.waiting or below.key in self.running for below in stage.made_of()):
                continue
            if self.needs_failed(stage):
                self.outcome.left_out[key] = self.waiting.pop(key)
                started = True
                continue
            # What finds no room is not overtaken by what takes of the same room, or it might wait to the end.
            if crowded and stage.work != "driver":
                continue
            if not self.has_room(stage):
                crowded = crowded or stage.work != "driver"
                continue
            try:
                if self.take(stage):
                    self.start(self.waiting.pop(key))
                    started = True
            except ProsecoError as error:
                self.waiting.pop(key, None)
                self.fail(stage, error)
                started = True
        return started

    def fail(self, stage: Stage, error: BaseException) -> None:
        self.outcome.failed[stage.key] = stage, error
        self.screen.say(f"      {stage.label} failed; what does not need it goes on")

    def has_room(self, stage: Stage) -> bool:
        if not self.running:
            return True
        if self.runtime.jobs and len(self.running) >= self.runtime.jobs:
            return False
        return fits(stage.work, [s.work for s in self.running.values()], self.runtime, self.capacity())

    def needs_failed(self, stage: Stage) -> bool:
        return any(below.key in self.outcome.failed or below.key in self.outcome.left_out for below in stage.made_of())

    def take(self, stage: Stage) -> bool:
        """Have the stage's lease. Raises LeaseHeld where somebody else had it for too long."""
        lease = self.leases.get(stage.key) or Lease(
            self.root, f"{stage.name}-{stage.key}", self.purpose, self.runtime.lease_expiry_s
        )
        self.leases[stage.key] = lease
        holder = lease.take()
        if holder is None:
            self.blocked_since.pop(stage.key, None)
            return True
        since = self.blocked_since.get(stage.key)
        if since is None:
            self.screen.say(f"{stage.label} is being made by {holder}; waiting for it")
            since = self.blocked_since[stage.key] = time.monotonic()
        limit = self.runtime.lease_wait_s
        if limit is not None and time.monotonic() - since >= limit:
            raise LeaseHeld(
                f"{stage.label} is being made by {holder}. Wait for it (runtime.lease_wait_s={limit:g} was the limit), end it, "
                f"or use another runtime.root. If it died on another machine, whoever waits {lease.expiry_s:g} s without a "
                f"sign of its life takes over."
            )
        return False

    def start(self, stage: Stage) -> None:
        """Make a stage whose lease is held: here where stages are made one by one, else in a thread."""
        finding = find(stage, self.root)
        self.number += 1
        if finding.state == "fresh":  # somebody else made it meanwhile
            self.screen.say(f"[{self.number}/{len(self.todo)}] {stage.label}  was made by another run {stage.key}")
            self.give_back(stage.key)
            return
        self.screen.stage(self.number, len(self.todo), finding)
        self.running[stage.key] = stage
        if self.runtime.jobs == 1:
            self.work(finding)
            return
        thread = threading.Thread(target=self.work, args=(finding,), daemon=True, name=stage.label)
        self.threads.append(thread)
        thread.start()

    def work(self, finding: Finding) -> None:
        error: BaseException | None = None
        try:
            self.make(finding, self.leases[finding.stage.key])
        except BaseException as caught:  # in a thread nobody else would learn of it
            if self.runtime.jobs == 1 and not isinstance(caught, Exception):
                raise
            error = caught
        self.ended.put((finding.stage, error))

    def give_back(self, key: str) -> None:
        """Give a lease back. On a full disk that can not be written; then it ends with this process, or expires, and what
        became of the stage is told."""
        with suppress(StoreError, OSError):
            self.leases.pop(key).release()

    def collect(self) -> None:
        """Wait a moment for a stage that ends."""
        try:
            stage, error = self.ended.get(timeout=POLL_S)
        except queue.Empty:
            return
        del self.running[stage.key]
        self.give_back(stage.key)
        if error is not None:
            self.fail(stage, error)

"""A lease on a stage: one process makes it, another that needs it waits, and a dead holder does not block for long.

The leases of a stage are numbered files, ``<root>/.leases/<stage>-<key>/00000001.json``, each created where there was
none and written by its holder alone; the largest number counts, and none is used again: who gives a lease back leaves
its file without a name in it. To take over is to create the next number, which of several contenders one can do, on a
disk and on an object store alike. Whoever slept and was taken over learns it from ``Fence.check``, which is asked
before anything is published; what it may still write is a number that counts no more.

No two clocks are compared: a holder on this machine is silent by this machine's clock, and one elsewhere when its
file did not change while a contender watched it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from components.errors import ConfigError, LeaseHeld, LeaseLost, StoreError
from components.options import options, parse
from components.store.files import children, create_text, publish_text, read_text, remove
from components.store.links import by_link

FOLDER = ".leases"
POLL_S = 0.5


@options
class Holder:
    """Who has a lease, as its file says."""

    id: str = ""
    space: str = ""
    """Where ``pid`` means something: a machine since its start, and a namespace of processes in it."""
    host: str = ""
    pid: int = 0
    start: int = 0
    """When the process was started, in ticks of its machine; 0 where that is not known."""
    purpose: str = ""
    since: str = ""
    renewed: float = 0.0
    """Seconds by the uptime of the holder's machine, which no clock that is set can change."""
    expiry_s: float = 0.0
    """How long the holder may be silent."""

    def __str__(self) -> str:
        return f"{self.purpose} (process {self.pid} on {self.host}, since {self.since})"


@dataclass(frozen=True)
class Fence:
    """What a holder shows before it publishes; it travels to any process that works for it."""

    chain: Path
    id: str
    expiry_s: float

    def check(self) -> None:
        """Raises LeaseLost where somebody else has the lease, or nobody."""
        number, holder = highest(self.chain)
        if not number:
            raise LeaseLost(
                f"{self.chain} does not hold the lease that this run has, seen from {platform.node()}. The root is not the "
                f"same folder here, or somebody removed {FOLDER}. Give runtime.root a folder or URL that every machine of "
                f"the cluster sees by the same name, then run the same command again."
            )
        if holder is None or holder.id != self.id:
            by = f"by {holder}" if holder else "and finished"
            raise LeaseLost(
                f"{self.chain.name} was taken over {by}, because this run had shown no sign of life for {self.expiry_s:g} s: "
                f"it was suspended, or could not write to the root. It published nothing more. Run the same command again: "
                f"it takes what the other made."
            )


class Lease:
    """The lease of one stage, held from ``take`` or ``wait`` until ``release``."""

    def __init__(self, root: Path, name: str, purpose: str, expiry_s: float = 60.0):
        self.chain = root / FOLDER / name
        self.expiry_s = expiry_s
        self.record = Holder(
            id=uuid.uuid4().hex,
            space=space(),
            host=platform.node(),
            pid=os.getpid(),
            start=start_of(os.getpid()) or 0,
            purpose=purpose,
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            expiry_s=expiry_s,
        )
        self.fence = Fence(self.chain, self.record.id, expiry_s)
        self.number = 0
        self._seen: tuple[Holder, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> Holder | None:
        """Have the lease, if nobody alive has it. Returns who has it otherwise. Raises StoreError where it would be kept
        somewhere else."""
        if by_link(self.chain, self.chain.parent.parent):
            raise StoreError(
                f"{self.chain}, where a lease is kept, is reached by a link, and numbered files are removed from there. Nothing "
                f"was changed. Remove the link and run the same command again."
            )
        number, holder = highest(self.chain)
        if number and holder is not None and not self._dead(holder):
            return holder
        if not create_text(file_of(self.chain, number + 1), self._text()):
            return highest(self.chain)[1] or Holder(purpose="another run that was faster")
        # A folder that is listed while files come and go may seem to hold neither the old nor the new one.
        _, now = highest(self.chain)
        if now is None or now.id != self.record.id:
            remove(file_of(self.chain, number + 1))
            return now or Holder(purpose="another run that was faster")
        self.number = number + 1
        for old in range(number, 0, -1):
            remove(file_of(self.chain, old))
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()
        return None

    def wait(self, wait_s: float | None, say: Callable[[str], None] = lambda message: None) -> Lease:
        """Have the lease, and wait for others who have it.

        Args:
            wait_s: how long; None as long as they live.
        Raises:
            LeaseHeld: they had it longer.
        """
        start, said = time.monotonic(), False
        while (holder := self.take()) is not None:
            if wait_s is not None and time.monotonic() - start >= wait_s:
                raise LeaseHeld(
                    f"{self.chain.name} is held by {holder}. Wait for it, end it, or use another runtime.root. If it died "
                    f"on another machine, it is taken over by who waits {self.expiry_s:g} s for a sign of its life."
                )
            if not said:
                say(f"{self.chain.name} is held by {holder}; waiting for it")
                said = True
            time.sleep(min(POLL_S, self.expiry_s / 4))
        return self

    def release(self) -> None:
        """Give it back. That of a successor stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with suppress(LeaseLost):
            self.fence.check()
            publish_text(file_of(self.chain, self.number), json.dumps(asdict(Holder())))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _text(self) -> str:
        return json.dumps(asdict(self.record) | {"renewed": time.monotonic()})

    def _dead(self, holder: Holder) -> bool:
        expiry_s = max(self.expiry_s, holder.expiry_s)
        if holder.space == self.record.space:
            silent = time.monotonic() - holder.renewed > expiry_s
            return silent or not process_lives(holder.pid, holder.start)
        if self._seen is None or self._seen[0] != holder:
            self._seen = holder, time.monotonic()
        return time.monotonic() - self._seen[1] > expiry_s

    def _renew(self) -> None:
        while not self._stop.wait(self.expiry_s / 3):
            # What can not be written now may be written the next time; if not, somebody takes over and the fence says so.
            with suppress(Exception):
                try:
                    self.fence.check()
                except LeaseLost:
                    return
                publish_text(file_of(self.chain, self.number), self._text())


def file_of(chain: Path, number: int) -> Path:
    return chain / f"{number:08d}.json"


def highest(chain: Path) -> tuple[int, Holder | None]:
    """The number that counts, 0 where there is none, and its holder; None where its file names nobody.

    Raises:
        OSError: the file cannot be read now; that says nothing of who has the lease.
    """
    while True:
        found = [int(p.stem) for p in children(chain) if re.fullmatch(r"\d{8}\.json", p.name)]
        number = max(found, default=0)
        if not number:
            return 0, None
        try:
            holder = parse(Holder, json.loads(read_text(file_of(chain, number))))
        except FileNotFoundError:
            continue  # it was taken over since it was listed
        except (ValueError, RecursionError, ConfigError):
            return number, None
        return number, holder if holder.id and holder.space else None


def space() -> str:
    """This machine since its start, and the namespace that process numbers are of."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def start_of(pid: int) -> int | None:
    """When a process was started, in ticks of the machine; None where there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def process_lives(pid: int, start: int) -> bool:
    """Is there a process of this number that was started then, other than a zombie?"""
    if Path("/proc/self/stat").exists():
        return start_of(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

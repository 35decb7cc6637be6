"""A lease on a root: one run at a time, and a dead holder does not block the next for long.

The lease is a file created exclusively. Its holder renews it from a thread; one that was not renewed
in time, or whose process on this very machine is gone, is taken over by renaming it away first, which
only one contender can do.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.errors import LeaseHeld
from components.store.files import publish_text

NAME = ".lease.json"


class Lease:
    """Use as a context manager around everything that writes to a root."""

    def __init__(self, root: Path, purpose: str, expiry_s: float = 60.0, wait_s: float = 0.0):
        self.path = root / NAME
        self.expiry_s = expiry_s
        self.wait_s = wait_s
        self.record = {
            "id": uuid.uuid4().hex,
            "host": platform.node(),
            "pid": os.getpid(),
            "purpose": purpose,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.say: Callable[[str], None] = lambda message: None

    def __enter__(self) -> Lease:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait_s
        said = False
        while not self._try():
            holder = self._read() or {}
            who = (
                f"{self.path.parent} is in use by {holder.get('purpose', 'another run')} "
                f"(process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')})"
            )
            if time.monotonic() >= deadline:
                raise LeaseHeld(
                    f"{who}. Wait for it (runtime.lease_wait_s=600), end it, or use another runtime.root. "
                    f"If it died on another machine, the lease expires {self.expiry_s:g} s after its last sign of life."
                )
            if not said:
                self.say(f"{who}; waiting up to {self.wait_s:g} s")
                said = True
            time.sleep(min(1.0, self.expiry_s / 4))
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if (self._read() or {}).get("id") == self.record["id"]:
            self.path.unlink(missing_ok=True)

    def _try(self) -> bool:
        text = json.dumps(self.record | {"renewed": time.time()})
        private = self.path.with_name(f"{NAME}.{self.record['id']}")
        private.write_text(text, encoding="utf-8")
        try:
            os.link(private, self.path)
            return True
        except FileExistsError:
            pass
        finally:
            private.unlink()
        holder = self._read()
        return holder is not None and self._dead(holder) and self._bury(holder) and self._try()

    def _bury(self, holder: dict[str, Any]) -> bool:
        """Move a dead holder's lease away. False where somebody else was faster."""
        grave = self.path.with_name(f"{NAME}.{self.record['id']}.expired")
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return False
        if json.loads(grave.read_text(encoding="utf-8"))["id"] != holder["id"]:
            os.rename(grave, self.path)  # a new holder slipped in between: give it back its lease
            return False
        grave.unlink()
        return True

    def _dead(self, holder: dict[str, Any]) -> bool:
        if time.time() - holder.get("renewed", 0) > self.expiry_s:
            return True
        return holder.get("host") == platform.node() and not process_lives(int(holder["pid"]))

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return found
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _renew(self) -> None:
        while not self._stop.wait(self.expiry_s / 3):
            publish_text(self.path, json.dumps(self.record | {"renewed": time.time()}))


def process_lives(pid: int) -> bool:
    """Is there a process of this number, other than a zombie?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    except (OSError, IndexError):
        return True
    return state != "Z"

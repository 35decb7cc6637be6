"""Named points at which a run may be killed, so that recovery is tested where it matters.

``PROSECO_FAULT="train.after_checkpoint"`` (or ``name:3`` for its third passage) ends the whole run
with SIGKILL, which nothing can catch, when that point is reached: the process itself and, where it
is another one, the process that started the run. ``name:3:hang`` has the process stay there for ever
instead, ``name:3:slow`` wait a moment there then and ever after. ``PROSECO_FAULT="disk.full"`` makes the next
published file fail as a full disk does. Without the variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import errno
import os
import signal
import time

POINTS = (
    "store.before_manifest",
    "store.after_manifest",
    "tokenize.before_shard",
    "tokenize.after_shard",
    "train.mid_step",
    "train.before_checkpoint",
    "train.mid_checkpoint",
    "train.after_checkpoint",
    "generate.mid_shard",
    "generate.before_publish",
    "generate.mid_publish",
    "generate.after_publish",
    "score.before_publish",
)

MOMENT_S = 0.1

_passages: dict[str, int] = {}


def point(name: str) -> None:
    """Die here if the environment asks for it. ``name`` must stand in ``POINTS``."""
    wanted = os.environ.get("PROSECO_FAULT")
    if wanted is None:
        return
    wanted_name, nth, manner = (*wanted.split(":"), "", "")[:3]
    if wanted_name != name:
        return
    _passages[name] = _passages.get(name, 0) + 1
    if _passages[name] < int(nth or 1):
        return
    while manner == "hang":
        time.sleep(3600)
    if manner == "slow":
        time.sleep(MOMENT_S)
        return
    driver = os.environ.get("PROSECO_DRIVER_PID")
    if driver and int(driver) != os.getpid():
        os.kill(int(driver), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk(path: object) -> None:
    """Raise what the operating system raises when the disk is full, if the environment asks for it."""
    if os.environ.get("PROSECO_FAULT") == "disk.full":
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

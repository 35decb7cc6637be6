"""What files hold, without reading them again: the digests of files, remembered with what `stat` says of them.

A file whose size, times and inode are those of its last hash holds the same bytes, unless it was hashed so soon after
it was written that a later write could have left them all equal (git calls that racily clean). Such a digest
serves this process, and is never written down.

Digests are remembered in the process, and between processes in a file below ``$XDG_CACHE_HOME/proseco``. That file only
saves time: where it is missing, damaged or cannot be written, everything is hashed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.store.files import digest_file, is_local

RACY_NS = 2_000_000_000
"""No file system tells times apart worse than this."""
LONG_BYTES = 10**9
"""More to hash than this is announced; and digests are written down each time so much was hashed."""
MAX_NAMED = 100
"""A content of more files is named by one digest of them all."""
SHOWN = 16
"""Hex digits of a file's digest in a content: as many as in a key."""
WAIT_S = 2
"""For another process that writes digests down."""

log = logging.getLogger("proseco")


@dataclass(frozen=True)
class Content:
    """What files hold, by names that stay when the folder is moved."""

    num_files: int
    num_bytes: int
    digest: str
    """Of all names and digests."""
    files: tuple[tuple[str, str], ...] = ()
    """Names and digests; empty where there are more than ``MAX_NAMED``."""


@dataclass(frozen=True)
class Stamp:
    """What `stat` says of a file."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    def settled(self, hashed_ns: int) -> bool:
        """Would a write after that hash show?"""
        return max(self.mtime_ns, self.ctime_ns) < hashed_ns - RACY_NS

    def text(self) -> str:
        return f"{self.size} {self.mtime_ns} {self.ctime_ns} {self.inode}"


@dataclass(frozen=True)
class Known:
    """A digest, and what the file looked like when it was made."""

    stamp: Stamp
    sha256: str
    settled: bool


_known: dict[str, Known] = {}
"""By absolute path."""
_lock = threading.Lock()
"""Stages run in several threads."""


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex, hashed only where it may have changed.

    Raises:
        DataError: the file cannot be read.
    """
    if not is_local(path):
        return digest_file(path)  # `stat` says nothing of it
    name = os.path.abspath(path)
    return digests([name])[name].sha256


def content_of(files: Mapping[str, str]) -> Content:
    """The content of files by name.

    Raises:
        DataError: a file cannot be read.
    """
    paths = {name: path if os.path.isabs(path) else os.path.abspath(path) for name, path in files.items()}
    found = digests(paths.values())
    rows = sorted((printable(name), found[path].sha256) for name, path in paths.items())
    whole = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:SHOWN]
    named = tuple((name, sha256[:SHOWN]) for name, sha256 in rows) if len(rows) <= MAX_NAMED else ()
    return Content(len(rows), sum(found[path].stamp.size for path in paths.values()), whole, named)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How two contents in canonical form differ, in words."""
    if old == new:
        return []
    before, after = dict(old["files"]), dict(new["files"])
    if not before or not after:
        sizes = [f"{c['num_files']} files of {c['num_bytes']} bytes (digest {c['digest']})" for c in (old, new)]
        return [f"{sizes[0]} -> {sizes[1]}"]
    lines = [
        f"{n} was changed ({before[n]} -> {after[n]})" for n in sorted(before) if n in after and before[n] != after[n]
    ]
    lines += [f"{name} is new" for name in sorted(after.keys() - before.keys())]
    return lines + [f"{name} is gone" for name in sorted(before.keys() - after.keys())]


def forget_unsettled() -> None:
    """Forget digests that may not show a later write, so that the files are hashed again."""
    with _lock:
        for path in [p for p, one in _known.items() if not one.settled]:
            del _known[path]


def printable(name: str) -> str:
    """A file name as text that can be written down, whatever its bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def digests(paths: Iterable[str]) -> dict[str, Known]:
    """What is known of files, by absolute path; what may have changed is hashed."""
    with _lock:
        return known(list(paths))


def known(paths: list[str]) -> dict[str, Known]:
    stamps = {path: stamp_of(path) for path in paths}
    recall({p: s for p, s in stamps.items() if p not in _known or _known[p].stamp != s})
    todo = [p for p, s in stamps.items() if p not in _known or _known[p].stamp != s]
    announce(todo, stamps)
    made: list[str] = []
    hashed = 0
    for path in todo:
        _known[path] = hash_now(path)
        made.append(path)
        hashed += _known[path].stamp.size
        if hashed >= LONG_BYTES:
            write_down(made)
            made, hashed = [], 0
    write_down(made)
    return {path: _known[path] for path in stamps}


def stamp_of(path: str) -> Stamp:
    try:
        s = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return Stamp(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def hash_now(path: str) -> Known:
    """Read a file. One that is written to meanwhile is not settled."""
    before, started = stamp_of(path), time.time_ns()
    try:
        sha256 = digest_file(Path(path))
    except OSError as error:
        raise unreadable(path, error) from error
    return Known(before, sha256, before.settled(started) and stamp_of(path) == before)


def unreadable(path: str, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read ({error.strerror or error}), and its bytes decide what must be made. "
        f"Mend its permissions, or name another path."
    )


def announce(paths: list[str], stamps: Mapping[str, Stamp]) -> None:
    """Say so where hashing will take long."""
    total = sum(stamps[path].size for path in paths)
    if total > LONG_BYTES:
        log.warning(
            "reading %.1f GB in %d new or changed files once, to know them by their bytes", total / 1e9, len(paths)
        )


def recall(stamps: Mapping[str, Stamp]) -> None:
    """Take from the file of digests those that still hold."""

    def read(base: sqlite3.Connection) -> None:
        for path, stamp in stamps.items():
            for (sha256,) in base.execute(FIND, [os.fsencode(path), stamp.text()]):
                _known[path] = Known(stamp, sha256, settled=True)

    if stamps:
        consult(read)


def write_down(paths: list[str]) -> None:
    """Put settled digests into the file of digests."""
    rows = [(os.fsencode(p), _known[p].stamp.text(), _known[p].sha256) for p in paths if _known[p].settled]
    if rows:
        consult(lambda base: base.executemany(PUT, rows))


MAKE = "CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT) WITHOUT ROWID"
FIND = "SELECT sha256 FROM digests WHERE path = ? AND stamp = ? AND typeof(sha256) = 'text' AND length(sha256) = 64"
PUT = "INSERT OR REPLACE INTO digests VALUES (?, ?, ?)"


def consult(action: Callable[[sqlite3.Connection], object]) -> None:
    """Do something with the file of digests. Trouble with it is no trouble; a damaged file is removed."""
    path = cache_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=WAIT_S)) as base, base:
            base.execute(MAKE)
            action(base)
    except (sqlite3.OperationalError, OSError):
        pass  # it cannot be written, the disk is full, or another process holds it for long
    except sqlite3.DatabaseError:
        with suppress(OSError):
            path.unlink()


def cache_file() -> Path:
    """Where digests are kept between processes."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.cache"))
    return base / "proseco" / "digests.sqlite"

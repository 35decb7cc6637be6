"""Local copies of files that lie elsewhere, for what opens a file by its name: memory maps, weights, tables.

Files of a root do not change once they are there, so a copy is good as long as the file system says the same of the
original (its size and time or tag). Copies that were used last stay, up to a limit.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.errors import StoreError
from components.store.files import is_local

FOLDER = "PROSECO_CACHE"
"""Variable that names the folder of the copies; ``proseco`` in the user's cache folder where it is not set."""
LIMIT = "PROSECO_CACHE_BYTES"
"""Variable with the bytes that copies may take together; a single file may be larger."""
DEFAULT_LIMIT = 20 << 30
IN_USE_S = 600
"""Who asked for a copy that lately may not have opened it yet; such a copy stays, even above the limit."""


def local(place: Path) -> Path:
    """A file of this machine with the bytes of the place: itself where it is one.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: the copy could not be written.
    """
    if is_local(place):
        return place
    original: Any = place
    fs = original.fs
    if not fs.isfile(original.path):
        raise FileNotFoundError(f"{place} does not exist")
    mark = hashlib.sha256(f"{place}|{fs.ukey(original.path)}".encode()).hexdigest()[:32]
    copy = folder() / mark / place.name
    try:
        if not copy.exists():
            fetch(fs, original.path, copy)
            evict(copy)
        os.utime(copy)
    except OSError as error:
        raise StoreError(
            f"{place} could not be copied to {copy}: {error.strerror or error}. Nothing was lost. Free space there, or set "
            f"{FOLDER} to a folder on a larger disk, and run the same command again."
        ) from error
    return copy


def folder() -> Path:
    """Where copies lie."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER) or base / "proseco" / "files")


def fetch(fs: Any, path: str, copy: Path) -> None:
    """Copy a file, so that another process sees all of it or none."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    private = copy.with_name(f".{uuid.uuid4().hex}")
    try:
        fs.get_file(path, str(private))
        os.replace(private, copy)
    finally:
        private.unlink(missing_ok=True)


def evict(kept: Path) -> None:
    """Remove the copies that were used longest ago, until the rest is below the limit. What a process has open or
    mapped stays readable to it."""
    limit = int(os.environ.get(LIMIT, DEFAULT_LIMIT))
    copies = []
    for path in folder().glob("*/*"):
        with suppress(FileNotFoundError):  # another process evicts, too
            if not path.name.startswith("."):
                copies.append((path, path.stat()))
    total = sum(s.st_size for _, s in copies)
    for copy, status in sorted(copies, key=lambda c: c[1].st_mtime):
        if total <= limit or status.st_mtime > time.time() - IN_USE_S:
            return
        if copy != kept:
            copy.unlink(missing_ok=True)
            total -= status.st_size


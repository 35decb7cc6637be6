"""The one door to storage: every file of a root is read, listed, published and removed through here.

A place is a ``Path`` where the root is a folder of this machine, and a path of ``universal_pathlib`` with the same
names where it is a URL of any other file system of ``fsspec``, such as ``memory://runs`` or ``s3://bucket/runs``.
Readers see all of a file or none of it. What a library reads by a local name comes from ``components.store.cache``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import faults
from components.outside import MAX_BYTES, from_json
from components.store.trouble import writing

OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"}
"""Stores of objects, where a folder is no more than how names begin and nobody has to make it."""

SHOWN_EARLY = {"file", "local", "memory"}
"""File systems on which a file can be seen before it is complete: there it is written beside and renamed."""

ATTEMPTS = 5
PAUSE_S = 0.2


def at(place: str | Path) -> Path:
    """The place of a path or URL."""
    if "://" not in str(place):
        return Path(place)
    from upath import UPath

    return UPath(place, use_listings_cache=False)  # type: ignore[return-value]  # others write there, too


def is_local(place: Path) -> bool:
    """Is it a file of this machine, which libraries can open by its name?"""
    return isinstance(place, Path)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A private local path to write what will be at ``path``; it is gone after the block.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    name = f".{path.name}.{uuid.uuid4().hex[:8]}"
    with writing(path):
        faults.full_disk(path)
        make_folder(path.parent)
        if not is_local(path):
            with tempfile.TemporaryDirectory(prefix="proseco-") as folder:
                yield Path(folder) / path.name
            return
        private = path.with_name(name)
        try:
            yield private
        finally:
            private.unlink(missing_ok=True)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """A private local path to write to, moved to ``path`` when the block ends well and removed otherwise.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    with beside(path) as private:
        yield private
        if is_local(path):
            sync(private)
            os.replace(private, path)
        else:
            upload(private, path)


def upload(private: Path, path: Any) -> None:
    """Put a local file to a place of another file system, whole or not at all."""
    fs = path.fs
    if not SHOWN_EARLY & set(protocols(fs)):
        fs.put_file(str(private), path.path)
        return
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}").path
    try:
        fs.put_file(str(private), hidden)
        fs.mv(hidden, path.path)
    finally:
        if fs.exists(hidden):
            fs.rm_file(hidden)


def publish_text(path: Path, text: str) -> None:
    """Write a text file at once, in place of one that is there."""
    with publishing(path) as private:
        private.write_text(text, encoding="utf-8")


def publish_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file at once, part by part, in place of one that is there."""
    with publishing(path) as private, private.open("wb") as file:
        file.writelines(parts)


def create_text(path: Path, text: str) -> bool:
    """Write a text file where there is none. Of several who try at once with different texts, one succeeds.

    Returns:
        Whether the text is there; False where another file was there.
    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    if not is_local(path):
        return create_elsewhere(path, text.encode())
    with beside(path) as private:
        private.write_text(text, encoding="utf-8")
        sync(private)
        try:
            os.link(private, path)
        except FileExistsError:
            return False
    return True


def create_elsewhere(path: Any, data: bytes) -> bool:
    fs = path.fs
    make_folder(path.parent)
    if "file" not in protocols(fs):
        return create_object(fs, path.path, data)
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}").path
    fs.pipe_file(hidden, data)  # its own way of creating a file shows it before it is complete
    try:
        fs.link(hidden, path.path)
    except FileExistsError:
        return False
    finally:
        fs.rm_file(hidden)
    return True


def create_object(fs: Any, path: str, data: bytes) -> bool:
    for attempt in range(ATTEMPTS):
        try:
            fs.pipe_file(path, data, mode="create")
            return True
        except OSError as error:
            # Not every store says in the same words that there is one. And it may be ours: where the answer to a
            # request is lost, it is sent again.
            if fs.exists(path):
                return bool(fs.cat_file(path) == data)
            if error.errno != errno.EBUSY or attempt == ATTEMPTS - 1:  # busy with another writer, who may yet fail
                raise
            time.sleep(PAUSE_S)
    raise AssertionError


def append_text(path: Path, text: str) -> None:
    """Put text to the end of a file that one process writes, and make it where it is missing. Raises StoreError."""
    with writing(path):
        faults.full_disk(path)
        make_folder(path.parent)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def make_folder(folder: Any) -> None:
    """Make a folder and those above it, where they are missing."""
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
    elif not OBJECTS & set(protocols(folder.fs)):
        folder.fs.makedirs(folder.path, exist_ok=True)


def sync(private: Path) -> None:
    """Have the disk hold a file."""
    with private.open("rb") as file:
        os.fsync(file.fileno())


def protocols(fs: Any) -> tuple[str, ...]:
    """The names of a file system."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_part(path: Any, start: int, end: int) -> bytes:
    """The bytes [start, end) of a file, and of it no more. Raises FileNotFoundError, or ValueError where it ends before."""
    if is_local(path):
        with path.open("rb", buffering=0) as file:
            found = os.pread(file.fileno(), end - start, start)
    else:
        found = path.fs.cat_file(path.path, start=start, end=end)  # without what an open one reads ahead
    if len(found) != end - start:
        raise ValueError(f"it ends before byte {end}")
    return found


def read_bytes(path: Any) -> bytes:
    """All of a file. Raises FileNotFoundError."""
    if is_local(path):
        return path.read_bytes()  # type: ignore[no-any-return]
    return path.fs.cat_file(path.path)  # type: ignore[no-any-return]  # an open one of memory shares its place with all readers


def read_text(path: Any) -> str:
    """All of a text file. Raises FileNotFoundError, or ValueError where it is not UTF-8 or longer than any that we write."""
    if size_of(path) > MAX_BYTES and not path.is_symlink():
        raise ValueError(f"it is longer than {MAX_BYTES >> 20} MiB")
    return read_bytes(path).decode("utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises FileNotFoundError, or ValueError where it holds something else."""
    found = from_json(read_text(path))
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def read_json(path: Path) -> Any:
    """What a file holds, or None where it is missing, a link or no JSON."""
    try:
        return None if path.is_symlink() else from_json(read_text(path))
    except (OSError, ValueError):
        return None


def exists(path: Path) -> bool:
    """Is there a file or folder?"""
    return path.exists()


def is_file(path: Any) -> bool:
    """Is it a file, and no folder, pipe or device, which a folder of somebody else may hold and which never end?"""
    return path.is_file() if is_local(path) else bool(path.fs.isfile(path.path))


def size_of(path: Any) -> int:
    """Bytes of a file; of a link, those of the link. Raises FileNotFoundError."""
    return os.lstat(path).st_size if is_local(path) else int(path.fs.info(path.path)["size"])


def mtime_of(path: Path) -> int:
    """When a file was written last, in nanoseconds since 1970; 0 where its file system is not asked."""
    return os.lstat(path).st_mtime_ns if is_local(path) else 0


def folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted; a link to one is none, and where there is no folder there are none."""
    if is_local(path):
        if not path.is_dir():
            return []
        with os.scandir(path) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
    return sorted((p for p in children(path) if p.is_dir()), key=str)


def children(path: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing where there is none."""
    return sorted(path.iterdir(), key=str) if path.is_dir() else []


def files_below(folder: Any) -> list[Path]:
    """The files in a folder and in the folders below it, sorted; links to folders are not followed."""
    if is_local(folder):
        return sorted(Path(base) / name for base, _, names in os.walk(folder) for name in names)
    start = str(folder.path).rstrip("/")
    found = folder.fs.find(start) if folder.fs.exists(start) else []
    return [folder.joinpath(*p.removeprefix(start).strip("/").split("/")) for p in sorted(found)]


def remove(path: Path) -> None:
    """Remove a file, where it is there. Raises StoreError."""
    with writing(path):
        path.unlink(missing_ok=True)


def remove_tree(folder: Any) -> None:
    """Remove a folder with all that it holds, where it is there. A link in it is removed, and what it leads to is not."""
    if not exists(folder):
        return
    if is_local(folder):
        shutil.rmtree(folder)
    else:
        folder.fs.rm(folder.path, recursive=True)

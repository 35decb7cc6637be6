"""Publishing files so that a reader sees all of one or none of it."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components import faults
from components.errors import StoreError


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """A private path to write to, renamed to ``path`` when the block ends well and removed otherwise.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    private = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        faults.full_disk(path)
        yield private
        with private.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(private, path)
    except OSError as error:
        raise StoreError(
            f"{path} could not be written: {error.strerror or error}. Nothing was published and nothing was lost. "
            f"Free space or mend the permissions of {path.parent}, then run the same command again; it resumes."
        ) from error
    finally:
        private.unlink(missing_ok=True)


def publish_text(path: Path, text: str) -> None:
    """Write a text file at once."""
    with publishing(path) as private:
        private.write_text(text, encoding="utf-8")

"""What the operating system says of a file, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import StoreError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises StoreError where a place can not be written in the block: the disk is full, or it may not be."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} could not be written: {error.strerror or error}. Nothing was published and nothing was lost. "
            f"Free space or mend the permissions of {path.parent}, then run the same command again; it resumes."
        ) from error


@contextmanager
def named_files() -> Iterator[None]:
    """Raises StoreError in place of an error of the operating system that names a file: the machine has to be mended,
    and not the code. One that names none is a defect like any other."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise StoreError(
            f"{error.filename} could not be used: {error.strerror or error}. Nothing that was finished was lost. Mend that "
            f"file, its permissions or its disk, or move it away, then run the same command again; it resumes."
        ) from error

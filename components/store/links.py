"""Links that somebody else may have left in a root, and that lead out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from components.errors import StoreError
from components.store.files import is_local


def by_link(path: Path, root: Path) -> bool:
    """Is a link on the way from a root to a place in it, so that the place may be anywhere?"""
    return is_local(path) and any(p.is_symlink() for p in (path, *path.parents) if p != root and p.is_relative_to(root))


def links_in(folder: Path) -> Iterator[Path]:
    """The links in a folder and in the folders below it; a folder that is a link itself holds none."""
    if not is_local(folder) or folder.is_symlink() or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir():
                yield from links_in(Path(entry.path))


def lead(link: Path, place: Path) -> None:
    """Make a link, or have it lead elsewhere: readers see the old place or the new one. A root can be moved with it.

    What stands there and is no link, as in a root that was copied, is left as it is.
    """
    target = os.path.relpath(place, link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return  # so that a root that is made and may not be written to needs nothing
    if link.exists() and not link.is_symlink():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    private = link.with_name(f".{link.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        private.unlink()
    private.symlink_to(target)
    os.replace(private, link)


def require_no_links(folder: Path) -> None:
    """Raises StoreError where what is written to a folder, or removed from it, could be somewhere else."""
    found = next(links_in(folder), None)
    if found is not None:
        raise StoreError(
            f"{found} is a link to {os.readlink(found)}, and proseco makes none in a stage: what it writes to {folder} and removes "
            f"from it would be somewhere else. Nothing was changed. Remove the link and run the same command again."
        )

"""A root, and what in it may be removed: stage folders that say that they are ours, and nothing else.

A root says what it is in a file of its own, written by the first run that uses it. A stage folder says it in
its identity, whose hash is the folder's name, and, once it is finished, in its manifest. Links are not followed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from components.errors import StoreError
from components.store.artifact import FORMAT, IDENTITY, MANIFEST
from components.store.files import (
    children,
    create_text,
    exists,
    files_below,
    folders,
    publish_text,
    read_json,
    remove,
    remove_tree,
    size_of,
)
from components.store.fingerprint import fingerprint

MARKER = ".proseco-root.json"
MARK = {"format": "proseco-root", "version": 1}


def is_marked(root: Path) -> bool:
    """Does the folder say that it is a root?"""
    return read_json(root / MARKER) == MARK


def mark_root(root: Path) -> None:
    """Make the folder say that it is a root. Raises StoreError where the store is none to share."""
    if not is_marked(root):
        require_create(root)
        publish_text(root / MARKER, json.dumps(MARK))


def require_create(folder: Path) -> None:
    """Raises StoreError where the store lets a second writer have a place that has been written, so that two runs could
    both take themselves for the one that makes a stage."""
    place = folder / f".{uuid.uuid4().hex}"
    try:
        alone = create_text(place, "first") and not create_text(place, "second")
    finally:
        remove(place)
    if not alone:
        raise StoreError(
            f"The store of {folder} writes a file again where it should only make one that is not there (a conditional "
            f"write, If-None-Match), so runs that share it could undo each other's work. Nothing was changed. Use a "
            f"store that has conditional writes, as S3 does, or a folder that all machines see."
        )


def require_folder(root: Path) -> None:
    """Raises StoreError where the root is a file."""
    if exists(root) and not root.is_dir():
        raise StoreError(f"runtime.root = {root} is a file, and results lie in a folder. Name another one.")


def require_marked(root: Path) -> None:
    """Raises StoreError where nothing may be removed, because the folder is no root of ours."""
    if not is_marked(root):
        raise StoreError(
            f"{root} holds no {MARKER} that says {json.dumps(MARK)}, so it is no root of proseco. Only folders of such "
            f"a root are ever removed; nothing was. Name the root that a run wrote to (its runtime.root); a run marks "
            f"its root when it makes a stage there."
        )


def stages(root: Path) -> Iterator[Path]:
    """Folders two levels below the root, links left out, that hold a manifest or an identity; sorted."""
    for stage in folders(root):
        for folder in folders(stage):
            if exists(folder / MANIFEST) or exists(folder / IDENTITY):
                yield folder


def foreign(folder: Path) -> str:
    """Why a folder is not a stage folder of ours; empty where it is one."""
    if folder.is_symlink():
        return "it is a link"
    record = read_json(folder / IDENTITY)
    identity = record.get("identity") if isinstance(record, dict) and record.get("format") == FORMAT else None
    if not isinstance(identity, dict):
        return f"its {IDENTITY} is missing or does not say {FORMAT!r}"
    try:
        key = fingerprint(identity)
    except TypeError:  # a number that no identity of ours holds
        key = ""
    if identity.get("name") != folder.parent.name or key != folder.name:
        return f"its {IDENTITY} is that of another folder"
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        return ""  # the identity is enough for a stage without a manifest, or with one that can not be read
    if [manifest.get(k) for k in ("format", "stage", "key")] == [FORMAT, folder.parent.name, folder.name]:
        return ""
    return f"its {MANIFEST} is that of another folder or does not say {FORMAT!r}"


def require_ours(folder: Path) -> None:
    """Raises StoreError where a folder that holds something is not a stage folder of ours.

    Hidden files are what a kill leaves of one that was being published.
    """
    if not folder.is_symlink() and all(p.name.startswith(".") for p in children(folder)):
        return
    if why := foreign(folder):
        raise StoreError(
            f"{folder} is not a stage folder of ours: {why}. proseco writes to and removes its own folders only, so "
            f"nothing was changed. Move it away and run the same command again."
        )


def remove_stage(folder: Path) -> None:
    """Remove a stage folder with all that it holds. A link in it is removed, and what it leads to is not.

    Raises:
        StoreError: it is not ours.
    """
    require_ours(folder)
    remove_tree(folder)


def size(folder: Path) -> int:
    """Bytes of the files in a folder, without what links lead to."""
    return sum(size_of(file) for file in files_below(folder))

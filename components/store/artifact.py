"""Stage folders: ``<root>/<name>/<key>/``, complete when their manifest exists.

identity.json   what the key is the hash of; written first, so that `plan` can say what changed
...             the stage's files
manifest.json   files with sizes and digests, numbers, times; written last
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import faults
from components.errors import CorruptArtifact
from components.store.files import digest_file, publish_text
from components.store.names import relative_path

MANIFEST = "manifest.json"
IDENTITY = "identity.json"
FORMAT = "proseco-stage"
"""What both say, so that they are not taken for somebody else's files of the same names."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a finished stage."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished stage made."""

    stage: str
    label: str
    version: int
    key: str
    inputs: Mapping[str, str]
    seconds: float
    finished: str
    host: str
    info: Mapping[str, Any]
    """Numbers and small results of the stage."""
    files: tuple[FileEntry, ...]
    format: str = ""
    """``FORMAT``, where it is one of ours."""


def write_manifest(
    folder: Path,
    stage: str,
    label: str,
    version: int,
    inputs: Mapping[str, str],
    seconds: float,
    info: Mapping[str, Any],
    files: list[Path],
) -> Manifest:
    """Publish the manifest of a stage whose files are all there."""
    entries = tuple(
        FileEntry(f.relative_to(folder).as_posix(), f.stat().st_size, digest_file(f)) for f in sorted(files)
    )
    manifest = Manifest(
        stage, label, version, folder.name, dict(inputs), round(seconds, 3),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), platform.node(), dict(info), entries, FORMAT,
    )  # fmt: skip
    faults.point("store.before_manifest")
    publish_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1))
    faults.point("store.after_manifest")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage folder, or None where the stage is not finished.

    Raises:
        CorruptArtifact: the manifest is not one of ours.
    """
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = tuple(FileEntry(**f) for f in raw["files"])
        for entry in files:
            relative_path(entry.path, folder / MANIFEST)
        return Manifest(**raw | {"files": files})
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CorruptArtifact(
            f"{folder / MANIFEST} is damaged ({error}). Delete that one file and run again: "
            f"the stage resumes from what lies beside it."
        ) from error


def damage(folder: Path, manifest: Manifest, full: bool = False) -> list[str]:
    """What is wrong with the files of a finished stage: missing, of another size, or (``full``) changed."""
    found = []
    for entry in manifest.files:
        path = folder / entry.path
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            found.append(f"{path} is missing")
            continue
        if size != entry.size_bytes:
            found.append(f"{path} has {size} bytes instead of {entry.size_bytes}")
        elif full and digest_file(path) != entry.sha256:
            found.append(f"{path} was changed: its digest is not the manifest's")
    return found

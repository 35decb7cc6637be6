"""Stage folders: ``<root>/<name>/<key>/``, complete when their manifest exists.

identity.json   what the key is the hash of; written first, so that `plan` can say what changed
...             the stage's files
manifest.json   files with sizes and digests, numbers, times; written last
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import faults
from components.errors import CorruptArtifact, StoreError
from components.outside import from_json
from components.store.content import digest
from components.store.files import create_text, digest_file, read_json, read_text, size_of
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
    seal: str = ""
    """Digest of all the rest, by which a number that was changed afterwards is noticed."""


def sealed(plain: Mapping[str, Any]) -> str:
    """The seal of a manifest's fields."""
    rest = {k: v for k, v in plain.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:32]


def write_manifest(
    folder: Path,
    stage: str,
    label: str,
    version: int,
    inputs: Mapping[str, str],
    seconds: float,
    info: Mapping[str, Any],
    files: list[Path],
    fence: Callable[[], None] = lambda: None,
) -> Manifest:
    """Publish the manifest of a stage whose files are all there.

    Args:
        fence: raises where the caller may not publish any more; asked just before.
    Raises:
        StoreError: somebody else published one.
    """
    entries = tuple(FileEntry(f.relative_to(folder).as_posix(), size_of(f), digest_file(f)) for f in sorted(files))
    manifest = Manifest(
        stage, label, version, folder.name, dict(inputs), round(seconds, 3),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), platform.node(), dict(info), entries, FORMAT,
    )  # fmt: skip
    plain = json.loads(json.dumps(asdict(manifest)))
    plain["seal"] = sealed(plain)
    faults.point("store.before_manifest")
    fence()
    if not create_text(folder / MANIFEST, json.dumps(plain, indent=1)):
        raise StoreError(
            f"{folder} was finished by somebody else in the meantime. Nothing was overwritten; run the same command again."
        )
    faults.point("store.after_manifest")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage folder, or None where the stage is not finished.

    Raises:
        CorruptArtifact: the manifest is not one of ours.
    """
    try:
        raw = from_json(read_text(folder / MANIFEST))
        if raw["seal"] != sealed(raw):
            raise ValueError("its contents are not those that were sealed")
        require_kinds(raw, MANIFEST_KINDS)
        for role, key in raw["inputs"].items():
            require_kinds({role: key}, {role: str})
        for file in raw["files"]:
            require_kinds(file, FILE_KINDS)
        files = tuple(FileEntry(**f) for f in raw["files"])
        for entry in files:
            relative_path(entry.path, folder / MANIFEST)
        return Manifest(**raw | {"files": files})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"{folder / MANIFEST} is damaged ({error}). Delete that one file and run again: "
            f"the stage resumes from what lies beside it."
        ) from error


MANIFEST_KINDS: Mapping[str, Any] = {
    "stage": str, "label": str, "version": int, "key": str, "inputs": dict, "seconds": (int, float), "finished": str,
    "host": str, "info": dict, "files": list,
}  # fmt: skip
FILE_KINDS: Mapping[str, Any] = {"path": str, "size_bytes": int, "sha256": str}


def require_kinds(plain: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raises KeyError or ValueError where a field is missing, or holds a value of another type."""
    for name, kind in kinds.items():
        if not isinstance(plain[name], kind) or isinstance(plain[name], bool):
            raise ValueError(f"its {name} is {str(plain[name])[:40]!r}")


def require_unchanged(folder: Path) -> Manifest | None:
    """The manifest of a finished stage whose files are those that it made, wherever the folder was copied to; None
    where the folder has none of ours, such as an imported model.

    Raises:
        CorruptArtifact: a file was changed, or is missing.
    """
    plain = read_json(folder / MANIFEST)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        return None
    manifest = read_manifest(folder)
    assert manifest is not None
    lost = damage(folder, manifest) or [
        f"{folder / f.path} was changed: its digest is not the manifest's"
        for f in manifest.files
        if digest(folder / f.path) != f.sha256
    ]
    if lost:
        raise CorruptArtifact(
            f"What is in {folder} was changed since it was made: {lost[0]}. Run its run again with `proseco gc --corrupt "
            f"--delete` before it, or copy it again; changed weights can be imported as a model of their own."
        )
    return manifest


def damage(folder: Path, manifest: Manifest, full: bool = False) -> list[str]:
    """What is wrong with the files of a finished stage: missing, of another size, or (``full``) changed."""
    found = []
    for entry in manifest.files:
        path = folder / entry.path
        try:
            size = size_of(path)
        except FileNotFoundError:
            found.append(f"{path} is missing")
            continue
        if size != entry.size_bytes:
            found.append(f"{path} has {size} bytes instead of {entry.size_bytes}")
        elif full and digest_file(path) != entry.sha256:
            found.append(f"{path} was changed: its digest is not the manifest's")
    return found

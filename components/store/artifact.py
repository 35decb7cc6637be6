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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from components import faults
from components.errors import CorruptArtifact, StoreError
from components.outside import from_json
from components.store.content import digest
from components.store.files import create_text, digest_file, mtime_of, read_json, read_text, size_of
from components.store.names import relative_path

MANIFEST = "manifest.json"
IDENTITY = "identity.json"
FORMAT = "proseco-stage"
"""What both say, so that they are not taken for somebody else's files of the same names."""
OF_THE_EXECUTION = {"busy_s", "rows_per_s", "retries", "reissues", "forwards", "padding_waste"}
"""Numbers in ``info`` that tell how an execution went; another one that makes the same has others."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a finished stage."""

    path: str
    size_bytes: int
    sha256: str
    mtime_ns: int = 0
    """When it was written last; 0 where its file system does not say. One with this size and time is not hashed again."""

    @property
    def is_result(self) -> bool:
        """Is it what the stage is for, other than a journal, a page or a receipt, which tell of the execution?"""
        path = Path(self.path)
        return path.suffix not in (".jsonl", ".html") and not (path.parent.name in ("shards", "receipts") and path.suffix == ".json")


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
    drew: Mapping[str, str] = field(default_factory=dict)
    """What each input's ``result`` was when this was made of it, by role."""
    seal: str = ""
    """Digest of all the rest, by which a number that was changed afterwards is noticed."""

    @property
    def result(self) -> str:
        """Digest of what the stage made, by which those that were made of it know it again. It is the same for another
        execution that made the same, so what was lost and made anew leaves what follows fresh."""
        numbers = {k: v for k, v in self.info.items() if k not in OF_THE_EXECUTION}
        files = [(f.path, f.sha256) for f in self.files if f.is_result]
        whole = json.dumps([self.stage, self.key, self.version, dict(self.inputs), numbers, files], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:32]


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
    drew: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Publish the manifest of a stage whose files are all there.

    Args:
        fence: raises where the caller may not publish any more; asked just before.
        drew: what the inputs' manifests came to, by role.
    Raises:
        StoreError: somebody else published one.
    """
    entries = tuple(
        FileEntry(f.relative_to(folder).as_posix(), size_of(f), digest_file(f), mtime_of(f)) for f in sorted(files)
    )
    manifest = Manifest(
        stage, label, version, folder.name, dict(inputs), round(seconds, 3),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), platform.node(), dict(info), entries, FORMAT,
        dict(drew),
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
    if lost := changed(folder, manifest):
        raise CorruptArtifact(
            f"What is in {folder} was changed since it was made: {lost[0]}. Run its run again with `proseco gc --corrupt "
            f"--delete` before it, or copy it again; changed weights can be imported as a model of their own."
        )
    return manifest


def changed(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files of a finished stage, also where their sizes and times are as they were. Each is hashed
    once on this machine, and again where `stat` says that it may have changed."""
    return damage(folder, manifest) or [
        f"{folder / f.path} was changed: its digest is not the manifest's"
        for f in manifest.files
        if digest(folder / f.path) != f.sha256
    ]


def damage(folder: Path, manifest: Manifest, full: bool = False) -> list[str]:
    """What is wrong with the files of a finished stage: missing, of another size, or changed.

    Args:
        full: hash all of them, as a disk may give other bytes than it was given; else those written at another time.
    """
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
        elif (full and digest_file(path) != entry.sha256) or (
            entry.mtime_ns not in (0, mtime_of(path)) and digest(path) != entry.sha256
        ):
            found.append(f"{path} was changed: its digest is not the manifest's")
    return found

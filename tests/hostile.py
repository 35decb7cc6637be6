"""What somebody means who hands over a folder: names that lead out of it, and pickles that run when they are read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ProsecoError
from components.store.artifact import MANIFEST, sealed, write_manifest

NAMES = [
    "../victim", "../../victim", "../../../victim", "a/../../victim", "/etc/passwd", "/dev/stdin", "/dev/zero", "//victim",
    "..", ".", "", ".hidden", "a/b", "a//b", "a/", "a\\..\\victim", "C:\\victim", "a\0b", "..\0", "a\n", "\n..", "a b", "~",
    "~root", "$HOME", "${x}", "%2e%2e%2fvictim", "..%2fvictim", "file:///etc/passwd", "memory://victim", "a:b", "*", "[a]",
    "\u2025/victim", "\u2024\u2024\u2215victim", "\u2024\u2024\uff0fvictim", "\uff0e\uff0e/victim", "a\u2044b", "a\u29f8b",
    "\u202etxt.a", "a\u200b", "\u00e9", "\u0661", "\ud800", "x" * 129, "x" * 5000, "../" * 200 + "victim",
]  # fmt: skip
"""Paths up, absolute, to devices and with NUL; of other systems, of shells and of the web; signs that look like dots and
slashes; names that no file system takes."""

NO_NAMES: list[Any] = [7, -1, 0.5, True, None, ["a"], {"a": "b"}]


def refused(use: Callable[[], object]) -> str:
    """What a use is refused with. Anything but words is an error of the test."""
    try:
        found = use()
    except ProsecoError as error:
        said = str(error)
    else:
        raise AssertionError(f"it was taken, and gave {found!r:.200}")
    assert len(said) > 20, "words"
    return said


def manifest(folder: Path, stage: str = "generate", **changes: Any) -> Path:
    """A finished stage whose manifest says something else, sealed by whoever knows how."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        write_manifest(folder, stage, stage, 1, {"model": "0" * 16}, 1.0, {"shards": ["a"]}, [])
    raw = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(raw | {"seal": sealed(raw)}))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, links as what they lead to by name."""
    return {
        str(p.relative_to(folder)): str(p.readlink()).encode() if p.is_symlink() else p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
    }


@dataclass(frozen=True)
class Payload:
    """Makes a file where it is unpickled."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self)

    def ran(self) -> bool:
        """Was it unpickled since this was asked last?"""
        found = self.marker.exists()
        self.marker.unlink(missing_ok=True)
        return found

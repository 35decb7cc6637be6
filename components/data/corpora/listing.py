"""Which files a corpus has: names below one folder, so that they stay when the folder is moved."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.errors import DataError
from components.store.content import Content, content_of


@dataclass(frozen=True)
class Files:
    """Files by their names below a folder, sorted."""

    root: str
    names: tuple[str, ...]

    def content(self) -> Content:
        """What they hold. Raises DataError where one cannot be read."""
        return content_of({name: os.path.join(self.root, name) for name in self.names})

    def pieces(self, count: int) -> list[str]:
        """The files dealt onto at most ``count`` pieces, as JSON that says where they lie."""
        count = min(count, len(self.names))
        return [json.dumps({"root": self.root, "names": self.names[i::count]}) for i in range(count)]


def in_piece(piece: str) -> Iterator[tuple[str, Path]]:
    """Name and place of each file of a piece."""
    plain = json.loads(piece)
    for name in plain["names"]:
        yield name, Path(plain["root"], name)


def listed(path: str, suffixes: tuple[str, ...]) -> Files:
    """Files that a path, folder or glob names; those of a glob below its last folder without a wildcard.

    Raises:
        DataError: the setting is missing, or nothing is there.
    """
    if not path:
        raise DataError("The corpus has no path. Set source.path to a file, a folder or a glob.")
    if "$PROSECO_DATA" in path:
        if not os.environ.get("PROSECO_DATA"):  # an empty one would have it name a file of the root
            raise DataError(f"{path}: PROSECO_DATA is not set. Set it to the folder that holds your corpora.")
        path = path.replace("$PROSECO_DATA", os.environ["PROSECO_DATA"])
    if os.path.isdir(path):
        root = path
        names = [n for n in below(root) if Path(n.removesuffix(".gz")).suffix in suffixes]
    elif os.path.isfile(path):
        root, name = os.path.split(path)
        names = [name]
    else:
        root = fixed(path)
        names = [os.path.relpath(p, root or ".") for p in glob.glob(path, recursive=True) if os.path.isfile(p)]
    if not names:
        raise DataError(
            f"{path}: there is no such file, or the folder holds none of {', '.join(suffixes)}. Check the path."
        )
    return Files(os.path.abspath(root), tuple(sorted(names)))


def below(root: str, folder: str = "") -> Iterator[str]:
    """Names of all files in a folder and the folders in it, with ``/`` between. Links to folders are not followed.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        with os.scandir(os.path.join(root, folder)) as found:
            entries = list(found)
    except OSError as error:
        raise DataError(
            f"The folder {os.path.join(root, folder)} cannot be read ({error.strerror or error}), so nobody knows which "
            f"documents it holds. Mend its permissions, or name another path."
        ) from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from below(root, f"{folder}{entry.name}/")
        elif entry.is_file():
            yield folder + entry.name


def fixed(path: str) -> str:
    """The folders of a glob that hold no wildcard."""
    while glob.has_magic(path):
        path = os.path.dirname(path)
    return path

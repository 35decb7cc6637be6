"""Names that were read from a file and become part of a path.

A folder may come from somebody else, and a name in it such as ``../../.bashrc`` must not lead out of it. So
every such name passes through here before a path is made of it.
"""

from __future__ import annotations

import re

from components.errors import CorruptArtifact

MAX_LENGTH = 128
NAME = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{MAX_LENGTH - 1}}}")


def file_name(value: object, where: object) -> str:
    """The name of one file, as it was read.

    Args:
        where: what it was read from, for the message.
    Raises:
        CorruptArtifact: it is no name of a file, or is one that leads elsewhere.
    """
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise CorruptArtifact(
        f"{where} names a file {str(value)[:MAX_LENGTH]!r}. A name has 1 to {MAX_LENGTH} letters, digits, '-', '_' and "
        f"'.', does not start with '.', and holds no folder, so that it stays where it was named. proseco wrote no such "
        f"name: the folder was changed or is somebody else's. Nothing was written; get it again from where it was made."
    )


def relative_path(value: object, where: object) -> str:
    """Names of folders and of a file in them, with ``/`` between.

    Raises:
        CorruptArtifact: see ``file_name``.
    """
    return "/".join(file_name(part, where) for part in str(value).split("/"))

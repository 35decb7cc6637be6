"""By which version of this project something was made."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def made_by() -> str:
    """The version, and the commit where it runs from a checkout; with a star where files differ from it."""
    try:
        said = f"proseco {version('proseco')}"
    except PackageNotFoundError:
        said = "proseco"
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=*"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return said
    return f"{said}, commit {found.stdout.strip()}"

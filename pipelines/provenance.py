"""By which version of this project something was made."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def commit() -> str:
    """The git commit that the code is at, with a star where files differ from it; empty where there is none."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def made_by() -> str:
    """The version and the commit, for people."""
    try:
        said = f"proseco {version('proseco')}"
    except PackageNotFoundError:
        said = "proseco"
    short = commit()[:10] + "*" * commit().endswith("*")
    return f"{said}, commit {short}" if short else said

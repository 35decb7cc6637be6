"""Checks of the machine before anything is started. Each has a remedy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

MIN_FREE_BYTES = 5 << 30
MIN_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True)
class Check:
    name: str
    value: str
    ok: bool
    remedy: str = ""


def examine(root: Path) -> list[Check]:
    """All checks."""
    return [
        Check("python", platform.python_version(), sys.version_info >= (3, 11), "install Python 3.11 or newer"),
        *versions(),
        conflicts(),
        cpus(),
        memory(),
        disk(root),
        writable(root),
        network_file_system(root),
        token_file(),
        accelerator(),
    ]


def versions() -> list[Check]:
    """Every dependency at a version that was tried."""
    found = []
    for line in importlib.metadata.requires("proseco") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Check(wanted.name, "not installed", False, f"pip install '{wanted}' -c requirements.lock"))
            continue
        ok = wanted.specifier.contains(have, prereleases=True)
        found.append(Check(wanted.name, have, ok, f"pip install '{wanted}' -c requirements.lock"))
    return found


def conflicts() -> Check:
    present = importlib.util.find_spec("hydra") is not None
    return Check(
        "hydra beside OmegaConf 2.4",
        "installed" if present else "absent",
        not present,
        "hydra-core needs OmegaConf < 2.4: use an environment of its own for proseco",
    )


def cpus() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check(
        "cpus",
        str(count),
        count >= 2,
        "with one CPU set runtime.workers=1 runtime.replicas=1 or runtime.executor=local",
    )


def memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Check(
        "memory",
        f"{total / 2**30:.1f} GiB",
        total >= MIN_MEMORY_BYTES,
        "use a machine with 4 GiB or more, or runtime.executor=local",
    )


def existing(root: Path) -> Path:
    """The nearest folder above that exists."""
    root = root.absolute()
    while not root.exists():
        root = root.parent
    return root


def disk(root: Path) -> Check:
    free = shutil.disk_usage(existing(root)).free
    return Check(
        f"free disk at {root}",
        f"{free / 2**30:.1f} GiB",
        free >= MIN_FREE_BYTES,
        "free space, or set runtime.root to another disk",
    )


def writable(root: Path) -> Check:
    ok = os.access(existing(root), os.W_OK)
    return Check(f"write access at {root}", "yes" if ok else "no", ok, "mend the permissions, or set runtime.root")


def network_file_system(root: Path) -> Check:
    """SQLite breaks on file systems that lock badly."""
    kind, best = "unknown", ""
    place = str(existing(root))
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        mounts = []
    for line in mounts:
        _, point, fs, *_ = line.split()
        if place.startswith(point) and len(point) >= len(best):
            kind, best = fs, point
    remote = kind.startswith(("nfs", "cifs", "smb", "fuse.sshfs", "lustre"))
    return Check(
        "file system of the root",
        kind,
        not remote,
        "SQLite is unsafe there: set runtime.tracking_uri to an MLflow server",
    )


def token_file() -> Check:
    path = Path.home() / ".ray" / "auth_token"
    if not path.exists():
        return Check("Ray token file", "absent", True)
    mode = stat.S_IMODE(path.stat().st_mode)
    return Check("Ray token file", f"{path} mode {mode:o}", not mode & 0o077, f"chmod 600 {path}")


def accelerator() -> Check:
    """Only tells; a GPU is not needed."""
    found = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return Check("GPUs", str(len(found)), True)

"""Checks of the machine before anything is started. Each names a value, the rule that it is held to, and a remedy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components.diffusion.gpu import makes_kernels
from components.store.files import is_local

MIN_FREE_BYTES = 5 << 30
MIN_MEMORY_BYTES = 4 << 30
GIB = 1 << 30
LOCK = "-c requirements.lock"
"""Has pip take the versions that were tried together."""
REMOTE = (
    "nfs", "cifs", "smb", "lustre", "ceph", "gpfs", "beegfs", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.juicefs",
    "fuse.rclone", "fuse.glusterfs", "fuse.ceph",
)  # fmt: skip
"""File systems of several machines, as /proc/mounts names them at their beginning."""
MOUNTS = Path("/proc/mounts")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What a container may have, in the two versions of control groups."""
QUOTA = (Path("/sys/fs/cgroup/cpu.max"),)
"""Microseconds of a CPU in a period, and those of the period."""


@dataclass(frozen=True)
class Check:
    name: str
    value: str
    ok: bool
    rule: str
    remedy: str


def examine(root: Path, keys: Path | None = None) -> list[Check]:
    """All checks.

    Args:
        root: where results are to lie.
        keys: the file of a service's keys.
    """
    remedy = "install Python 3.11 or newer"
    return [
        Check("python", platform.python_version(), sys.version_info >= (3, 11), "3.11 or newer", remedy),
        *versions(),
        contradictions(),
        hydra(),
        cpus(),
        memory(),
        *([disk(root), writable(root)] if is_local(root) else []),
        *tokens(),
        *([private("service keys", keys)] if keys is not None else []),
        accelerator(),
    ]


def requirements_of(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What an installed distribution needs here, with some of its extras. Nothing of one that is not installed."""
    try:
        found = [Requirement(line) for line in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras or {""})]


def version_of(name: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> list[Check]:
    """Everything that proseco needs at a version of its range."""
    found = []
    for wanted in requirements_of("proseco") or [Requirement("proseco")]:
        have = version_of(wanted.name)
        ok = have is not None and wanted.specifier.contains(have, prereleases=True)
        remedy = f"pip install '{wanted}' {LOCK}"
        found.append(Check(wanted.name, have or "not installed", ok, str(wanted.specifier) or "installed", remedy))
    return found


def contradictions() -> Check:
    """What is installed of all that proseco needs, and in turn of what that needs, held to the ranges of each other."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[str, frozenset[str]]] = [("proseco", frozenset())]
    wrong = []
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for wanted in requirements_of(name, extras):
            have = version_of(wanted.name)
            if name != "proseco" and not (have and wanted.specifier.contains(have, prereleases=True)):
                wrong.append(f"{name} needs {wanted.name}{wanted.specifier}, and {have or 'none'} is installed")
            todo.append((canonicalize_name(wanted.name), frozenset(wanted.extras)))
    value = "; ".join(sorted(set(wrong))) or f"{len({name for name, _ in seen})} agree"
    remedy = f"pip install 'proseco[dev,fast]' {LOCK}, in an environment of its own"
    return Check("versions together", value, not wrong, "each in the ranges of all that need it", remedy)


def hydra() -> Check:
    present = importlib.util.find_spec("hydra") is not None
    remedy = "use an environment of its own for proseco"
    return Check(
        "hydra", "installed" if present else "absent", not present, "absent: it needs OmegaConf < 2.4, and proseco 2.4", remedy
    )


def num_cpus() -> int:
    """CPUs that this process may run on; in a container those of its limit, begun ones too."""
    there = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, period = next((path.read_text().split() for path in QUOTA if path.exists()), ("max", "1"))
    return min(there, -(-int(quota) // int(period))) if quota.isdecimal() else there


def cpus() -> Check:
    remedy = "with one CPU set runtime.workers=1 runtime.replicas=1, or runtime.executor=local"
    return Check("cpus", str(num_cpus()), num_cpus() >= 2, "at least 2, for the default workers and replicas", remedy)


def memory_bytes() -> int:
    """Memory of this machine, or of the container that this is."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = [path.read_text().strip() for path in LIMITS if path.exists()]
    return min([total, *(int(text) for text in told if text.isdecimal())])


def memory() -> Check:
    total = memory_bytes()
    remedy = "use a machine with 4 GiB or more, or runtime.executor=local"
    return Check("memory", f"{total / GIB:.1f} GiB", total >= MIN_MEMORY_BYTES, f"at least {MIN_MEMORY_BYTES / GIB:g} GiB", remedy)


def existing(root: Path) -> Path:
    """The nearest folder above that exists."""
    root = root.absolute()
    while not root.exists():
        root = root.parent
    return root


def free_bytes(root: Path) -> int:
    """Free space where a folder is, or is to be."""
    return shutil.disk_usage(existing(root)).free


def disk(root: Path) -> Check:
    free = free_bytes(root)
    return Check(
        f"free disk at {root}",
        f"{free / GIB:.1f} GiB",
        free >= MIN_FREE_BYTES,
        f"at least {MIN_FREE_BYTES / GIB:g} GiB",
        "free space, or set runtime.root to another disk",
    )


def writable(root: Path) -> Check:
    ok = os.access(existing(root), os.W_OK)
    remedy = "mend the permissions, or set runtime.root"
    return Check(f"write access at {root}", "yes" if ok else "no", ok, "results can be written", remedy)


def file_system(root: Path) -> str:
    """What kind of file system a folder is on, or is to be; ``unknown`` where the machine does not say."""
    place, kind, best = existing(root).resolve(), "unknown", 0
    for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if MOUNTS.exists() else ():
        _, point, fs, *_ = line.split()
        mount = Path(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), point))  # a space is \040 there
        if place.is_relative_to(mount) and len(mount.parts) >= best:
            kind, best = fs, len(mount.parts)
    return kind


def is_remote(kind: str) -> bool:
    """Is it a file system of several machines?"""
    return kind.startswith(REMOTE)


def network_file_system(root: Path) -> Check:
    kind = file_system(root)
    remedy = "set runtime.tracking_uri to an MLflow server, or to none"
    return Check("file system of the root", kind, not is_remote(kind), "not of a network, because SQLite is unsafe there", remedy)


def tokens() -> Iterator[Check]:
    """The files in which Ray looks for a token."""
    usual = Path.home() / ".ray" / "auth_token"
    if usual.exists():
        yield private("Ray token file", usual)
    else:
        yield Check("Ray token file", "absent", True, "mode 600, where there is one", "")
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        yield private("RAY_AUTH_TOKEN_PATH", Path(named))


def private(name: str, path: Path) -> Check:
    """A file that nobody else may read or write."""
    rule = "there, and of mode 600 or 400: whoever reads it may do what its owner may"
    if not path.is_file():
        return Check(name, f"{path} is no file", False, rule, "name the file, or leave it out")
    mode = stat.S_IMODE(path.stat().st_mode)
    remedy = f"chmod 600 {path} (of a mounted secret of Kubernetes: defaultMode: 0400)"
    return Check(name, f"{path} has mode {mode:o}", not mode & 0o077, rule, remedy)


def accelerator() -> Check:
    """A GPU is not needed; where there is one, it should run kernels that are made for it."""
    count = num_devices()
    remedy = "apt-get install gcc libc6-dev, and use torch's CUDA build, which brings Triton"
    return Check("GPUs", str(count), not count or makes_kernels(), "any number; with Triton and a C compiler, which make kernels", remedy)


def num_devices() -> int:
    """GPUs of NVIDIA whose driver is there."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))

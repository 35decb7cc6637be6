"""The environment variables that Ray, MLflow and DeepSpeed read when they are imported.

``prepare`` is called before any of them is; processes that they start inherit what it sets. A cluster that
is started here is closed to others: it is bound to loopback, and every connection to it needs a token that
is made for it and removed with it. A cluster that is joined has rules of its own, and how to meet them is
what the user's RAY_AUTH_MODE, RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH say.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cluster.config import RuntimeConfig
from components.errors import ConfigError, Problem

DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    # After a loss Ray asks for room for as many workers as before, for a minute by itself. It counts again what there is
    # after each try; how often it tries is up to runtime.start_wait_s, so that slow machines have their time.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # What Serve is told of a deployment is larger than Ray's own 100 kB, and would be put into the raylet's store: a process
    # whose raylet dies is ended at its next look there, with nothing said and nothing closed.
    "RAY_max_direct_call_object_size": str(1 << 20),
    "RAY_DEDUP_LOGS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that does not answer is told after seconds; by itself MLflow tries for minutes without a word.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Where the user says something else, that holds."""

QUIET = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_enable_timeline": "0",
    "RAY_event_stats": "0",
}
"""For a cluster of our own, where nobody looks at Ray's tasks and meters: its daemons share the cores with replicas and
workers, and all of this wakes them many times a second."""

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Read by glibc when a process starts: freed memory is kept, so that tensors do not fault in fresh pages at every step."""


def of_workers(runtime: RuntimeConfig) -> dict[str, str]:
    """What processes that compute read when they start."""
    threads = {"OMP_NUM_THREADS": str(runtime.threads), "TOKENIZERS_PARALLELISM": "false"}
    return threads if runtime.on_gpu else threads | ALLOCATOR


MAX_BASE = 20
"""Characters of the folder for temporary files: the path of a socket has 107, and Ray's own part of it 64."""

OOM_TRIES = "RAY_task_oom_retries"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass
class Prepared:
    """What ``prepare`` set for one cluster, until it is closed."""

    token: Path | None = None
    """File with the token of a cluster of our own."""
    former: dict[str, str | None] = field(default_factory=dict, repr=False)
    """Values of the variables that were set for this cluster only; None where there was none."""

    def change(self, name: str, value: str | None) -> None:
        self.former.setdefault(name, os.environ.get(name))
        put(name, value)

    def close(self) -> None:
        """Remove the token, and put the variables back."""
        if self.token is not None:
            with contextlib.suppress(FileNotFoundError):  # whoever cleans /tmp may have been faster
                shutil.rmtree(self.token.parent)
            self.token = None
        for name, value in self.former.items():
            put(name, value)
        self.former.clear()


def put(name: str, value: str | None) -> None:
    """Set a variable, or remove it."""
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def joined(runtime: RuntimeConfig) -> str:
    """The address of the cluster that is joined; inside a job Ray's environment names it."""
    return os.environ.get("RAY_ADDRESS", "") if runtime.address == "auto" else runtime.address


def on_loopback(runtime: RuntimeConfig) -> bool:
    """Does the cluster, of our own or joined, listen to this machine alone?"""
    return not runtime.address or joined(runtime).startswith(("127.", "localhost:"))


def prepare(runtime: RuntimeConfig | None = None) -> Prepared:
    """Set the variables for everything that a process does, and, given a runtime, for its cluster.

    The cluster's part holds until the returned value is closed.

    Raises:
        ConfigError: see ``private_folder``.
    """
    import torch

    ours = runtime is not None and runtime.executor == "ray" and not runtime.address
    folder = private_folder() if ours and "RAY_TMPDIR" not in os.environ else None
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it is not found out reliably
    prepared = Prepared()
    if runtime is not None and runtime.executor == "ray" and on_loopback(runtime):
        # Ray takes the machine's outer address in place of 127.0.0.1 unless clusters of several
        # machines are switched off; despite its name the switch works on every system.
        prepared.change("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if runtime is not None and runtime.executor == "ray" and OOM_TRIES not in os.environ:
        # By itself Ray tries a task that takes too much memory again and again, without an end.
        prepared.change(OOM_TRIES, str(runtime.max_attempts - 1))
    if runtime is None or runtime.address:
        return prepared
    # Nothing asks who connects to a training's process group, so on one machine it stays there.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if name not in os.environ:
            prepared.change(name, LOOPBACK)
    if runtime.executor == "ray":
        prepared.token = new_token()
        prepared.change("RAY_AUTH_MODE", "token")
        prepared.change("RAY_AUTH_TOKEN_PATH", str(prepared.token))
        prepared.change("RAY_AUTH_TOKEN", None)  # it would be read first, and can be seen in /proc
        if folder is not None:
            prepared.change("RAY_TMPDIR", str(folder))
        for name in QUIET.keys() - os.environ.keys():
            prepared.change(name, QUIET[name])
        # Inherited rather than asked for, so that the workers that Ray starts ahead will do.
        for name, value in of_workers(runtime).items():
            prepared.change(name, value)
    return prepared


def private_folder() -> Path:
    """A folder of this user alone for what Ray leaves of clusters of our own: sockets, packages, logs.

    Ray lets everybody write to all of it, and whoever puts a socket of his own in the place of one of Ray's is sent
    what others unpickle, and gives them what they do.

    Raises:
        ConfigError: the folder is somebody else's, or open to others.
    """
    base = tempfile.gettempdir()
    path = Path(base if len(base) <= MAX_BASE else "/tmp") / f"proseco-ray-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        rule = "a folder of your own of mode 700, because whoever can write to it can give commands to a run"
        raise ConfigError([Problem("RAY_TMPDIR", str(path), rule, "remove that one, or set RAY_TMPDIR to another")])
    return path


def new_token() -> Path:
    """A file with a fresh token that this user alone can read, in a folder of its own."""
    path = Path(tempfile.mkdtemp(prefix="proseco-token-")) / "token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path

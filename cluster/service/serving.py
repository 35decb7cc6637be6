"""``proseco serve``: what may be wrong is found before a cluster is started; then it serves until told to stop."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.cluster import Cluster
from cluster.open import open_cluster
from cluster.replicas import Replicas, replicas_of, runtime_of
from cluster.service.app import build_app
from cluster.service.follow import Follower, history_at, is_history
from cluster.service.gate import Doors
from cluster.service.http import Server, is_loopback, listen
from cluster.service.keys import read_keys
from cluster.service.limits import ServiceLimits
from cluster.service.model import open_model
from cluster.service.shelf import Shelf
from components.errors import ClusterError, ConfigError, Problem
from components.models.weights import load_model, read_info
from components.store.artifact import read_manifest, require_unchanged
from components.store.files import at

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LOOK_S = 1.0
"""How often it is looked whether the cluster is still there."""
JOIN_S = 30.0
"""How long a version that is being started may take to be there, when the service is stopped."""


@dataclass(frozen=True)
class Address:
    """Where the service is reached, and by whom."""

    host: str
    port: int
    keys: Path | None = None
    """File of keys; None asks nobody for one."""
    tables: Path | None = None
    """Root of a run whose samples may be looked at."""

    def doors(self) -> Doors:
        """Raises ConfigError where anybody could come in."""
        if self.keys is not None:
            return Doors(read_keys(self.keys))
        if not is_loopback(self.host):
            rule = (
                "an address of this machine alone where there are no keys: anybody on the network could use the service"
            )
            raise ConfigError([Problem("host", self.host, rule, "give --keys FILE, or use --host 127.0.0.1")])
        return Doors()


def named_folders(given: Sequence[str]) -> dict[str, Path]:
    """Folders of exports by name, from FOLDER or NAME=FOLDER; without a name the label of the export, or the folder's.

    Raises:
        ConfigError: a name is none, or is given twice.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        path = at(folder if separator else text).absolute()
        name = name if separator else label_of(path)
        if not NAME.fullmatch(name):
            rule = "letters, digits, and - _ . behind the first"
            raise ConfigError([Problem("model", name, rule, f"name it, e.g. mine={path}")])
        if name in found:
            rule = f"one folder; it is {found[name]} already"
            raise ConfigError([Problem(f"model {name}", str(path), rule, f"name one of them, e.g. {name}-2={path}")])
        found[name] = path
    return found


def label_of(folder: Path) -> str:
    """What an export is called: the last part of its stage's label, or its folder."""
    manifest = read_manifest(folder)
    return (manifest.label.rpartition("/")[2] if manifest is not None else "") or folder.name


def serve(
    given: Sequence[str], address: Address, limits: ServiceLimits, say: Callable[[str], None], **options: Any
) -> None:
    """Serve models until SIGINT or SIGTERM; what is at work then may end.

    Args:
        given: FOLDER or NAME=FOLDER, of an export or of the history of a nightly run.
        options: of ``cluster.replicas.replicas_of``, for every model.
    Raises:
        ProsecoError: something is wrong; found before a cluster is started.
    """
    doors = address.doors()
    folders = named_folders(given)
    followed = {name: folder for name, folder in folders.items() if is_history(folder)}
    for name, folder in followed.items():
        history = history_at(folder)
        folders[name] = history.export(history.champion)
    with listen(address.host, address.port) as bound:
        replicas: dict[str, Replicas] = {}
        for name, folder in folders.items():
            require_unchanged(folder)
            load_model(folder)
            replicas[name] = replicas_of(read_info(folder), **options)
        # A new champion is started beside the old one.
        cluster = open_cluster(runtime_of([*replicas.values(), *(replicas[name] for name in followed)]))
        try:
            until_stopped(folders, followed, replicas, doors, limits, bound, address, say, cluster)
        finally:
            cluster.close()


def until_stopped(
    folders: Mapping[str, Path],
    followed: Mapping[str, Path],
    replicas: Mapping[str, Replicas],
    doors: Doors,
    limits: ServiceLimits,
    bound: Any,
    address: Address,
    say: Callable[[str], None],
    cluster: Cluster,
) -> None:
    """Raises ClusterError where the cluster is lost, because nobody would ever answer again."""
    from cluster.service import on_ray  # Ray is imported when its environment is set

    backends = {name: on_ray.OnRay(folder, replicas[name], limits) for name, folder in folders.items()}
    shelf = Shelf([open_model(name, folder, backends[name], int(time.time())) for name, folder in folders.items()])
    server = Server(build_app(shelf, limits, doors, address.tables), bound, limits)
    stop = threading.Event()

    def start(name: str, folder: Path) -> Any:
        backend = on_ray.OnRay(folder, replicas[name], limits)
        backend.start()
        return backend

    followers = [
        Follower(name, folder, shelf, partial(start, name), on_ray.OnRay.end, limits, say, stop, folders[name].name)
        for name, folder in followed.items()
    ]
    threads = [threading.Thread(target=f.follow, daemon=True, name=f"follow {f.name}") for f in followers]
    def start_all() -> None:
        on_ray.start()
        for backend in backends.values():
            backend.start()

    server.start()
    try:
        cluster.alive(start_all)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        where = ", ".join(
            f"{name} from {r.count} x {r.placement.device} in {r.placement.dtype}" for name, r in replicas.items()
        )
        say(f"serving {where} on http://{address.host}:{server.port} (process {os.getpid()}); stop with Ctrl-C")
        say(f"batch jobs run on the same replicas, behind people, by {on_ray.how_to_join(limits)}")
        for thread in threads:
            thread.start()
        while not stop.wait(LOOK_S):
            cluster.check()
    finally:
        stop.set()
        server.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join(JOIN_S)
        with suppress(ClusterError):  # of one that was lost nothing is left to end
            cluster.check()
            on_ray.shutdown()

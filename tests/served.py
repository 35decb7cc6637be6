"""The real service in this process: its application, its server and one replica with a tiny model, without a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.service.app import build_app
from cluster.service.gate import Doors
from cluster.service.http import Server, listen
from cluster.service.keys import read_keys
from cluster.service.limits import ServiceLimits
from cluster.service.model import open_model
from cluster.service.replica import Replica
from cluster.service.shelf import Shelf
from components.models.weights import HOME

USUAL = ServiceLimits()


@contextmanager
def served(
    folder: Path, *, tables: Path | None = None, keys: Path | None = None, limits: ServiceLimits = USUAL
) -> Iterator[str]:
    """Serve an exported folder under the name ``tiny``. Yields the address."""
    replica = Replica(str(folder), HOME, 1, limits)
    model = open_model("tiny", folder, replica, int(time.time()))
    app = build_app(Shelf([model]), limits, Doors(read_keys(keys) if keys else None), tables)
    with listen("127.0.0.1", 0) as bound:
        server = Server(app, bound, limits)
        server.start()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.stop()
            replica.close()

"""A service in this process: the real application and engine around a tiny model, without Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from cluster.service.app import build_app
from cluster.service.gate import Doors
from cluster.service.limits import ServiceLimits
from cluster.service.model import open_model
from cluster.service.replica import Replica
from cluster.service.shelf import Shelf
from components.models.config import ModelConfig
from components.models.device import Placement
from components.models.weights import HOME
from tests.components.test_export import MODELS, exported

OPEN = Doors()
WHOLE = ModelConfig(dim=16, depth=1, heads=2, num_classes=3, quality_layers=0, policy=True)
"""What the parts of samplers need, but for DSL's encoder."""
CHAT = (
    "{% for m in messages %}{{ m['role'][0] | replace('u', '1') | replace('a', '2') }}{{ m['content'] }}{% endfor %}3"
)


def made(folder: Path, config: ModelConfig = MODELS["plain"], chat: bool = False, **options: Any) -> Path:
    """An exported model with random weights."""
    exported(folder, config, **options)
    if chat:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHAT}))
    return folder


@contextlib.contextmanager
def replicas(folders: dict[str, Path], limits: ServiceLimits, placement: Placement = HOME) -> Iterator[dict[str, Replica]]:
    opened = {name: Replica(str(folder), placement, 1, limits) for name, folder in folders.items()}
    try:
        yield opened
    finally:
        for replica in opened.values():
            replica.close()


@contextlib.contextmanager
def served(folder: Path, doors: Doors = OPEN, **limits: Any) -> Iterator[TestClient]:
    """A client of a service with one model."""
    bounds = dataclasses.replace(ServiceLimits(), **limits)
    with replicas({"toy": folder}, bounds) as opened:
        app = build_app(Shelf([open_model("toy", folder, opened["toy"], 7)]), bounds, doors)
        with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
            client.replica = opened["toy"]
            yield client


def events_of(text: str) -> list[Any]:
    """The events of a stream; [DONE] as a text."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]

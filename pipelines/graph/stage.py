"""A stage: a frozen value whose key is the hash of all that decides its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cluster.cluster import Cluster
from cluster.config import RuntimeConfig
from components.plugins import locate
from components.store.fingerprint import canonical, fingerprint
from components.store.lease import Fence
from pipelines.graph.resources import Work


class Progress(Protocol):
    """Somebody who watches a stage."""

    def total(self, count: int, unit: str) -> None: ...
    def advance(self, count: int = 1) -> None: ...
    def to(self, done: int) -> None: ...
    def note(self, words: str) -> None: ...
    def say(self, message: str) -> None: ...


@dataclass(frozen=True)
class Context:
    """What a running stage is given."""

    folder: Path
    inputs: Mapping[str, Path]
    infos: Mapping[str, Mapping[str, Any]]
    """What the inputs' manifests say."""
    drew: Mapping[str, str]
    """What they come to: digests by which the inputs are known again."""
    runtime: RuntimeConfig
    cluster: Callable[[], Cluster]
    """Opens the cluster on the first call."""
    progress: Progress
    fence: Fence
    """Whoever takes this execution over."""


Run = Callable[[Any, Context], Mapping[str, Any]]


@dataclass(frozen=True)
class Given:
    """An input that no stage of the workflow makes: a folder that is there already, named by its content."""

    label: str
    """For people."""
    key: str
    """Digest of what the stages read of it."""
    place: Path
    info: Mapping[str, Any] = field(default_factory=dict)
    """What its manifest says, where it has one."""

    def folder(self, root: Path) -> Path:
        return self.place


@dataclass(frozen=True)
class Stage:
    """``run`` is the place of the code, ``module:function``; it is imported only when the stage runs."""

    name: str
    label: str
    """For people; different stages of one name have different labels."""
    version: int
    """Raised by hand when the code changes what the stage makes."""
    config: Any
    run: str
    inputs: Mapping[str, Stage | Given] = field(default_factory=dict)
    work: Work = "driver"
    """Where it does its work."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the result, as plain values."""
        return {
            "name": self.name,
            "version": self.version,
            "config": canonical(self.config),
            "inputs": {role: stage.key for role, stage in sorted(self.inputs.items())},
        }

    @cached_property
    def key(self) -> str:
        return fingerprint(self.identity)

    def folder(self, root: Path) -> Path:
        return root / self.name / self.key

    def made_of(self) -> list[Stage]:
        """The stages that it needs."""
        return [below for below in self.inputs.values() if isinstance(below, Stage)]

    def load(self) -> Run:
        found: Run = locate(self.run)
        return found


def in_order(targets: list[Stage]) -> list[Stage]:
    """All stages that the targets need, inputs first, each once."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key in found:
            return
        for below in stage.made_of():
            visit(below)
        found[stage.key] = stage

    for target in targets:
        visit(target)
    return list(found.values())

"""A run as a job of a cluster: what travels, under which id, and what must hold for it to make sense elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.jobs import Job, Jobs
from components.errors import ClusterError, ConfigError, Problem
from components.options import identifying, plain_of
from pipelines.config.load import Run

FILE = "run.yaml"
MAX_TRIES = 1000
ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
SECRET = re.compile(r"(^|_)(SECRET|PASSWORD|TOKEN|CREDENTIALS?|KEY)(_|$)", re.IGNORECASE)
"""In the names of variables that hold one."""


def submit(jobs: Jobs, run: Run, id: str, variables: Mapping[str, str]) -> tuple[Job, bool]:
    """Have a cluster make a run.

    A run that is at work there already is not started again. One that has ended is, under a new id, and goes on from what
    is there; but an ``id`` that is given is used once, whatever became of it.

    Args:
        id: of the job; made of the run where empty.
        variables: of the job's environment.
    Returns:
        the job, and whether it is a new one.
    Raises:
        ConfigError: the run names places that mean something else on another machine, or the id is none.
        ClusterError: the cluster does not take it.
    """
    problems = [*elsewhere(run), *misnamed(id)]
    if problems:
        raise ConfigError(problems)
    text = json.dumps(plain_of(run) | {"workflow": run.workflow}, indent=1)  # JSON is YAML, too
    # A cluster may renew the folder while the job is in it, where several of its nodes are on one machine.
    command = f'cd / && exec proseco {run.command} "$OLDPWD/{FILE}" runtime.address=auto'
    with tempfile.TemporaryDirectory(prefix="proseco-") as folder:
        (Path(folder) / FILE).write_text(text, encoding="utf-8")
        for name in [id] if id else ids(run.name, text):
            if jobs.send(name, command, Path(folder), run.name, variables):
                return jobs.get(name), True
            job = jobs.get(name)
            if id or job.active:
                return job, False
    raise ClusterError(f"{run.name} was sent to this cluster {MAX_TRIES} times already. Give the job an id by --id.")


def misnamed(id: str) -> Iterator[Problem]:
    """What no job may be called."""
    if id and not ID.fullmatch(id):
        rule = "1 to 100 letters, digits, - _ and ., not . first: the cluster names files by it"
        yield Problem("--id", id, rule, "e.g. --id nightly-2026-11-26")


def secrets_in(variables: Iterable[str]) -> list[str]:
    """Those that are secrets by their names. Ray writes the variables of a job into logs that all users of its machines can
    read."""
    return [name for name in variables if SECRET.search(name) and not name.endswith(("_PATH", "_FILE"))]


def ids(name: str, text: str) -> Iterator[str]:
    """The ids of one run's jobs, the first first."""
    stem = f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    yield stem
    yield from (f"{stem}.{number}" for number in range(2, MAX_TRIES + 1))


def elsewhere(run: Run) -> Iterator[Problem]:
    """Relative places, which on another machine, or in the folder that a job runs in, are other places."""
    for path, place in [("runtime.root", run.runtime.root), *locations(run)]:
        if place and not place.startswith(("/", "$", "~")) and "://" not in place:
            rule = "a full path, or a URL, that every machine of the cluster sees: a job runs in a folder of its own"
            yield Problem(path, place, rule, f"set {path}={Path(place).absolute()}, or wherever it is seen there")


def locations(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The fields below some options that say where something lies, and their values."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from locations(below, f"{path}.{name}" if path else str(name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = set(identifying(type(value)))
        for field in dataclasses.fields(value):
            below, place = getattr(value, field.name), f"{path}.{field.name}" if path else field.name
            if field.name in kept:
                yield from locations(below, place)
            elif isinstance(below, str):
                yield place, below

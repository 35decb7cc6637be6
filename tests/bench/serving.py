"""Rows through the whole service, Ray included, against the same rows made in this process."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from cluster.environment import ALLOCATOR
from tests.bench.paired import Pair

FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Gone with the process."""
SAMPLER = "proseco"


def serving(folder: Path) -> int:
    """The port of `proseco serve` with one replica, which ends with this process."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(folder), "--port", "0", "--replicas", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None

    def end() -> None:
        process.send_signal(signal.SIGINT)
        process.wait(60)

    atexit.register(end)
    for line in process.stdout:
        if found := re.search(r"http://[\d.]+:(\d+)", line):
            return int(found[1])
    raise AssertionError("the service ended before it answered")


def ask(port: int, body: dict[str, Any]) -> list[list[int]]:
    """The tokens of the rows that are asked for."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return [choice["proseco"]["tokens"] for choice in json.load(answer)["choices"]]


def overhead(name: str, given: dict[str, Any]) -> Pair:
    """One request for some rows. Below 1 is what HTTP, Ray and the shared engine cost; the replica's allocator is the one of
    `proseco bench`, so start it by that."""
    from components.api import load, sample
    from components.models.config import ModelConfig
    from tests.components.test_export import exported

    FOLDERS.append(tempfile.TemporaryDirectory(prefix="proseco-bench-"))
    folder = Path(given["export"] or FOLDERS[-1].name + "/model")
    if not given["export"]:
        exported(folder, ModelConfig(preset=given["size"]))
    model, port = load(folder), serving(folder)
    rows, length, options = given["rows"], given["length"], {"steps": min(given["steps"], given["length"])}
    seeds = {"ours": 0, "theirs": 0}

    def here(seed: int) -> list[list[int]]:
        return [list(text.sample.tokens) for text in sample(model, SAMPLER, rows, length=length, seed=seed, **options)]

    def there(seed: int) -> list[list[int]]:
        return ask(port, {"prompt": "", "n": rows, "sampler": SAMPLER, "length": length, "options": options, "seed": seed})

    def ours() -> dict[str, float]:
        seeds["ours"] += 1
        there(seeds["ours"])
        return {}

    def theirs() -> dict[str, float]:
        seeds["theirs"] += 1
        here(seeds["theirs"])
        return {}

    def same() -> str:
        for seed in (101, 102):
            assert there(seed) == here(seed), "the service made other rows"
        tuned = "" if os.environ.get("MALLOC_TOP_PAD_") == ALLOCATOR["MALLOC_TOP_PAD_"] else ", another allocator than the replica's"
        return f"{2 * rows} equal rows{tuned}"

    setting = {k: given[k] for k in ("size", "length", "rows", "steps", "export")}
    return Pair(name, setting, ours, theirs, same, clock="wall_s", work=rows, unit="rows")

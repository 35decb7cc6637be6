"""Suspend a run past its lease, let another take its stage over, and wake it: it must end with a sentence and publish
nothing.

python -m tests.chaos.sleeper --tries 20 --folder FOLDER
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.config import RuntimeConfig
from components.errors import ProsecoError
from components.store.artifact import read_manifest
from components.store.files import publish_text
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.graph.stage import Context, Stage

EXPIRY_S = 3.0
"""Longer than a process takes to start, so that the other one finds the lease held."""
PATIENCE_S = 60.0


def slow(config: Any, context: Context) -> Mapping[str, Any]:
    """A stage that waits for a sign, and says who made it."""
    name = os.environ["SLEEPER_NAME"]
    publish_text(context.folder / name, name)
    print("working", flush=True)
    await_file(Path(os.environ["SLEEPER_SIGNS"]) / f"{name}-go")
    return {"by": name}


def await_file(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def run(root: str) -> None:
    """What each of the two processes does."""
    runtime = RuntimeConfig(root=root, executor="local", jobs=1, tracking_uri="none", lease_expiry_s=EXPIRY_S)
    try:
        execute("slow", [stage()], runtime, Screen())
    except ProsecoError as error:
        print(f"error: {error}")
        sys.exit(1)


def stage() -> Stage:
    return Stage("slow", "slow", 1, {}, "tests.chaos.sleeper:slow")


def start(name: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"SLEEPER_NAME": name, "SLEEPER_SIGNS": str(folder)}
    command = [sys.executable, "-c", f"from tests.chaos.sleeper import run; run({str(folder / 'root')!r})"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_work(process: subprocess.Popen[str]) -> str:
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("working"):
            return said
    raise AssertionError(said)


def attempt(folder: Path, awake_while_the_other_works: bool) -> list[str]:
    """One try. Returns what was wrong with it; nothing is as it should be."""
    folder.mkdir(parents=True)
    sleeper = start("sleeper", folder)
    wait_for_work(sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    successor = start("successor", folder)
    told = wait_for_work(successor)  # after the lease of the sleeper expired
    (folder / "sleeper-go").touch()
    if awake_while_the_other_works:
        sleeper.send_signal(signal.SIGCONT)
        said = sleeper.communicate(timeout=PATIENCE_S)[0]
    (folder / "successor-go").touch()
    successor.communicate(timeout=PATIENCE_S)
    if not awake_while_the_other_works:
        sleeper.send_signal(signal.SIGCONT)
        said = sleeper.communicate(timeout=PATIENCE_S)[0]
    manifest = read_manifest(stage().folder(folder / "root"))
    checks = {
        "the successor did not wait for the lease": "is being made by proseco run slow" in told,
        "the sleeper did not end with 1": sleeper.returncode == 1,
        "the sleeper did not say why": "slow failed. slow-" in said and "was taken over" in said,
        "the sleeper showed a traceback": "Traceback" not in said,
        "the successor failed": successor.returncode == 0,
        "the manifest is not the successor's": manifest is not None and manifest.info == {"by": "successor"},
    }
    return [what for what, right in checks.items() if not right]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    wrong = 0
    for number in range(given.tries):
        found = attempt(given.folder / str(number), awake_while_the_other_works=number % 2 == 0)
        wrong += bool(found)
        print(f"try {number + 1}: {'; '.join(found) or 'right'}", flush=True)
    print(f"{given.tries - wrong} of {given.tries} right")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

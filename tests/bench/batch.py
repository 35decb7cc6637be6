"""A batch job on Ray against as many bare engines as it has replicas, in processes with the same allocator and threads.

    python -m tests.bench.batch EXPORT --rows 100000                   # job / bare engines, and the time to the first shard
    python -m tests.bench.batch EXPORT --rows 20000 --scaling          # two replicas / one

Rates are rows a second from the first shard that is sent out to the last that is there: starting and ending a cluster is
told apart. The bare engines make as many rows, corrections included, and take turns with the job every few seconds (one side
is stopped by SIGSTOP), because machines are not equally fast all the time. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.environment import ALLOCATOR
from cluster.processes import descendants

TURN_S = 3.0
"""Shorter than what makes a shard count as late."""

BARE = """
import sys, time
from dataclasses import replace
from pathlib import Path
from components.models.cpu import use_threads
use_threads(1)
from components.models.weights import HOME
from components.samplers import preset
from components.shards.canvas import canvas
from components.shards.model import Sampling, engine_of, load
from components.shards.prompt import Prompt

folder, rows, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
model, sampler = load(folder, HOME), preset("proseco", steps=steps)
engine = engine_of(model, Sampling(sampler))
length = int(__import__("json").loads((folder / "config.json").read_text())["length"])
asked = (replace(canvas(Prompt(i), length, model.tokenizer.mask_id, seed=seed), corrections=True) for i in range(rows))
print("ready", flush=True)
sys.stdin.readline()
begun = time.monotonic()
number = sum(1 for _ in engine.run(sampler, asked))
print(number, time.monotonic() - begun, flush=True)
"""


@dataclass
class Side:
    """Processes that make rows, and how long they were at it."""

    pids: Callable[[], list[int]]
    finished: Callable[[], bool]
    at_work_s: float = 0.0

    def work(self, seconds: float) -> None:
        """Be at work for so long, or until the rows are made."""
        self.send(signal.SIGCONT)
        begun = time.monotonic()
        while not (done := self.finished()) and time.monotonic() - begun < seconds:
            time.sleep(0.01)
        self.at_work_s += time.monotonic() - begun
        if not done:
            self.send(signal.SIGSTOP)

    def send(self, what: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)


def alternate(sides: Sequence[Side]) -> None:
    """Let one side work and then the other, until both have made their rows."""
    for side in sides:
        side.send(signal.SIGSTOP)
    while any(not side.finished() for side in sides):
        for side in sides:
            if not side.finished():
                side.work(TURN_S)


def bare(model: Path, rows: int, processes: int, steps: int) -> list[subprocess.Popen[str]]:
    """Engines that nothing surrounds, each in a process of its own, ready to begin."""
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, str(model), str(rows // processes), str(seed), str(steps)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for seed in range(processes)
    ]  # fmt: skip
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return running


def begin(engines: Sequence[subprocess.Popen[str]]) -> Side:
    for process in engines:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return Side(lambda: [p.pid for p in engines], lambda: all(p.poll() is not None for p in engines))


def job(
    model: Path, rows: int, replicas: int, steps: int, root: Path, engines: Sequence[subprocess.Popen[str]] = ()
) -> tuple[dict[str, float], Side | None]:
    """A batch job on Ray, and the engines that it takes turns with from its first shard on.

    Returns:
        rows a second, seconds from the command to its first shard, and its driver's memory; the engines' side.
    """
    shutil.rmtree(root, ignore_errors=True)
    command = [
        sys.executable, "-m", "pipelines.cli", "generate", str(model), "--sampler", "proseco", "--root", str(root),
        "--num-samples", str(rows), "--show", "0", f"steps={steps}", f"runtime.replicas={replicas}", "runtime.tracking_uri=none",
    ]  # fmt: skip
    begun, memory = time.time(), []
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def shards() -> int:
        memory.append(resident_mb(driver.pid))
        return sum(1 for _ in root.glob("generate/*/receipts/*.json"))

    while not shards():
        assert driver.poll() is None, "the job ended without a shard"
        time.sleep(0.05)
    first, at_first = time.time(), memory[-1]
    (journal,) = root.glob("generate/*/metrics.jsonl")
    start = json.loads(journal.read_text().splitlines()[0])
    sent = start["time_s"] - start["queue_age_s"]
    everybody = lambda: [driver.pid, *(p.pid for p in descendants([driver.pid]))]  # noqa: E731
    side = Side(everybody, lambda: shards() == start["shards"], at_work_s=time.time() - sent)
    against = begin(engines) if engines else None
    alternate([s for s in (side, against) if s is not None])
    assert driver.wait() == 0
    return {
        "rows_per_s": rows / side.at_work_s, "first_shard_s": first - begun,
        "driver_mb_first": at_first, "driver_mb_last": [m for m in memory if m][-1], "driver_mb_most": max(memory),
    }, against  # fmt: skip


def resident_mb(pid: int) -> float:
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported folder")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--scaling", action="store_true", help="against one replica instead of bare engines")
    parser.add_argument("--root", type=Path, default=Path("runs/bench"))
    given = parser.parse_args()
    shape = (given.model, given.rows, given.replicas, given.steps)
    found, against = job(*shape, given.root, () if given.scaling else bare(*shape))
    print(f"job on {given.replicas} replicas: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)
    if against is None:
        other = job(given.model, given.rows, 1, given.steps, given.root)[0]["rows_per_s"]
        print(f"one replica: {other:.1f} rows a second; {given.replicas} are {found['rows_per_s'] / other:.2f} times as fast")
    else:
        other = given.rows / against.at_work_s
        print(f"bare engines: {other:.1f} rows a second; the job has {found['rows_per_s'] / other:.1%} of it")


if __name__ == "__main__":
    main()

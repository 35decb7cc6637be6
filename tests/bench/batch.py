"""A batch job on Ray against as many bare engines as it has replicas, in processes with the same allocator and threads.

    python -m tests.bench.batch EXPORT --rows 100000                   # job / bare engines, and the time to the first shard
    python -m tests.bench.batch EXPORT --rows 20000 --scaling          # two replicas / one

Rates are rows a second from the first shard that is begun to the last that is there: starting and ending a cluster is told
apart. The bare engines make the same rows, corrections included, half of them before the job and half after it, because
machines are not equally fast all the time. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from components.models.cpu import ALLOCATOR

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


def bare(model: Path, rows: int, processes: int, steps: int) -> float:
    """Rows a second of engines that nothing surrounds, each in a process of its own, at work at once."""
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
    begun = time.monotonic()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    made = [process.communicate()[0].split() for process in running]
    return sum(int(number) for number, _ in made) / (time.monotonic() - begun)


def job(model: Path, rows: int, replicas: int, steps: int, root: Path) -> dict[str, float]:
    """Rows a second of a batch job on Ray, seconds from the command to its first shard, and its driver's memory."""
    shutil.rmtree(root, ignore_errors=True)
    command = [
        sys.executable, "-m", "pipelines.cli", "generate", str(model), "--sampler", "proseco", "--root", str(root),
        "--num-samples", str(rows), "--show", "0", f"steps={steps}", f"runtime.replicas={replicas}", "runtime.tracking_uri=none",
    ]  # fmt: skip
    begun, first, memory = time.time(), 0.0, []
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None:
        if next(root.glob("generate/*/shards/*.json"), None):
            first = first or time.time() - begun
            memory.append(resident_mb(driver.pid))
        time.sleep(0.1)
    assert driver.returncode == 0
    (journal,) = root.glob("generate/*/metrics.jsonl")
    last = json.loads(journal.read_text().splitlines()[-1])
    return {
        "rows_per_s": last["rows_per_s"], "first_shard_s": first, "whole_s": time.time() - begun,
        "driver_mb_first": memory[0], "driver_mb_last": memory[-2], "driver_mb_most": max(memory),
    }  # fmt: skip


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
    sides = [] if given.scaling else [bare(given.model, given.rows // 2, given.replicas, given.steps)]
    found = job(given.model, given.rows, given.replicas, given.steps, given.root)
    print(f"job on {given.replicas} replicas: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)
    if given.scaling:
        other = job(given.model, given.rows, 1, given.steps, given.root)["rows_per_s"]
        print(f"one replica: {other:.1f} rows a second; {given.replicas} are {found['rows_per_s'] / other:.2f} times as fast")
    else:
        sides.append(bare(given.model, given.rows // 2, given.replicas, given.steps))
        other = 2 / sum(1 / side for side in sides)
        both = " and ".join(f"{side:.1f}" for side in sides)
        print(f"bare engines: {both} rows a second; the job has {found['rows_per_s'] / other:.1%} of it")


if __name__ == "__main__":
    main()

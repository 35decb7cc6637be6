"""Kill a small run with SIGKILL, run it again, and compare its samples with an undisturbed run's.

python -m tests.chaos.harness --executor ray        # every fault point and ten moments, on Ray
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from components.faults import POINTS

RUN = """
name: chaos
corpora: {latin: {source: {name: latin_square, size: 3, num_documents: 60}, validation_share: 0.2}}
rows: {length: 9, pieces: 2}
model: {preset: nano, dim: 16, depth: 1, heads: 2, num_positions: 9}
train:
  base: {objective: {name: mdlm}, steps: 6, batch_rows: 8, checkpoint_every: 2, validation_rows: 4, log_every: 2}
  proseco: {objective: {name: proseco}, init_from: base, steps: 6, batch_rows: 8, checkpoint_every: 2, validation_rows: 4}
generate: {num_samples: 12, seeds: [0, 1], shard_rows: 4, lanes: 4}
samplers:
  mdlm: {model: base, sampler: {preset: mdlm}, steps: [4]}
  proseco: {model: proseco, sampler: {preset: proseco}, steps: [3]}
scorers: {validity: {}, entropy: {}}
"""
LOCAL = [
    "runtime.executor=local", "runtime.engine=torch", "runtime.workers=1", "runtime.jobs=1", "runtime.tracking_uri=none",
]  # fmt: skip
RAY = ["runtime.executor=ray", "runtime.workers=2", "runtime.replicas=2"]


def start(
    folder: Path, root: Path, executor: str, fault: str | None = None, *options: str, **variables: str
) -> subprocess.Popen[str]:
    """The run as a process group of its own."""
    run = folder / "chaos.yaml"
    run.write_text(RUN)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PROSECO_FAULT")} | variables
    if fault:
        environment["PROSECO_FAULT"] = fault
    given = [*(LOCAL if executor == "local" else RAY), f"runtime.root={root}", *options]
    command = [sys.executable, "-m", "pipelines.cli", "run", str(run), *given]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the run and return what it said.

    Raises:
        AssertionError: it failed.
    """
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]
    return said


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver's whole group, and wait until its cluster is gone too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and session_lives(process.pid):
        time.sleep(0.2)


def session_lives(session: int) -> bool:
    """Does any process of that session live? Ray's processes stay in the session of their driver."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def samples(root: Path) -> list[tuple[str, int, str, int]]:
    """Every row of every finished sample table: (sampler, id, text, calls)."""
    rows = []
    for manifest in root.glob("generate/*/manifest.json"):
        for shard in sorted(manifest.parent.glob("shards/*.parquet")):
            for row in pq.read_table(shard).to_pylist():
                rows.append((manifest.parent.name, row["row_id"], row["seed"], tuple(row["tokens"]), row["calls"]))
    return sorted(rows)


def disturb_at(point: str, folder: Path, executor: str) -> Path:
    """Kill at a fault point, then finish. Returns the root."""
    root = folder / point.replace(":", "-")
    process = start(folder, root, executor, point)
    said, _ = process.communicate(timeout=600)
    kill(process)
    assert process.returncode == -signal.SIGKILL, f"{point} was not reached: {said[-2000:]}"
    finish(start(folder, root, executor))
    return root


def disturb_after(seconds: float, folder: Path, executor: str) -> Path:
    """Kill after some seconds, then finish. Returns the root."""
    root = folder / f"after-{seconds:.2f}"
    process = start(folder, root, executor)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
    finish(start(folder, root, executor))
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", choices=("local", "ray"), default="ray")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    begin = time.monotonic()
    finish(start(options.folder, options.folder / "undisturbed", options.executor))
    whole = time.monotonic() - begin
    expected = samples(options.folder / "undisturbed")
    print(f"undisturbed: {len(expected)} rows in {whole:.1f} s", flush=True)
    rng = random.Random(options.seed)
    cases = [(point, lambda p=point: disturb_at(p, options.folder, options.executor)) for point in POINTS]
    for _ in range(options.moments):
        moment = rng.uniform(0.02, 0.98) * whole
        cases.append((f"after {moment:.1f} s", lambda s=moment: disturb_after(s, options.folder, options.executor)))
    failed = 0
    for name, case in cases:
        equal = samples(case()) == expected
        failed += not equal
        print(f"{'equal' if equal else 'DIFFERENT'}  {name}", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} equal")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

"""Four trainings that do not need each other: one after the other, and two at once, in one run on the same machine.

python -m tests.bench.side_by_side --executor local --folder FOLDER

Prints the seconds of each order, three times in alternation, and whether the weights are equal bit for bit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from components.store.files import digest_file

RUN = """
name: four
corpora: {latin: {source: {name: latin_square, size: 5, num_documents: 4000}}}
rows: {length: 25}
model: {preset: nano, dim: 64, depth: 3, heads: 4, num_positions: 25}
train:
"""
TRAINING = "  seed{n}: {{objective: {{name: proseco}}, steps: {steps}, batch_rows: 32, log_every: 50, seed: {n}}}\n"


def seconds(folder: Path, root: Path, executor: str, jobs: int) -> float:
    """How long the run takes, the start of its processes and the tokenization included."""
    command = [sys.executable, "-m", "pipelines.cli", "run", str(folder / "four.yaml"), f"runtime.root={root}"]
    options = {"executor": executor, "jobs": jobs, "workers": 1, "replicas": 2, "cpus": 2, "tracking_uri": "none"}
    if executor == "local":
        options["engine"] = "torch"
    start = time.monotonic()
    said = subprocess.run([*command, *(f"runtime.{k}={v}" for k, v in options.items())], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-2000:]
    return time.monotonic() - start


def weights(root: Path) -> dict[str, str]:
    """Digests of all exported weights by the key of their stage."""
    return {p.parent.name: digest_file(p) for p in root.glob("export/*/model.safetensors")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    text = RUN + "".join(TRAINING.format(n=n, steps=given.steps) for n in range(4))
    (given.folder / "four.yaml").write_text(text)
    ratios, found = [], []
    for number in range(given.rounds):
        roots = {jobs: given.folder / f"{number}-{jobs}" for jobs in (1, 2)}
        took = {jobs: seconds(given.folder, root, given.executor, jobs) for jobs, root in roots.items()}
        found += [weights(root) for root in roots.values()]
        ratios.append(took[1] / took[2])
        print(f"one by one {took[1]:.1f} s, two at once {took[2]:.1f} s: {ratios[-1]:.2f} times", flush=True)
    equal = len(found[0]) == 4 and all(f == found[0] for f in found)
    print(f"weights equal: {equal}; ratio {min(ratios):.2f} to {max(ratios):.2f}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()

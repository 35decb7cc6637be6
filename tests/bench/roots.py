"""One run on a plain folder, on fsspec's local file system and on its memory: are the three tables equal?

python -m tests.bench.roots configs/runs/demo.yaml --folder FOLDER [--submit] [key=value ...]

Without a cluster, by plain torch in one process, two roots at a time. With ``--submit`` once more by `proseco submit` on two
nodes on loopback, with DeepSpeed and replicas, on a store of objects. Exits with 1 where the tables differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SETTINGS = ("executor=local", "engine=torch", "workers=1", "jobs=1", "tracking_uri=none")

# What is in memory ends with its process, so the table is printed by the process that made it.
ONE = """
import sys
from click.testing import CliRunner
from pipelines.cli import main
made = CliRunner().invoke(main, ["run", *sys.argv[1:], "--quiet"], catch_exceptions=False)
assert made.exit_code == 0, made.output
again = CliRunner().invoke(main, ["run", *sys.argv[1:], "--quiet"], catch_exceptions=False)
assert again.output.startswith("nothing to do"), again.output
print(CliRunner().invoke(main, ["show", *sys.argv[1:], "--json"], catch_exceptions=False).output)
"""


def results(run: Path, root: str, cache: Path, overrides: list[str]) -> tuple[list[dict[str, object]], float]:
    """The table of a run on a root, and its seconds."""
    options = [f"runtime.{s}" for s in (f"root={root}", *SETTINGS)]
    start = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", ONE, str(run), *options, *overrides],
        env=os.environ | {"PROSECO_CACHE": str(cache)}, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    return json.loads(said.stdout)["results"], time.monotonic() - start


def submitted(run: Path, overrides: list[str]) -> tuple[list[dict[str, object]], float]:
    """The table of a run that a cluster of two nodes makes, with its root on a store of objects, and its seconds."""
    from tests.cluster.nodes import nodes
    from tests.objects import BUCKET, objects

    command = [sys.executable, "-m", "pipelines.cli"]
    options = [str(run), f"runtime.root=s3://{BUCKET}/run", "runtime.tracking_uri=none", *overrides]
    with objects() as reach, nodes(2, cpus=2) as made:
        start = time.monotonic()
        passed = [word for name in reach for word in ("--env", name)]
        subprocess.run([*command, "submit", *options, *passed], env=os.environ | made.environment | reach, check=True)
        seconds = time.monotonic() - start
        said = subprocess.run(
            [*command, "show", *options, "--json"], env=os.environ | reach, check=True, capture_output=True, text=True
        )
    return json.loads(said.stdout)["results"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--submit", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    here = given.folder.absolute()
    roots = {"folder": f"{here}/plain", "file": f"file://{here}/file", "memory": f"memory://{here}/memory"}
    with ThreadPoolExecutor(2) as threads:
        waiting = {
            n: threads.submit(results, given.run, r, here / f"cache-{n}", given.overrides) for n, r in roots.items()
        }
        found = {name: one.result() for name, one in waiting.items()}
    if given.submit:
        found["submitted"] = submitted(given.run, given.overrides)
    expected = found["folder"][0]
    for name, (table, seconds) in found.items():
        print(f"{name:9} {len(table)} rows in {seconds:.0f} s, {'equal' if table == expected else 'DIFFERENT'}")
    sys.exit(any(table != expected for table, _ in found.values()))


if __name__ == "__main__":
    main()

"""Make many samples on Ray while replicas, the driver, the controller and the head are killed at random, and compare the
table with an undisturbed one: no row lost, none doubled, all equal.

python -m tests.chaos.soak --rows 200000 --kills 20
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.processes import Process, command, descendants
from components.store.artifact import read_manifest
from tests.components.test_export import exported

VICTIMS = {"replica": b"ray::ServeReplica", "controller": b"ray::ServeController", "raylet": b"raylet", "gcs": b"gcs_server"}
"""By the program's name, or the title that Ray gives a process."""
KINDS = (*VICTIMS, "driver")
WEIGHTS = (10, 3, 2, 2, 3)
STUCK_S = 180.0
GONE_S = 150.0
"""Ray's own agents look for their parent now and then; on a busy machine that takes longest."""


def arguments(model: Path, root: Path, rows: int, shard_rows: int, *overrides: str) -> list[str]:
    options = [f"generate.shard_rows={shard_rows}", "steps=3", "runtime.tracking_uri=none", *overrides]
    return ["generate", str(model), "--sampler", "proseco", "--root", str(root), "--num-samples", str(rows), "--show", "0", *options]


def start(given: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command as a session of its own."""
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *given], stdout=said, stderr=said, start_new_session=True
        )


def victims(driver: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    """Processes of a run that may be killed, by what they are."""
    found: dict[str, list[int]] = {"driver": [driver.pid]}
    for process in descendants([driver.pid]):
        said = command(process.pid)
        program = said.partition(b"\0")[0].rpartition(b"/")[2]
        for kind, name in VICTIMS.items():
            if program == name or said.startswith(name):
                found.setdefault(kind, []).append(process.pid)
    return found


def end_all(processes: set[Process]) -> None:
    """Wait for what a killed driver leaves behind: an embedded cluster follows its driver."""
    deadline = time.monotonic() + GONE_S
    while any(p.lives() for p in processes) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [p for p in processes if p.lives()]
    assert not left, f"{len(left)} processes of a killed run are left: {[command(p.pid)[:60] for p in left]}"


def disturbed(given: list[str], folder: Path, kills: int, seed: int, pause_s: tuple[float, float]) -> Counter[str]:
    """Run to the end, again and again, under fire. Returns how often what was killed."""
    draw, killed = random.Random(seed), Counter[str]()
    log, shards = folder / "disturbed.log", folder / "disturbed"
    while True:
        driver, seen, made, moved = start(given, log), set[Process](), -1, time.monotonic()
        strike = time.monotonic() + draw.uniform(*pause_s)
        while driver.poll() is None:
            time.sleep(0.2)
            seen |= descendants([driver.pid])
            now = len(list(shards.glob("generate/*/receipts/*.json")))
            if now != made:
                made, moved = now, time.monotonic()
            assert time.monotonic() - moved < STUCK_S, f"nothing was made for {STUCK_S:.0f} s; see {log}"
            if killed.total() >= kills or time.monotonic() < strike or moved < strike - pause_s[1] * 3:
                continue
            there = victims(driver)
            kind = draw.choices(KINDS, WEIGHTS)[0]
            if "replica" in there and kind in there:  # it is at work
                pid = draw.choice(there[kind])
                os.kill(pid, signal.SIGKILL)
                killed[kind] += 1
                print(f"{killed.total():3} killed {kind} {pid}, {now} shards are there", flush=True)
            strike = time.monotonic() + draw.uniform(*pause_s)
        end_all(seen)
        if driver.returncode == 0:
            return killed


def table(root: Path) -> pa.Table:
    """All rows, by id."""
    (folder,) = root.glob("generate/*")
    manifest = read_manifest(folder)
    assert manifest is not None, "the job is not finished"
    columns = ["row_id", "sample_index", "tokens", "calls", "edits"]
    parts = [pq.read_table(folder / "shards" / f"{name}.parquet", columns=columns) for name in manifest.info["shards"]]
    return pa.concat_tables(parts).sort_by("row_id").combine_chunks()


def soak(folder: Path, rows: int, kills: int, seed: int, shard_rows: int, pause_s: tuple[float, float]) -> Counter[str]:
    """Both runs and the comparison. Raises AssertionError where they differ."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = folder / "model"
    exported(model)
    begun = time.monotonic()
    alone = start(arguments(model, folder / "undisturbed", rows, shard_rows, "runtime.executor=local"), folder / "undisturbed.log")
    assert alone.wait() == 0, f"see {folder}/undisturbed.log"
    print(f"undisturbed: {rows} rows in {time.monotonic() - begun:.0f} s", flush=True)
    begun = time.monotonic()
    killed = disturbed(arguments(model, folder / "disturbed", rows, shard_rows), folder, kills, seed, pause_s)
    print(f"disturbed: {killed.total()} kills {dict(killed)} in {time.monotonic() - begun:.0f} s", flush=True)
    expected, found = table(folder / "undisturbed"), table(folder / "disturbed")
    assert found.num_rows == rows, f"{found.num_rows} rows instead of {rows}"
    assert len(found["row_id"].unique()) == rows, "a row is there twice"
    assert found.equals(expected), "the tables differ"
    print(f"{rows} rows, each once, all equal", flush=True)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shard-rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    killed = soak(given.folder, given.rows, given.kills, given.seed, given.shard_rows, (1.0, 5.0))
    if killed.total() < given.kills:
        sys.exit(f"only {killed.total()} of {given.kills} kills were reached before the job was done: raise --rows")


if __name__ == "__main__":
    main()

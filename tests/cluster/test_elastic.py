"""Trainings on clusters whose nodes come and go: other world sizes, the same batches, and a loss that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import processes
from components.training import checkpoint
from tests.cluster.nodes import Nodes, growing, nodes
from tests.waiting import until

pytestmark = pytest.mark.ray

RUN = """
name: elastic
corpora: {latin: {source: {name: latin_square, size: 3, num_documents: 60}, validation_share: 0.2}}
rows: {length: 9, pieces: 2}
model: {preset: nano, dim: 16, depth: 1, heads: 2, num_positions: 9}
train:
  base: {objective: {name: mdlm}, steps: 400, batch_rows: 8, checkpoint_every: 20, validation_rows: 12, log_every: 1}
"""
STEPS = 400
AGAIN_S = 60
"""After a loss those who are left train again within so long."""
SHARED = ["runtime.workers=2", "runtime.zero_stage=2", "runtime.tracking_uri=none", "runtime.replicas=1"]


@contextmanager
def training(made: Nodes | None, folder: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A run of one training on a cluster; None is one of its own."""
    run = folder / "elastic.yaml"
    run.write_text(RUN)
    given = [*SHARED, "runtime.min_workers=1", f"runtime.root={folder / 'root'}", *([f"runtime.address={made.address}"] if made else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", str(run), *given, *options],
        env=os.environ | (made.environment if made else {}) | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=90)


def finished(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said[-3000:]
    return said


def journal(root: Path) -> list[dict[str, object]]:
    """What is written so far; the last line may be half there."""
    found = []
    for path in root.glob("train/*/metrics.jsonl"):
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def sizes(root: Path) -> list[int]:
    """World sizes, one for each time that the workers were started."""
    return [row["params"]["world_size"] for row in journal(root) if "params" in row]


def steps(root: Path) -> list[int]:
    return [row["step"] for row in journal(root) if "nll_bound" in row]


def losses(root: Path) -> dict[int, float]:
    """The loss of every step, as it was made last."""
    return {row["step"]: row["nll_bound"] for row in journal(root) if "nll_bound" in row}


def reached(root: Path, step: int, size: int) -> Callable[[], bool]:
    return lambda: sizes(root)[-1:] == [size] and steps(root)[-1:] != [] and steps(root)[-1] >= step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The root of the same training on two processes of this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = folder / "elastic.yaml"
    run.write_text(RUN)
    options = [*SHARED, "runtime.executor=local", f"runtime.root={folder / 'root'}", "--quiet"]
    subprocess.run([sys.executable, "-m", "pipelines.cli", "run", str(run), *options], check=True, timeout=300)
    return folder / "root"


def require_same_course(root: Path, undisturbed: Path) -> None:
    """Every step was made, on the same batch, and came to the same loss but for the order in which numbers are added."""
    found, expected = losses(root), losses(undisturbed)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    apart = [abs(found[step] - expected[step]) for step in expected]
    assert max(apart) < 2e-3, max(apart)


def checkpoints(root: Path) -> list[str]:
    return [p.name for folder in root.glob("train/*/checkpoints") for p in checkpoint.complete(folder)]


def raylets(made: Nodes, head: bool) -> list[int]:
    below = processes.descendants([made.process.pid])
    commands = {p.pid: processes.command(p.pid).split(b"\0") for p in below}
    return [pid for pid, c in commands.items() if c[0].endswith(b"/raylet") and (b"--head" in c) is head]


SLOW = "train.mid_step:1:slow"


def test_a_training_that_loses_a_node_goes_on_with_the_other(tmp_path, undisturbed):
    with nodes(2, cpus=1) as made, training(made, tmp_path) as process:
        root = tmp_path / "root"
        until(reached(root, 50, 2), 240)
        (other,) = raylets(made, head=False)
        os.kill(other, signal.SIGKILL)
        until(lambda: sizes(root) == [2, 1], AGAIN_S)
        finished(process)
        assert sizes(root) == [2, 1]
        require_same_course(root, undisturbed)


def test_a_training_takes_a_node_that_comes(tmp_path, undisturbed):
    """Ray counts what a cluster has every 20 seconds, so steps take their time here."""
    with growing(PROSECO_FAULT=SLOW) as made, training(made, tmp_path, "runtime.resize_every_s=2") as process:
        root = tmp_path / "root"
        until(reached(root, 20, 1), 240)
        made.process.stdin.write("another\n")
        made.process.stdin.flush()
        finished(process)
        assert sizes(root) == [1, 2]
        require_same_course(root, undisturbed)


@pytest.mark.long
def test_a_node_that_is_taken_away_with_notice_loses_nothing_made_before_it(tmp_path, undisturbed):
    """A checkpoint is written when the notice comes, far from any that was due, and the other node begins there."""
    with nodes(2, 1, PROSECO_FAULT=SLOW) as made, training(made, tmp_path, "train.base.checkpoint_every=1000") as process:
        root = tmp_path / "root"
        until(reached(root, 30, 2), 240)
        assert not checkpoints(root)
        code = (
            "import ray, sys, json; ray.init(address=sys.argv[1], log_to_driver=False);"
            "print([n['NodeID'] for n in ray.nodes() if n['Alive'] and 'node:__internal_head__' not in n['Resources']][0])"
        )
        environment = os.environ | made.environment
        said = subprocess.run([sys.executable, "-c", code, made.address], env=environment, capture_output=True, text=True, check=True)
        drain = ["drain-node", "--address", made.address, "--node-id", said.stdout.split()[-1], "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        drain += ["--reason-message", "taken away", "--deadline-remaining-seconds", "8"]
        subprocess.run([str(Path(sys.executable).parent / "ray"), *drain], env=environment, check=True, stdout=subprocess.DEVNULL)
        until(lambda: checkpoints(root), 60)
        (saved,) = checkpoints(root)
        finished(process)
        assert sizes(root) == [2, 1]
        second = [n for n, row in enumerate(journal(root)) if "params" in row][1]
        begun = next(row["step"] for row in journal(root)[second:] if "nll_bound" in row)
        assert begun == int(saved.removeprefix("step-")) + 1 > 31
        require_same_course(root, undisturbed)


@pytest.mark.long
def test_a_training_that_hangs_is_started_again(tmp_path, undisturbed):
    """At step 250, and from the checkpoint of step 240 on there are fewer steps left than it takes to hang again."""
    with training(None, tmp_path, "runtime.hang_s=5", PROSECO_FAULT="train.mid_step:250:hang") as process:
        finished(process)
    root = tmp_path / "root"
    assert sizes(root) == [2, 2]
    require_same_course(root, undisturbed)

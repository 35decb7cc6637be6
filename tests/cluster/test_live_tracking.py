"""The curves of a training reach MLflow while it runs, and stay when it fails or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner
from mlflow import MlflowClient

from components.tracking import written_metrics
from pipelines.cli import main
from tests.chaos import harness

OPTIONS = [o for o in harness.LOCAL if "tracking" not in o]
LAG_S = 2.0
"""How far MLflow may be behind the journal of a run that is killed as a whole."""


def curves(root: Path, label: str, metric: str) -> list[tuple[str, set[int]]]:
    """(status, steps of a metric) of every execution of a stage, the first first."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("proseco").experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.runName` = '{label}'", order_by=["attributes.start_time"])
    return [(r.info.status, {m.step for m in client.get_metric_history(r.info.run_id, metric)}) for r in runs]


def journal_of(root: Path) -> Path:
    return next(root.glob("train/*/metrics.jsonl"))


def test_a_training_that_fails_leaves_its_whole_curve(tmp_path):
    run, root = tmp_path / "run.yaml", tmp_path / "root"
    # The rate becomes absurd after a while.
    training = "base: {objective: {name: mdlm}, steps: 90, log_every: 1, optimizer: {lr: 1.0e+38, warmup_steps: 60}, "
    run.write_text(
        harness.RUN.replace("base: {objective: {name: mdlm}, steps: 6, ", training).replace(", log_every: 2", "")
    )
    result = CliRunner().invoke(main, ["run", str(run), *OPTIONS, f"runtime.root={root}"])
    assert result.exit_code == 1
    assert "The gradient norm of step" in result.output
    rows = [r for r in written_metrics(journal_of(root)) if "grad_norm" in r]
    assert rows
    assert curves(root, "train/base", "grad_norm") == [("FAILED", {int(r["step"]) for r in rows})]


def test_a_run_that_is_killed_leaves_the_curve_up_to_then_and_its_successor_has_all_of_it(tmp_path):
    run, root = tmp_path / "run.yaml", tmp_path / "root"
    longer = "steps: 2000, batch_rows: 8, checkpoint_every: 500"
    run.write_text(harness.RUN.replace("steps: 6, batch_rows: 8, checkpoint_every: 2", longer, 1))
    command = [sys.executable, "-m", "pipelines.cli", "run", str(run), *OPTIONS, f"runtime.root={root}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(root.glob("train/*/metrics.jsonl")) or len(written_metrics(journal_of(root))) < 100:
        assert time.monotonic() < deadline, "no training came to its middle in 240 s"
        time.sleep(0.05)
    time.sleep(LAG_S)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    rows = [r for r in written_metrics(journal_of(root)) if "grad_norm" in r]
    last = rows[-1]["time_s"]
    before = {int(r["step"]) for r in rows if r["time_s"] < last - LAG_S}
    (status, sent), *more = curves(root, "train/base", "grad_norm")
    assert not more
    assert before
    assert before <= sent
    assert status == "RUNNING"
    assert CliRunner().invoke(main, command[3:]).exit_code == 0
    first, second = curves(root, "train/base", "grad_norm")
    assert first[0] == "KILLED"
    assert second == ("FINISHED", set(range(2, 2001, 2)))

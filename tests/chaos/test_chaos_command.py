"""``proseco chaos``: what a run bears is passed, what it does not bear is told, and what it has not is left out."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from cluster import processes
from pipelines.chaos import verdict as module
from pipelines.chaos.faults import FAULTS
from pipelines.chaos.running import Running
from pipelines.chaos.verdict import disturb
from pipelines.cli import main
from pipelines.cli.screen import load
from tests.chaos import harness
from tests.waiting import until

OPTIONS = [*harness.LOCAL, "train.base.steps=300", "runtime.lease_expiry_s=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("chaos") / "chaos.yaml"
    path.write_text(harness.RUN)
    return path


def test_a_run_bears_what_it_has_to_and_the_report_says_so(run, tmp_path):
    chosen = ["disk", "sleep", "replica", "head"]
    given = [word for name in chosen for word in ("--fault", name)]
    result = CliRunner().invoke(main, ["chaos", str(run), *OPTIONS, *given, "--folder", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "chaos.json").read_text())
    assert found["passed"]
    by_name = {v["fault"]: v for v in found["faults"]}
    assert {name: v["passed"] for name, v in by_name.items()} == {
        "disk": True, "sleep": True, "replica": None, "head": None,
    }  # fmt: skip
    assert by_name["disk"]["recovered"] == "by the same command, given 2 times"
    assert by_name["sleep"]["recovered"] == "by itself"
    assert "it ended with 1" in by_name["sleep"]["done"], "who was taken over publishes nothing more"
    assert "left out" in by_name["head"]["done"]
    assert "2 passed, 0 failed, 2 left out" in (tmp_path / "out" / "chaos.html").read_text()


def made(run, tmp_path) -> Running:
    options = (*harness.LOCAL, f"runtime.root={tmp_path / 'root'}")
    config, stages = load(run, options)
    command = [sys.executable, "-m", "pipelines.cli", "run", str(run), *options, "--quiet"]
    return Running(command, tmp_path / "root", config.runtime, stages, tmp_path / "log", random.Random(0))


def test_other_tables_and_processes_that_are_left_are_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "FAULTS", FAULTS | {"nothing": module.FAULTS["disk"].__class__("nothing is done", leaving_one)}
    )
    monkeypatch.setattr("pipelines.chaos.running.GONE_S", 1.0)
    running = made(run, tmp_path)
    verdict = disturb("nothing", running, {"export/base": "other weights", "generate/mdlm@4": "other rows"})
    for process in running.seen:
        process.lives() and subprocess.run(["kill", "-9", str(process.pid)], check=False)
    assert verdict.passed is False
    assert "export/base differs" in verdict.problems
    assert "generate/mdlm@4 differs" in verdict.problems
    assert any(p.startswith("left behind: sleep") for p in verdict.problems)


def leaving_one(running: Running) -> str:
    """Nothing is done, but a process of the run stays."""
    running.command = ["sh", "-c", f"sleep 300 & {' '.join(running.command)}"]
    running.start()
    return "nothing"


def test_a_run_that_hangs_is_ended_and_told(run, tmp_path):
    running = made(run, tmp_path)
    running.command, running.patience_s = ["sleep", "300"], 1.0
    verdict = disturb("disk", running, {})
    assert verdict.passed is False
    assert verdict.problems[0] == "it did not end in 1 s and was stopped"
    assert running.driver.returncode == -signal.SIGTERM


def test_who_stops_the_suite_stops_its_run(run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "chaos",
        str(run),
        *harness.LOCAL,
        "--folder",
        str(tmp_path / "out"),
    ]
    suite = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    until(lambda: (tmp_path / "out" / "undisturbed" / "train").exists())
    started = processes.descendants([suite.pid])
    assert started
    suite.terminate()
    suite.wait(60)
    assert not [p for p in started if p.lives()]


def test_a_run_that_does_not_recover_is_told(run, tmp_path):
    running = made(run, tmp_path)
    running.command = [*running.command, "train.base.steps=-1"]
    verdict = disturb("disk", running, {})
    assert verdict.passed is False
    assert "ends with 1 after 4 tries" in verdict.problems[0]


def test_a_run_that_fails_undisturbed_is_not_disturbed(run, tmp_path):
    options = [*harness.LOCAL, "corpora.latin.validation_share=0.99", "train.base.batch_rows=8"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "undisturbed").write_text("a file where the root should be")
    result = CliRunner().invoke(main, ["chaos", str(run), *options, "--folder", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Mend it first" in result.output


def test_a_fault_that_there_is_not_is_refused(run, tmp_path):
    result = CliRunner().invoke(main, ["chaos", str(run), *OPTIONS, "--fault", "earthquake", "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "driver-sampling" in result.output

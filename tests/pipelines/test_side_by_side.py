"""Stages at once, runs at once, branches that fail, and roots that are no plain folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.config import RuntimeConfig
from components.store.files import at, files_below, read_text
from components.store.lease import FOLDER, highest
from pipelines.cli import main
from pipelines.graph.resources import Resources, fits
from tests.chaos import harness
from tests.objects import BUCKET, objects, reach

STARTED = re.compile(r"^\[\d+/\d+\] (\S+)  \(\w+\) (\w+)$", re.MULTILINE)


def options(root: str | Path, **changes: object) -> list[str]:
    """Those of the harness, with others in their place."""
    values = dict(o.removeprefix("runtime.").split("=") for o in harness.LOCAL) | {"root": root} | changes
    return [f"runtime.{name}={value}" for name, value in values.items()]


def proseco(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


def results(run: Path, chosen: list[str]) -> list[dict[str, object]]:
    shown = json.loads(proseco("show", str(run), *chosen, "--json")[1])
    assert {s["state"] for s in shown["stages"]} == {"fresh"}
    return shown["results"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(run file, root, results) of a run whose stages were made one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    run = folder / "chaos.yaml"
    run.write_text(harness.RUN + "metric: validity\n")
    code, said = proseco("run", str(run), *options(folder / "root"))
    assert code == 0, said
    return run, folder / "root", results(run, options(folder / "root"))


def test_stages_side_by_side_give_the_same_table(alone, tmp_path):
    run, root, expected = alone
    chosen = options(tmp_path / "root", jobs=0, workers=1, replicas=2, cpus=2)
    code, said = proseco("run", str(run), *chosen)
    assert code == 0, said
    assert results(run, chosen) == expected
    assert harness.samples(tmp_path / "root") == harness.samples(root)


@pytest.fixture(params=["file", "memory", "s3"])
def elsewhere(request, tmp_path, monkeypatch):
    """The URL of a root on another file system."""
    if request.param != "s3":
        yield f"{request.param}://{tmp_path / 'root'}"
        return
    with objects() as variables:
        reach(monkeypatch, variables)
        yield f"s3://{BUCKET}/root"


def test_a_root_on_another_file_system_gives_the_same_table(elsewhere, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("PROSECO_CACHE", str(tmp_path / "cache"))
    run, root, expected = alone
    chosen = options(elsewhere)
    code, said = proseco("run", str(run), *chosen)
    assert code == 0, said
    assert results(run, chosen) == expected
    if elsewhere.startswith("file:"):
        assert harness.samples(tmp_path / "root") == harness.samples(root)
    assert proseco("run", str(run), *chosen)[1].startswith("nothing to do")
    report = next(p for p in files_below(at(elsewhere)) if p.name == "report.html")
    assert "proseco" in read_text(report)


def test_memory_is_refused_where_several_processes_would_need_it(alone):
    run, _, _ = alone
    code, said = proseco("run", str(run), "runtime.root=memory://x", "runtime.tracking_uri=none")
    assert code == 1
    assert "memory is seen by one process alone" in said
    code, said = proseco("run", str(run), "runtime.root=s3://bucket/x")
    assert code == 1
    assert "runtime.tracking_uri" in said


def test_runs_at_once_on_one_root_share_what_both_need_and_make_nothing_twice(alone, tmp_path):
    run, root, expected = alone
    chosen = options(tmp_path / "root")
    other = [*chosen, "train.proseco.steps=8"]
    command = [sys.executable, "-m", "pipelines.cli", "run", str(run)]
    started = [
        subprocess.Popen([*command, *o], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for o in (chosen, chosen, other)
    ]
    said = [p.communicate(timeout=600)[0] for p in started]
    assert [p.returncode for p in started] == [0, 0, 0], said
    made = [key for text in said for _, key in STARTED.findall(text)]
    assert len(made) == len(set(made))
    stages = {
        s["key"] for o in (chosen, other) for s in json.loads(proseco("show", str(run), *o, "--json")[1])["stages"]
    }
    assert set(made) == stages
    assert "is being made by proseco run chaos" in "".join(said)
    assert results(run, chosen) == expected
    assert set(harness.samples(root)) < set(harness.samples(tmp_path / "root"))
    assert results(run, other) != expected
    assert all(highest(chain)[1] is None for chain in (tmp_path / "root" / FOLDER).iterdir())


@pytest.mark.parametrize("jobs", [1, 0])
def test_a_branch_that_fails_lets_the_others_finish_and_is_named_at_the_end(jobs, alone, tmp_path):
    run, _, expected = alone
    text = run.read_text().replace(
        "samplers:", "samplers:\n  broken: {model: broken, sampler: {preset: mdlm}, steps: [2]}"
    )
    text = text.replace(
        "train:", "train:\n  broken: {objective: {name: mdlm}, steps: 6, batch_rows: 8, optimizer: {lr: 1.0e+30}}"
    )
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text)
    chosen = [o for o in options(tmp_path / "root") if "jobs" not in o]
    code, said = proseco("run", str(wrong), *chosen, "--jobs", str(jobs))
    order = [label for label, _ in STARTED.findall(said)]
    assert len(order) == 11
    if jobs == 1:  # the order of the plan
        planned = [s["stage"] for s in json.loads(proseco("plan", str(wrong), *chosen, "--json")[1])]
        assert order == [label for label in planned if label in order]
    assert code == 1
    told = said[said.index("error:") :]
    assert "train/broken failed. The gradient norm of step" in told
    assert (
        "Not made, because they need what failed: export/broken, generate/broken@2, score/broken@2, evaluate, report"
        in told
    )
    assert "Traceback" not in said
    states = {s["stage"]: s["state"] for s in json.loads(proseco("show", str(wrong), *chosen, "--json")[1])["stages"]}
    assert {n for n, s in states.items() if s != "fresh"} == {
        "train/broken", "export/broken", "generate/broken@2", "score/broken@2", "evaluate", "report",
    }  # fmt: skip
    # What was made is all that the run without the broken branch needs, up to its table.
    code, said = proseco("run", str(run), *chosen)
    assert code == 0
    assert "2 stages made" in said
    assert results(run, chosen) == expected


def test_what_fits_beside_what_runs():
    runtime = RuntimeConfig(workers=1, replicas=2)
    two, three, four = Resources(2), Resources(3), Resources(4)
    assert fits("training", [], RuntimeConfig(workers=9), two), "alone, everything may start"
    assert fits("training", ["training"], runtime, two)
    assert not fits("training", ["training", "training"], runtime, two)
    assert not fits("replicas", ["training"], runtime, two)
    assert fits("replicas", ["training"], runtime, three)
    assert fits("replicas", ["replicas", "replicas"], runtime, two), "they share the replicas"
    assert not fits("training", ["replicas", "replicas"], runtime, two)
    assert fits("training", ["replicas", "training", "replicas"], runtime, four)
    assert fits("driver", ["training", "replicas"], runtime, two)
    assert not fits("driver", ["driver"], runtime, four)
    on_gpu = RuntimeConfig(workers=1, replicas=1, gpus=1)
    assert not fits("training", ["training"], on_gpu, Resources(8, 1))
    assert fits("training", ["training"], on_gpu, Resources(8, 2))

"""What a person sees while work goes on: in the terminal that does it, and in another one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from click.testing import CliRunner
from rich.console import Console

from components.store.artifact import IDENTITY, MANIFEST
from components.tracking import JOURNAL
from components.training import speed
from components.training.config import TrainConfig
from components.training.speed import Speed
from pipelines.cli import main
from pipelines.config.load import load_run
from pipelines.follow import follow
from pipelines.graph import progress
from pipelines.graph.progress import Screen
from pipelines.graph.short import duration, in_short
from pipelines.workflows import build

DEMO = Path(__file__).parents[2] / "configs/runs/demo.yaml"


def test_a_journal_in_a_few_words():
    training = [
        {"step": 25, "loss/mdm": 1.0, "loss/correct": 0.5, "fix_rate": 0.231, "break_rate": 0.004, "tokens_per_s": 12345.0, "machine_share": 0.42},
        {"step": 50, "loss/mdm": 0.75},
        {"step": 50, "validation/nll": 1.2},
    ]
    assert in_short(training) == "loss 1.250, bound 1.200, mends 23% of errors, breaks 0.4%, 12.3k tokens/s, 42% of the machine"
    assert in_short([{"step": 3, "rows_per_s": 7.0, "calls": 12.0, "edits": 1.5}]) == "7 rows/s, 12.00 calls a row, 1.50 corrections"
    assert in_short([{"step": 3}]) == ""
    assert [duration(s) for s in (12.4, 200, 3900)] == ["12 s", "3 min 20 s", "1 h 05 min"]


def test_lines_say_how_far_how_long_and_what_is_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = Screen()
    screen.console = Console(file=(written := io.StringIO()), force_terminal=False, width=200)
    with screen.progress("train/x", lambda: None) as bar:
        bar.total(100, "steps")
        bar.to(20)  # resumed there, so the first twenty say nothing of the pace
        for done, at, words in ((30, 10.0, "loss 2.0"), (40, 20.0, "loss 1.5"), (60, 40.0, "")):
            now[0] = at
            bar.note(words)
            bar.to(done)
    assert written.getvalue().splitlines() == [
        "      train/x: 40/100 steps, 1 min 00 s left, loss 1.5",
        "      train/x: 60/100 steps, 40 s left, loss 1.5",
    ]


def test_speed_counts_positions_and_compares_them_with_a_product_of_matrices(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed, "limit", lambda device, precision: 1e6)
    monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
    measured = Speed(TrainConfig(), 50.0, torch.device("cpu"), world_size=2)
    measured.count(3000)
    measured.count(1000)
    now[0] = 2.0
    assert measured.flush() == {"tokens_per_s": 4000.0, "machine_share": 0.1}
    now[0] = 3.0
    assert measured.flush() == {"tokens_per_s": 0.0, "machine_share": 0.0}


def test_the_limit_is_that_of_a_real_product():
    assert 1e8 < speed.limit(torch.device("cpu"), "fp32") < 1e14


def test_a_run_is_followed_from_its_root_alone(tmp_path):
    stages = list(build(load_run(DEMO, [f"runtime.root={tmp_path}"])).values())
    by_label = {s.label: s for s in stages}
    looks = follow(stages, tmp_path, every_s=0.0)
    assert next(looks).lines == [f"0 of {len(stages)} stages are made"]
    training = by_label["train/base"].folder(tmp_path)
    training.mkdir(parents=True)
    (training / IDENTITY).write_text("{}")
    assert next(looks).lines[1:] == ["  train/base: begun"]
    rows = [{"time_s": 10.0, "step": 100, "loss/mdm": 2.0}, {"time_s": 20.0, "step": 200, "loss/mdm": 1.0}]
    (training / JOURNAL).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert next(looks).lines[1:] == ["  train/base: 200/1200 steps, 1 min 40 s left, loss 1.000"]
    samples = by_label["generate/mdlm_best@13"].folder(tmp_path)
    samples.mkdir(parents=True)
    (samples / IDENTITY).write_text("{}")
    (samples / JOURNAL).write_text('{"time_s": 1, "step": 3, "shards": 6, "left_s": 30.0, "rows_per_s": 5}\n')
    assert next(looks).lines[2:] == ["  generate/mdlm_best@13: 3/6 shards, 30 s left, 5 rows/s"]
    for stage in stages:
        (folder := stage.folder(tmp_path)).mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_text("{}")
    assert [look.lines for look in looks] == [[f"{len(stages)} of {len(stages)} stages are made"]]


def test_what_depends_on_the_clock_is_in_no_manifest(tmp_path):
    """A manifest's numbers reach the model card, and two equal trainings must export equal files."""
    run = tmp_path / "run.yaml"
    run.write_text(
        "corpora: {latin: {source: {name: latin_square, size: 3, num_documents: 200}}}\nrows: {length: 9}\nmodel: {dim: 16, depth: 1, heads: 2}\n"
        "train: {base: {steps: 2, batch_rows: 4, log_every: 1}}\n"
        f"runtime: {{root: {tmp_path / 'root'}, executor: local, engine: torch, workers: 1, jobs: 1, tracking_uri: none}}\n"
    )
    assert CliRunner().invoke(main, ["run", str(run), "--quiet"], catch_exceptions=False).exit_code == 0
    training = next((tmp_path / "root/train").iterdir())
    assert "tokens_per_s" in (training / JOURNAL).read_text()
    assert "tokens_per_s" not in (training / MANIFEST).read_text()
    assert "tokens_per_s" not in (next((tmp_path / "root/export").iterdir()) / "README.md").read_text()

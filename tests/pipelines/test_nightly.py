"""A week of nights in a minute, by a clock of the test: what is made, what takes over, what is left, and what is undone."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from components.data.rows import TokenRows
from components.errors import CorruptArtifact, StoreError
from components.store.artifact import read_manifest
from components.store.history import FOLDER, Entry, History, read_history
from components.store.lease import Lease
from components.store.root import mark_root
from components.store.samples import read_shards
from pipelines.cli import main
from pipelines.config.load import load_run
from pipelines.graph.progress import Screen
from pipelines.nights import night, roll_back
from pipelines.workflows import build

RUN = """
workflow: nightly
name: mirror
corpora: {numbers: {source: {name: jsonl, path: %s}, validation_share: 0.1, test_share: 0.2}}
rows: {length: 9, pieces: 2}
model: {preset: nano, dim: 16, depth: 1, heads: 2, num_positions: 9}
train:
  base: {objective: {name: mdlm}, steps: 8, batch_rows: 16, checkpoint_every: 8, validation_rows: 4, optimizer: {lr: 3.0e-3, warmup_steps: 1}, ema_decay: 0.5}
generate: {num_samples: 40, shard_rows: 20, lanes: 20}
samplers:
  plain: {model: base, sampler: {preset: mdlm}, steps: [4]}
scorers: {entropy: {}}
warm: {train: {base: {steps: 12}}}
gate: {sampler: plain, guarded: {entropy: 1.0}}
runtime: {executor: local, engine: torch, workers: 1, jobs: 1, root: %s}
"""


class Week:
    """A nightly run, its corpus, and a clock that stands at noon of the night."""

    def __init__(self, folder: Path):
        self.corpus, self.root, self.run = folder / "corpus", folder / "root", folder / "mirror.yaml"
        self.corpus.mkdir()
        self.run.write_text(RUN % (self.corpus, self.root))
        self.numbers = random.Random(0)

    def grow(self, documents: int = 200) -> None:
        """One file more; a text is a number and its mirror image."""
        texts = (f"{n:04d}" for n in self.numbers.sample(range(10_000), documents))
        lines = "".join(json.dumps({"text": f"{t}-{t[::-1]}"}) + "\n" for t in texts)
        (self.corpus / f"{len(list(self.corpus.iterdir()))}.jsonl").write_text(lines)

    def config(self, date: str, *overrides: str):
        return load_run(self.run, [f"date={date}", *overrides])

    def night(self, date: str, *overrides: str):
        return night(self.config(date, *overrides), Screen(True), lambda: datetime.fromisoformat(f"{date}T12:00:00+00:00"))

    def history(self) -> History:
        return read_history(self.root, "mirror")

    def trainings(self) -> int:
        return len(list(self.root.glob("train/*")))


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    made = Week(tmp_path_factory.mktemp("week"))
    made.grow()
    return made


def test_a_week_of_nights(week):
    monday = week.night("2026-11-16")
    assert (monday.entry.decision, monday.entry.missed, monday.made) == ("first", 0, True)
    first = monday.history.champion

    twice = week.night("2026-11-16")
    assert (twice.made, twice.entry) == (False, monday.entry)
    assert twice.words.startswith("nothing to do")

    tuesday = week.night("2026-11-17")
    assert (tuesday.entry.decision, week.trainings()) == ("unchanged", 1), "nothing was new"

    week.grow()
    friday = week.night("2026-11-20")
    assert (friday.entry.decision, friday.entry.missed) == ("promoted", 2)
    second = friday.history.champion
    assert (friday.history.previous, friday.entry.before) == (first, first)
    assert second != first
    assert "held_out" in friday.entry.reason
    late = week.night("2026-11-18")
    assert (late.made, late.entry.date) == (False, "2026-11-20"), "a missed night is made up for by a later one"
    assert "covered by" in late.words

    week.grow()
    ruined = ["warm.train.base.optimizer.lr=30"]
    saturday = week.night("2026-11-21", *ruined)
    assert saturday.entry.decision == "kept", saturday.entry
    assert saturday.history.champion == second
    assert "does not hold" in saturday.entry.reason

    sunday = week.night("2026-11-22")
    assert sunday.entry.decision == "promoted"
    third = sunday.history.champion
    assert sunday.entry.before == second, "the bad candidate was never started from"

    back = roll_back(week.config("2026-11-22"), "wrong digits were seen", Screen(True), lambda: datetime(2026, 11, 22, 18, tzinfo=UTC))
    assert (back.history.champion, back.history.previous) == (second, first)
    trainings = week.trainings()
    monday = week.night("2026-11-23")
    assert (monday.entry.decision, week.trainings()) == ("unchanged", trainings), "what was left is not made again"
    assert monday.history.champion == second

    week.grow()
    tuesday = week.night("2026-11-24")
    assert tuesday.entry.before == second
    assert tuesday.entry.decision == "promoted"
    assert tuesday.history.champion not in (first, second, third)

    decisions = [e.decision for e in week.history().entries]
    assert decisions == ["first", "unchanged", "promoted", "kept", "promoted", "rolled back", "unchanged", "promoted"]
    assert [e.at for e in week.history().nights] == [f"{e.date}T12:00:00+00:00" for e in week.history().nights]


def test_mlflow_knows_candidate_champion_and_previous_with_where_they_came_from(week):
    import mlflow

    history = week.history()
    client = mlflow.MlflowClient(f"sqlite:///{week.root / 'mlflow.db'}")
    versions = client.search_model_versions("name = 'mirror'")
    assert len(versions) == 5  # five candidates, one of them bad
    aliases = {alias: client.get_model_version_by_alias("mirror", alias).tags for alias in ("candidate", "champion", "previous")}
    assert aliases["champion"]["key"] == history.champion
    assert aliases["previous"]["key"] == history.previous
    assert aliases["candidate"]["key"] == history.candidate
    assert aliases["champion"]["started_from"] == history.previous
    assert Path(aliases["champion"]["folder"]) == week.root / "export" / history.champion


def test_the_registry_is_made_again_where_it_was_lost(week):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{week.root / 'mlflow.db'}")
    client.delete_registered_model("mirror")
    last = week.history().nights[-1].date
    assert not week.night(last).made
    assert client.get_model_version_by_alias("mirror", "champion").tags["key"] == week.history().champion


def test_a_page_a_night_says_what_was_decided_and_why(week):
    page = (week.root / FOLDER / "mirror" / "2026-11-21.html").read_text()
    assert "does not hold" in page
    assert week.history().night("2026-11-21").candidate in page
    assert "2026-11-24" not in page.partition("<h2>Nights")[2], "a page is of its night"
    assert (week.root / FOLDER / "mirror" / "rollback-2026-11-22.html").exists()


def test_a_night_goes_on_from_the_weights_and_words_of_the_champion(week):
    """The tokenizer is no stage of such a night, and rows are made anew only where texts or vocabulary changed."""
    history = week.history()
    stages = build(week.config("2026-11-30"))
    assert "tokenizer" not in stages
    start = stages["train/base"].inputs["init"]
    assert (start.key, start.place) == (history.champion, history.export(history.champion))
    assert stages["train/base"].config.train.steps == 12
    assert stages["tokenize/numbers"].key in {p.name for p in (week.root / "tokenize").iterdir()}
    cold = build(week.config("2026-11-30", "warm_start=false"))
    assert "init" not in cold["train/base"].inputs
    assert cold["train/base"].config.train.steps == 8
    assert "gate" in cold, "it is held against the champion all the same"


def test_both_are_measured_on_rows_that_nobody_trained_on(week):
    stages = build(week.config("2026-11-30"))
    gate = stages["gate"]
    assert {role: stage.inputs["model"].key for role, stage in gate.inputs.items()} == {
        "samples_champion": week.history().champion,
        "samples_candidate": stages["export/base"].key,
        "held_out_champion": week.history().champion,
        "held_out_candidate": stages["export/base"].key,
    }
    assert gate.inputs["held_out_champion"].inputs["samples"].key == gate.inputs["held_out_candidate"].inputs["samples"].key
    held, tokenized = (week.root / name / stages[label].key for name, label in (("held_out", "held_out"), ("tokenize", "tokenize/numbers")))
    drawn = read_shards(held / "shards", read_manifest(held).info["shards"])["tokens"].to_pylist()
    first = {split: TokenRows(tokenized, split).take(np.arange(len(drawn))).tokens.tolist() for split in ("test", "train")}
    assert drawn == first["test"] != first["train"]
    other = build(week.config("2026-11-30", "gate.held_out_split=validation"))
    assert other["held_out"].config.split == "validation"


def test_while_a_night_is_at_work_another_is_left_to_it_or_waits(week):
    date = "2026-11-25"
    lease = Lease(week.root, "nightly-mirror", "proseco nightly mirror, the night of 2026-11-24").wait(0)
    entries = len(week.history().entries)
    left = week.night(date)
    assert (left.entry, left.made) == (None, False)
    assert "the night of 2026-11-24" in left.words
    assert len(week.history().entries) == entries
    threading.Timer(1.0, lease.release).start()
    waited = week.night(date, "overlap=wait")
    assert (waited.entry.decision, waited.made) == ("unchanged", True)


def test_a_step_back_during_a_night_has_it_decide_nothing(week, monkeypatch):
    from pipelines import nights

    week.grow()
    made = nights.execute

    def slow(*arguments):
        found = made(*arguments)
        roll_back(week.config("2026-11-26"), "seen in the morning", Screen(True))
        return found

    monkeypatch.setattr(nights, "execute", slow)
    with pytest.raises(StoreError, match="nothing was decided"):
        week.night("2026-11-26")
    assert week.history().entries[-1].decision == "rolled back"
    champion = week.history().champion
    monkeypatch.undo()
    again = week.night("2026-11-26")
    assert (again.made, again.entry.before) == (True, champion)


def test_the_gate_is_as_strict_as_it_is_told_to_be(week):
    """On so many rows, and by intervals of that confidence."""
    overrides = ["gate.held_out_rows=35", "gate.confidence=0.8"]
    entry = week.night("2026-11-27", *overrides).entry
    assert build(week.config("2026-11-28", *overrides))["gate"].config.confidence == 0.8
    found = json.loads((week.root / "gate" / entry.verdict / "verdict.json").read_text())["measured"]
    assert {m["metric"]: m["pairs"] for m in found} == {"entropy": 40, "held_out": 35}


def test_champions_are_kept_when_what_no_run_needs_is_removed(week, tmp_path):
    history = week.history()
    result = CliRunner().invoke(main, ["gc", "--root", str(week.root), "--keep", f"{week.run} date=2026-11-30", "--delete"])
    assert result.exit_code == 0, result.output
    assert "deleted" in result.output
    kept = {p.name for p in (week.root / "export").iterdir()}
    assert set(history.champions) <= kept
    assert not history.left & kept


def test_nobody_goes_back_to_what_is_not_there(tmp_path):
    alone = Week(tmp_path)
    alone.grow(20)
    with pytest.raises(StoreError, match="none to go back to"):
        roll_back(alone.config("2026-11-16"), "a reason", Screen(True))


def entry(decision: str, candidate: str = "", date: str = "2026-11-16") -> Entry:
    return Entry(date, decision, candidate)


def test_what_the_entries_come_to():
    steps = [entry("first", "a"), entry("promoted", "b"), entry("kept", "c"), entry("promoted", "d"), entry("unchanged")]
    history = History(Path("/nowhere"), tuple(steps))
    assert (history.champion, history.previous, history.candidate) == ("d", "b", "d")
    back = dataclasses.replace(history, entries=(*steps, entry("rolled back", "d")))
    assert (back.champion, back.previous, back.candidate, back.left) == ("b", "a", "d", {"d"})
    twice = dataclasses.replace(back, entries=(*back.entries, entry("rolled back", "b")))
    assert (twice.champion, twice.previous) == ("a", "")
    assert History(Path("/nowhere")).champion == ""


def test_an_entry_is_written_once_and_what_is_damaged_or_gone_is_told(tmp_path):
    mark_root(tmp_path)
    history = read_history(tmp_path, "n")
    one = history.add(entry("first", "a"))
    with pytest.raises(StoreError, match="nothing was decided"):
        history.add(entry("first", "b"))
    one.add(entry("promoted", "b", "2026-11-17"))
    assert read_history(tmp_path, "n").champion == "b"
    (tmp_path / FOLDER / "n" / "00000002.json").write_text("{")
    with pytest.raises(CorruptArtifact, match="is not known"):
        read_history(tmp_path, "n")
    (tmp_path / FOLDER / "n" / "00000001.json").unlink()
    with pytest.raises(CorruptArtifact, match="number 1 is missing"):
        read_history(tmp_path, "n")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gate.sampler=other", "gate.sampler"),
        ("gate.better=other", "gate.better"),
        ("gate.guarded.other=0.1", "gate.guarded"),
        ("gate.guarded.held_out=0.1", "has to be better anyhow"),
        ("gate.held_out_split=validation corpora.numbers.validation_share=0", "validation_share"),
        ("generate.num_samples=29", "no interval means anything"),
        ("warm.train.base.steps=0", "warm.train.base.steps"),
        ("date=yesterday", "a day as YYYY-MM-DD"),
    ],
)
def test_what_is_wrong_with_a_nightly_run_is_said_before_anything_is_made(tmp_path, override, said):
    alone = Week(tmp_path)
    alone.grow(20)
    result = CliRunner().invoke(main, ["plan", str(alone.run), "date=2026-11-16", *override.split()])
    assert result.exit_code == 1
    assert said in result.output
    assert not alone.root.exists()


def test_a_run_of_another_kind_has_no_nights(tmp_path):
    result = CliRunner().invoke(main, ["nightly", "configs/runs/demo.yaml", f"runtime.root={tmp_path}"])
    assert result.exit_code == 1
    assert "workflow: nightly" in result.output

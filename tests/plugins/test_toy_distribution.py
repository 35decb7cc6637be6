"""Plug-ins of another distribution: found by their entry point, run by name, held to the contracts of their families."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.data.corpora import CORPORA
from components.errors import ConfigError
from components.objectives import OBJECTIVES
from components.options import options
from components.plugins import Card, Family, foreign_cards
from components.samplers import PARTS, preset, read_sampler
from components.scorers import SCORERS
from tests import contracts

TOY = Path(__file__).parents[1] / "toy"
RUN = """
corpora: {toy: {source: {name: toy_palindromes, length: 6}}}
rows: {length: 6, layout: document}
tokenizer: {kind: characters}
model: {dim: 16, depth: 1, heads: 2, num_positions: 6}
train:
  toy: {objective: {name: toy_even, share: 0.4}, steps: 4, batch_rows: 8, checkpoint_every: 2, optimizer: {warmup_steps: 1}}
generate: {num_samples: 8, shard_rows: 8, lanes: 8}
samplers:
  corrected:
    model: toy
    sampler: {preset: confidence, steps: 0, schedule: {per_call: 2}, corrector: {name: toy_restless, share: 0.5}}
  searched: {model: toy, sampler: {preset: mdlm, steps: 4, search: {name: toy_top_heavy, particles: 3}}}
scorers: {validity: {}, toy_unigram: {added: 2}}
metric: toy_unigram
runtime: {executor: local, engine: torch, workers: 1, tracking_uri: none}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The toy distribution, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(TOY, tmp_path_factory.mktemp("source") / "toy")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True)
    return folder


@pytest.fixture
def toys(installed, monkeypatch):
    """The same, in this process."""
    monkeypatch.syspath_prepend(str(installed))
    foreign_cards.cache_clear()
    yield
    foreign_cards.cache_clear()


def proseco(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), root])}
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_run_names_plug_ins_of_another_distribution(installed, tmp_path):
    run = tmp_path / "toy.yaml"
    run.write_text(RUN)
    made = proseco(installed, "run", str(run), f"runtime.root={tmp_path / 'root'}")
    assert made.returncode == 0, made.stderr
    shown = json.loads(proseco(installed, "show", str(run), f"runtime.root={tmp_path / 'root'}", "--json").stdout)
    rows = {r["sampler"]: r for r in shown["results"]}
    assert rows.keys() == {"corrected", "searched"}
    assert rows["corrected"]["edits"] > 0, "the toy corrector hid nothing"
    assert rows["searched"]["calls"] > 4, "three chains cost more than one"
    assert all(r["metric"] == "toy_unigram" and not r["larger_is_better"] for r in rows.values())
    assert {"tokenize/toy", "fit/toy_unigram", "train/toy"} <= {s["stage"] for s in shown["stages"]}
    listed = json.loads(proseco(installed, "list", "--json").stdout)
    assert "toy_restless" in listed["parts"]["corrector"]
    assert listed["objectives"]["toy_even"]["options"]["share"]["default"] == "0.5"


def test_without_the_distribution_its_names_are_unknown(tmp_path):
    run = tmp_path / "toy.yaml"
    run.write_text(RUN)
    failed = proseco(tmp_path, "plan", str(run))
    assert failed.returncode == 1
    for name in ("toy_palindromes", "toy_even", "toy_restless", "toy_top_heavy", "toy_unigram"):
        assert name in failed.stderr


def test_their_options_are_checked_like_ours(toys):
    with pytest.raises(ConfigError, match="did you mean share"):
        preset("confidence", steps=0, schedule={"per_call": 2}, corrector={"name": "toy_restless", "shrae": 0.1})
    with pytest.raises(ConfigError, match="must be written again"):
        preset("confidence", corrector="toy_restless")


def test_a_toy_objective_keeps_the_contract(toys):
    config = OBJECTIVES["toy_even"]()
    contracts.objective_counts_its_terms_and_has_finite_gradients(config)
    contracts.objective_is_a_sum_over_rows(config)
    contracts.objective_leaves_prompts_and_pads_alone(config)


def test_toy_parts_of_samplers_keep_the_contract(toys):
    assert "toy_restless" in PARTS["corrector"]
    corrected = {"preset": "confidence", "steps": 0, "schedule": {"per_call": 1}, "corrector": "toy_restless"}
    for plain in (corrected, {"preset": "mdlm", "steps": 4, "search": {"name": "toy_top_heavy", "particles": 3}}):
        contracts.sampler_keeps_the_contract(read_sampler(plain))


def test_a_toy_scorer_keeps_the_contract(toys, tmp_path):
    contracts.scorer_gives_one_number_a_row_whatever_the_company(SCORERS["toy_unigram"](), tmp_path)


def test_a_toy_corpus_keeps_the_contract(toys):
    contracts.corpus_reads_the_same_documents_from_any_pieces(CORPORA["toy_palindromes"]())


def test_two_plug_ins_of_one_name_are_refused(monkeypatch):
    @options
    class Shape(Card):
        """What both are."""

    @options
    class Mine(Shape):
        """Ours."""

        name = "same"

    @options
    class Theirs(Shape):
        """Somebody's."""

        name = "same"

    monkeypatch.setattr("components.plugins.foreign_cards", lambda: (Theirs,))
    with pytest.raises(ConfigError, match="another shape of that name"):
        Family("shape", Shape, Mine).find("same")

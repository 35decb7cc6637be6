"""Classes and values: from a field of the corpus to samples that were asked for by them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from components.errors import ConfigError
from components.evaluation.frontier import interval
from components.shards.prompt import NoPrompts
from components.store.samples import read_shard
from pipelines.cli import main
from pipelines.config.load import load_run

RUN = """
corpora: {{shares: {{source: {{name: csv, path: {path}, value_field: share}}, validation_share: 0.1}}}}
rows: {{length: 8}}
model: {{dim: 32, depth: 2, heads: 2, value_range: [0.0, 1.0]}}
train:
  base: {{objective: mdlm, steps: 250, batch_rows: 64, label_dropout: 0.1, ema_decay: 0.9, checkpoint_every: 250, log_every: 250,
    optimizer: {{lr: 0.004, warmup_steps: 20}}}}
generate: {{num_samples: 150, shard_rows: 150, lanes: 64, num_traced: 0, labels: [0.15, 0.5, 0.85]}}
samplers:
  guided: {{model: base, sampler: {{preset: mdlm, guidance: {{gamma: 1.0, without: label}}}}, steps: [8]}}
  unguided: {{model: base, sampler: mdlm, steps: [8]}}
scorers: {{entropy: {{}}}}
runtime: {{root: {root}, executor: local, engine: torch, workers: 1, jobs: 1, tracking_uri: none}}
"""


def proseco(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Rows of eight letters, each an a with a probability that is the row's value."""
    folder = tmp_path_factory.mktemp("labels")
    rng = random.Random(0)
    rows = [(share, "".join("a" if rng.random() < share else "b" for _ in range(8))) for share in (rng.random() for _ in range(4000))]
    (folder / "shares.csv").write_text("share,text\n" + "".join(f"{share:.4f},{text}\n" for share, text in rows))
    run = folder / "run.yaml"
    run.write_text(RUN.format(path=folder / "shares.csv", root=folder / "root"))
    proseco("run", str(run), "--quiet")
    return folder


def shares_of(folder: Path, sampler: str) -> dict[float, np.ndarray]:
    """Shares of a in samples, by the value that they were asked for."""
    shown = json.loads(proseco("show", str(folder / "run.yaml"), "--json"))
    place = next(Path(s["folder"]) for s in shown["stages"] if s["stage"].startswith(f"generate/{sampler}"))
    table = read_shard(next((place / "shards").glob("*.parquet")), ["text", "label"])
    found: dict[float, list[float]] = {}
    for text, label in zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True):
        found.setdefault(label, []).append(text.count("a") / 8)
    return {label: np.array(v) for label, v in found.items()}


def test_a_value_moves_the_property_and_guidance_moves_it_further(trained):
    """Monotone over three values, intervals apart; guidance by 1 is between the value and certainty."""
    plain, guided = shares_of(trained, "unguided"), shares_of(trained, "guided")
    assert list(plain) == list(guided) == [0.15, 0.5, 0.85], "in turn"
    assert all(len(v) == 50 for v in plain.values())
    for shares in (plain, guided):
        ends = [interval(v) for v in shares.values()]
        assert ends[0][1] < ends[1][0]
        assert ends[1][1] < ends[2][0]
    assert guided[0.15].mean() < plain[0.15].mean()
    assert guided[0.85].mean() > plain[0.85].mean()


def test_prompts_ask_for_values(trained, tmp_path):
    export = next((trained / "root" / "export").iterdir())
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a", "label": 0.9}\n{"prompt": "a", "label": -3}\n{"prompt": "a"}\n{"prompt": "a", "label": "high"}\n')
    said = proseco(
        "generate", str(export), "--prompts", str(prompts), "--root", str(tmp_path / "root"), "--num-samples", "1", "steps=4", "runtime.executor=local",
    )  # fmt: skip
    assert "3 samples" in said, "values outside the range are seen, too; what is no number is quarantined"
    table = read_shard(next((tmp_path / "root").glob("generate/*/shards/*.parquet")), ["label", "row_id"])
    assert table["label"].to_pylist() == [0.9, -3.0, None]
    assert len(set(table["row_id"].to_pylist())) == 3


def test_classes_that_are_not_known_are_refused_before_a_training(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("text,kind\n" + "".join(f"{'ab'[i % 2] * 4},{i % 4}\n" for i in range(200)))
    run = tmp_path / "run.yaml"
    run.write_text(
        RUN.format(path=path, root=tmp_path / "root").replace("value_field: share", "label_field: kind")
        .replace("value_range: [0.0, 1.0]", "num_classes: 3").replace("[0.15, 0.5, 0.85]", "[0, 2]")
    )  # fmt: skip
    said = proseco("run", str(run), "--quiet", code=1)
    assert "rows of class 3, and model.num_classes = 3 counts from 0. Set it to 4 at least" in said


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["model.value_range=[]", "model.num_classes=3", "generate.labels=[]"], "model.num_classes"),
        (["model.value_range=[]", "generate.labels=[0.5]"], "generate.labels"),
        (["model.value_range=[1, 0]"], "model.value_range"),
        (["model.num_classes=2"], "model.value_range"),
        (["corpora.shares.source.value_field=''"], "model.value_range"),
        (["corpora.shares.source.label_field=x"], "corpora.shares.source.value_field"),
    ],
)
def test_rules_between_fields_networks_and_labels(trained, overrides, path):
    with pytest.raises(ConfigError) as found:
        load_run(trained / "run.yaml", overrides)
    assert path in {p.path for p in found.value.problems}


def test_labels_come_in_turn():
    prompts = NoPrompts((1.0, 2.0, 3.0)).take(4, 8)
    assert [(p.index, p.label) for p in prompts] == [(4, 2.0), (5, 3.0), (6, 1.0), (7, 2.0)]
    assert [p.label for p in NoPrompts().take(0, 2)] == [None, None]

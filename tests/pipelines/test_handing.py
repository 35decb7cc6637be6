"""Exports by names that people can read, and as folders to hand on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.api import load, sample
from components.store.artifact import read_manifest
from pipelines.cli import main

RUN = """
corpora: {latin: {source: {name: latin_square, size: 3, num_documents: 300}}}
rows: {length: 9}
model: {dim: 16, depth: 1, heads: 2}
train:
  base: {steps: 3, batch_rows: 4}
  proseco: {init_from: base, objective: proseco, steps: 3, batch_rows: 4}
generate: {num_samples: 8, shard_rows: 8, lanes: 8}
samplers:
  plain: {model: base, sampler: mdlm, steps: [4]}
  corrected: {model: proseco, sampler: proseco, steps: [2]}
scorers: {validity: {}}
"""


def proseco(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("handing")
    (folder / "tiny.yaml").write_text(RUN)
    options = ["executor=local", "engine=torch", "workers=1", "jobs=1", f"root={folder / 'root'}"]
    said = proseco("run", folder / "tiny.yaml", *(f"runtime.{o}" for o in options))
    assert f"models: {folder / 'root/latest/tiny'}" in said
    return folder / "root"


def test_mlflow_tells_at_the_workflow_what_it_came_to(root):
    """The best sampler, its interval, calls and model with the digest of its data, from the parent run by MLflow's client."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("proseco").experiment_id
    (parent,) = (r for r in client.search_runs([experiment]) if "mlflow.parentRunId" not in r.data.tags)
    best = {k: v for k, v in parent.data.metrics.items() if k.startswith("best/")}
    models = [client.get_logged_model(output.model_id) for output in parent.outputs.model_outputs]
    model = next(m for m in models if m.name == parent.data.tags["best.model"])

    results = json.loads(next(root.glob("evaluate/*/results.json")).read_text())
    expected = max(results, key=lambda r: r["quality"])
    assert best["best/valid"] == expected["quality"] == parent.data.metrics[f"{expected['sampler']}/{expected['steps']} steps/valid"]
    assert best["best/valid low"] == expected["quality_low"] < best["best/valid high"] == expected["quality_high"]
    assert (best["best/calls"], best["best/unique"]) == (expected["calls"], expected["unique"])
    assert (parent.data.tags["best.sampler"], parent.data.tags["best.model"]) == (expected["sampler"], expected["model"])
    assert expected["sampler"] in parent.data.tags["headline"]
    (digest,) = (value for tag, value in model.tags.items() if tag.startswith("data."))
    assert digest == read_manifest(next(root.glob("tokenize/*"))).result
    assert (Path(model.tags["folder"]) / "model.safetensors").exists()
    (version,) = client.search_model_versions("name = 'tiny'")
    assert (version.tags["key"], version.tags["best.sampler"]) == (model.tags["key"], expected["sampler"])
    assert {m.tags["key"] for m in models} == {p.name for p in root.glob("export/*")}
    assert any(a.path == "report.html" for a in client.list_artifacts(parent.info.run_id))


def test_links_lead_to_what_a_run_made_last(root):
    links = root / "latest" / "tiny"
    assert sorted(os.listdir(links)) == ["base", "proseco", "report.html"]
    for name in ("base", "proseco"):
        assert read_manifest((links / name).resolve()).label == f"export/{name}"
        assert not os.path.isabs(os.readlink(links / name)), "a root can be moved"
    assert sample(load(links / "proseco"), "proseco", 1, steps=2)


def test_a_folder_to_hand_on_has_a_full_card_and_needs_no_root(root, tmp_path):
    to = tmp_path / "mine"
    proseco("export", root / "latest/tiny/proseco", "--to", to, "--licence", "apache-2.0")
    text = (to / "README.md").read_text()
    results = json.loads(next(f for f in root.glob("evaluate/*/results.json")).read_text())
    row = next(r for r in results if r["sampler"] == "corrected")
    rows = read_manifest(next(root.glob("tokenize/*")))
    assert "license: apache-2.0" in text
    assert f"- **latin**: 300 documents, 2,700 tokens; source latin_square, size 3, num_documents 300; rows {rows.result}" in text
    assert "Trained with **proseco** for 3 steps of 4 rows" in text
    assert f"| corrected | 2 | {row['calls']:.2f} | {row['quality']:.3f} | {row['quality_low']:.3f} to {row['quality_high']:.3f} |" in text
    assert f"| corrected | 2 | {row['edits']:.2f} | {row['edited']:.1%} |" in text
    assert "plain" not in text, "samplers of other models are not about it"
    assert 'sampler="proseco", steps=2' in text
    assert not (to / "manifest.json").exists()
    assert sample(load(to), "proseco", 1, steps=2)
    assert "is there already" in proseco("export", root / "latest/tiny/proseco", "--to", to, code=1)
    bare = tmp_path / "bare"
    proseco("export", root / "latest/tiny/base", "--to", bare)
    assert "license: unknown" in (bare / "README.md").read_text()
    assert "never trained at visible positions" in (bare / "README.md").read_text()


def test_the_tokenizer_loads_without_a_question(root, tmp_path):
    """As the card says, in a process that could answer none."""
    to = tmp_path / "mine"
    proseco("export", root / "latest/tiny/proseco", "--to", to)
    code = "from transformers import AutoTokenizer as T; t = T.from_pretrained('.', trust_remote_code=False); print(t('123')['input_ids'], t.mask_token)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=to, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.strip() == "[4, 5, 6] [MASK]", done.stderr
    assert "y/N" not in done.stdout + done.stderr


def test_what_is_no_export_is_refused(root, tmp_path):
    assert "is no export of a run" in proseco("export", next(root.glob("train/*")), "--to", tmp_path / "x", code=1)
    assert "is no export of a run" in proseco("export", tmp_path, "--to", tmp_path / "x", code=1)
    assert not (tmp_path / "x").exists()


def test_links_follow_the_next_run(root):
    links = root / "latest" / "tiny"
    before = os.readlink(links / "base")
    options = ["executor=local", "engine=torch", "workers=1", "jobs=1", "tracking_uri=none", f"root={root}"]
    proseco("run", root.parent / "tiny.yaml", "train.base.seed=1", *(f"runtime.{o}" for o in options))
    assert os.readlink(links / "base") != before
    links.joinpath("base").unlink()
    (links / "base").mkdir()
    (links / "base" / "mine.txt").write_text("kept")
    proseco("run", root.parent / "tiny.yaml", "train.base.seed=2", *(f"runtime.{o}" for o in options))
    assert (links / "base" / "mine.txt").read_text() == "kept", "what is no link is not ours"

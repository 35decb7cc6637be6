"""Trainings with heads, policies and other starts, through the whole chain and the commands, in this process."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.store.artifact import read_manifest
from pipelines.cli import main

COMMON = """
rows: {length: 16, layout: document}
tokenizer: {kind: characters}
model: {dim: 16, depth: 1, heads: 2, num_positions: 16}
runtime: {executor: local, engine: torch, workers: 1, tracking_uri: none}
"""
TINY = "steps: 4, batch_rows: 8, checkpoint_every: 2, validation_rows: 8, optimizer: {lr: 1.0e-2, warmup_steps: 1}"
COMPARISON = (
    COMMON
    + f"""
workflow: compare
seeds: [0, 1]
one_seed: [dsl]
train:
  base: {{objective: {{name: mdlm}}, {TINY}}}
  prism: {{init_from: base, objective: {{name: prism}}, {TINY}}}
  dsc: {{init_from: base, objective: {{name: dsc, step: 0.2, head_layers: 1}}, {TINY}}}
  dsl: {{init_from: base, objective: {{name: dsl, noise_dim: 8}}, {TINY}}}
  policy: {{init_from: base, objective: {{name: policy_grpo, rollouts: 2}}, {TINY}}}
generate: {{num_samples: 8, shard_rows: 8, lanes: 8, num_traced: 0}}
samplers:
  prism: {{model: prism, sampler: prism, steps: [4]}}
  dsc: {{model: dsc, sampler: dsc}}
  dsl: {{model: dsl, sampler: dsl_sde, steps: [3]}}
  policy: {{model: policy, sampler: learned_policy}}
  steered: {{model: base, sampler: {{preset: fk_steering, steps: 6, search: {{reward: validity, every: 2}}}}}}
scorers: {{validity: {{}}}}
tasks:
  coding: {{corpora: {{coding: {{source: {{name: coding, num_documents: 200}}}}}}}}
  sudoku: {{corpora: {{sudoku: {{source: {{name: sudoku, size: 4, num_documents: 200}}}}}}}}
"""
)


def proseco(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(run file, root)."""
    folder = tmp_path_factory.mktemp("compared")
    run = folder / "compare.yaml"
    run.write_text(COMPARISON)
    proseco("run", str(run), f"runtime.root={folder / 'root'}", "--quiet")
    return run, folder / "root"


def export_of(root: Path, trained_with: str) -> Path:
    return next(
        p.parent
        for p in sorted(root.glob("export/*/config.json"))
        if json.loads(p.read_text())["trained_with"] == trained_with
    )


def test_one_table_over_tasks_and_seeds_that_is_made_once(compared):
    run, root = compared
    assert "nothing to do" in proseco("run", str(run), f"runtime.root={root}", "--quiet")
    rows = json.loads(proseco("show", str(run), f"runtime.root={root}", "--json"))["results"]
    assert {(r["task"], r["sampler"]) for r in rows} == {
        (t, s) for t in ("coding", "sudoku") for s in ("prism", "dsc", "dsl", "policy", "steered")
    }
    seeds = {r["sampler"]: r["num_seeds"] for r in rows}
    assert seeds == {"prism": 2, "dsc": 2, "dsl": 1, "policy": 2, "steered": 2}
    assert all(r["reward_calls"] > 0 for r in rows if r["sampler"] == "steered")
    page = next(root.glob("compare/*/report.html")).read_text()
    assert "coding" in page
    assert "sudoku" in page
    assert (next(root.glob("compare/*")) / "table.md").read_text().count("\n") == 2 + len(rows)


def test_exports_say_what_they_bring(compared):
    _, root = compared
    assert json.loads((export_of(root, "prism") / "config.json").read_text())["quality_layers"] == 0
    assert json.loads((export_of(root, "policy_grpo") / "config.json").read_text())["policy"] is True
    dsl = json.loads((export_of(root, "dsl") / "config.json").read_text())
    assert dsl["encoder"] == "dsl"
    assert "auto_map" not in dsl


def test_an_export_with_a_head_loads_without_this_project(compared):
    """The standing-alone code leaves heads out and gives the same logits."""
    import torch
    from transformers import AutoModelForMaskedLM

    from components.models.weights import load_model

    _, root = compared
    for trained_with in ("prism", "policy_grpo"):
        folder = export_of(root, trained_with)
        alone = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
        tokens = torch.randint(0, 8, (2, 16))
        with torch.inference_mode():
            assert torch.allclose(alone(tokens).logits, load_model(folder)(tokens).logits, atol=1e-5)


def test_trained_heads_serve_by_command_and_missing_ones_are_named(compared, tmp_path):
    _, root = compared
    options = ["--num-samples", "4", "--show", "0", "runtime.executor=local", "runtime.tracking_uri=none"]
    proseco("generate", str(export_of(root, "dsc")), "--sampler", "dsc", "--root", str(tmp_path / "a"), *options)
    proseco(
        "generate",
        str(export_of(root, "policy_grpo")),
        "--sampler",
        "learned_policy",
        "--root",
        str(tmp_path / "b"),
        *options,
    )
    proseco(
        "generate",
        str(export_of(root, "dsl")),
        "--sampler",
        "dsl_sde",
        "--root",
        str(tmp_path / "c"),
        *options,
        "steps=3",
    )
    result = CliRunner().invoke(
        main, ["generate", str(export_of(root, "mdlm")), "--sampler", "prism", "--root", str(tmp_path / "d"), *options]
    )
    assert result.exit_code == 1
    assert "quality head" in result.output


def test_a_model_is_diagnosed_by_command(compared):
    _, root = compared
    words = read_manifest(export_of(root, "prism")).inputs["tokenizer"]
    rows = next(p for p in root.glob("tokenize/*") if read_manifest(p).inputs["tokenizer"] == words)
    lines = json.loads(
        proseco(
            "diagnose",
            str(export_of(root, "prism")),
            str(rows),
            "--num-rows",
            "6",
            "--correctors",
            "prism,mask_predict",
            "--json",
        )
    )
    assert len(lines) == 2 * 3
    assert 0 <= lines[0]["auroc_quality"] <= 1
    assert {"edit_precision", "edit_recall", "flip_flop_rate"} <= set(lines[1])


def test_a_folder_is_fine_tuned_on_prompts_with_labels_and_guided(compared, tmp_path):
    """Supervised fine-tuning from an export: prompts clean and out of the loss, padding in it, labels hidden at times."""
    rng = random.Random(0)
    lines = [{"prompt": "12", "text": "".join(rng.choice("1234") for _ in range(9)), "kind": i % 2} for i in range(120)]
    corpus = tmp_path / "sft.jsonl"
    corpus.write_text("\n".join(json.dumps(x) for x in lines))
    _, root = compared
    start = next(
        p for p in (export_of(root, "mdlm").parent).iterdir()
        if json.loads((p / "config.json").read_text())["trained_with"] == "mdlm"
    )  # fmt: skip
    tokenizer = start / "tokenizer.json"
    run = tmp_path / "sft.yaml"
    run.write_text(
        COMMON.replace("tokenizer: {kind: characters}", f"tokenizer: {{kind: file, path: {tokenizer}}}")
        + f"""
corpora: {{sft: {{source: {{name: jsonl, path: {corpus}, prompt_field: prompt, label_field: kind}}}}}}
train:
  sft: {{init_folder: {start}, objective: {{name: proseco}}, {TINY}}}
  classes: {{objective: {{name: mdlm}}, label_dropout: 0.2, {TINY}}}
generate: {{num_samples: 4, shard_rows: 4, lanes: 4, num_traced: 0}}
samplers:
  sft: {{model: sft, sampler: proseco_confidence, steps: [3]}}
scorers: {{entropy: {{}}}}
"""
    )
    proseco("run", str(run), f"runtime.root={tmp_path / 'root'}", "--quiet")
    state = json.loads(proseco("plan", str(run), f"runtime.root={tmp_path / 'root'}", "--json"))
    assert {s["state"] for s in state} == {"fresh"}
    labelled = tmp_path / "labelled"
    proseco("run", str(run), f"runtime.root={labelled}", "model.num_classes=2", "train.sft.init_folder=''", "--quiet")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "12", "label": 1}\n{"template": ["1", 3, "2"], "label": 0}\n')
    export = next(
        p for p in labelled.glob("export/*") if json.loads((p / "config.json").read_text())["trained_with"] == "mdlm"
    )
    said = proseco(
        "generate", str(export), "--sampler", "cfg", "--root", str(tmp_path / "guided"), "runtime.executor=local", "--prompts",
        str(prompts), "--num-samples", "2", "guidance.without=label", "guidance.gamma=1.5", "steps=4",
    )  # fmt: skip
    assert "4 samples" in said

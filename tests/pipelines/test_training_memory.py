"""What a training takes of memory: the formulas by hand, against a process that trains, and what cannot fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from components.diffusion import noise
from components.diffusion.schedule import LogLinear
from components.models.chunks import chunk_rows
from components.models.config import ModelConfig
from components.models.transformer import Transformer
from components.objectives import OBJECTIVES
from components.objectives.base import Batch, Setting
from components.training.loop import build_objective
from pipelines import needs
from pipelines.cli import main
from pipelines.training_memory import BUCKET, LIVE, Shape, activation_bytes, copies, head_bytes, smaller, taken
from tests.bench import memory
from tests.chaos import harness

SHAPE = Shape(ModelConfig(dim=8, depth=3, heads=2, mlp_dim=16).resolved(), 1000, 50, "mdlm", rows=4, length=5)


def test_states_by_stage_of_zero():
    """Weights, gradients, moments and average, in whole or spread; buffers of DeepSpeed beside them."""
    bytes_of = lambda **how: copies(replace(SHAPE, **how))  # noqa: E731
    assert bytes_of() == {"weights": 4000, "gradients": 4000, "moments": 8000, "average": 4000, "buffers": 0}
    assert bytes_of(zero=0, workers=4) == bytes_of() | {"buffers": 4000}, "whole on each worker"
    spread = {"moments": 2000, "average": 1000}
    assert bytes_of(zero=1, workers=4) == {"weights": 5000, "gradients": 5000, **spread, "buffers": 4000}
    assert bytes_of(zero=2, workers=4) == {"weights": 5000, "gradients": 2000, **spread, "buffers": 4000}
    assert bytes_of(zero=3, workers=4) == {"weights": 6000, "gradients": 2000, **spread, "buffers": 8000}
    half = bytes_of(zero=2, workers=4, bf16=True)
    assert (half["weights"], half["gradients"], half["moments"]) == (3000, 1500, 2000), "masters stay whole"
    away = bytes_of(zero=2, workers=4, offload=True)
    assert (away["weights"], away["gradients"], away["moments"], away["average"]) == (4000, 1000, 0, 0)
    large = copies(replace(SHAPE, parameters=3 * LIVE, zero=3, workers=3, on_gpu=True))
    assert (large["weights"], large["buffers"]) == (4 * (LIVE + LIVE + LIVE), 4 * BUCKET), "shares, masters, and what is whole at once"


def test_activations_grow_with_rows_depth_and_attention():
    block, moving, ends = 10 * 8 + 2 * 16 + 2 * 5, 3 * (16 + 2 * 5), 4 * 8
    on_gpu = 12 * 8 + 3 * 16  # attention is not written out there, and layers keep what torch keeps
    assert activation_bytes(SHAPE) == 20 * 4 * (3 * block + moving + ends)
    assert activation_bytes(replace(SHAPE, rows=8)) == 2 * activation_bytes(SHAPE)
    assert activation_bytes(replace(SHAPE, checkpointing=True)) == 20 * 4 * (3 * 8 + 2 * block + moving + ends)
    assert activation_bytes(replace(SHAPE, on_gpu=True)) == 20 * 4 * (3 * on_gpu + 3 * 16 + ends)
    assert activation_bytes(replace(SHAPE, bf16=True, zero=2)) * 2 == activation_bytes(SHAPE)
    assert activation_bytes(replace(SHAPE, bf16=True)) == activation_bytes(SHAPE), "autocast keeps the wide ones"


def test_logits_are_those_of_a_chunk_but_for_objectives_that_keep_them():
    assert head_bytes(SHAPE) == 20 * 50 * 4, "all fit into one"
    wide = replace(SHAPE, vocab_size=1 << 16)
    assert head_bytes(replace(wide, rows=1000)) == 128 * (1 << 16) * 4
    assert head_bytes(replace(wide, rows=5000, on_gpu=True)) == 4096 * (1 << 16) * 4
    assert head_bytes(replace(wide, rows=1000, objective="prism")) == 4.5 * 5000 * (1 << 16) * 4


@pytest.mark.parametrize("name", ["mdlm", "proseco", "smart", "mapet", "cmlm", "prism"])
def test_an_objective_that_says_so_keeps_no_logits(name):
    """Of 60 positions and 2,000 tokens; what is kept of them for the backward shows in what torch saves."""
    assert {n for n in OBJECTIVES if not OBJECTIVES[n].keeps_logits} == {"mdlm", "proseco", "smart", "mapet"}
    assert chunk_rows("cpu", 2000) > 60
    options, kept = OBJECTIVES[name](), []
    torch.manual_seed(0)
    network = Transformer(replace(ModelConfig(dim=8, depth=1, heads=2), **options.model_changes()), 2000)
    objective = build_objective(options, Setting(0, LogLinear(), 0.5, 2000))
    tokens, index = torch.randint(1, 2000, (4, 15)), torch.arange(4)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    batch = Batch(tokens, everywhere, everywhere, index, noise.row_keys(0, index), 4, 0)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        for term in objective.terms(network, objective.corrupt(batch)):
            assert term.loss_sum.requires_grad
    rows = [shape[0] for shape in kept if shape[-1:] == (2000,) and len(shape) == 2]
    assert (max(rows, default=0) > 8) == options.keeps_logits, kept


def test_what_checkpoints_are_written_from_lies_beside_a_step_on_the_host():
    found, on_gpu = taken(SHAPE), taken(replace(SHAPE, on_gpu=True))
    assert sum(found.parts.values()) == 20_000 + activation_bytes(SHAPE) + head_bytes(SHAPE)
    assert (found.stored, found.most) == (16_000, sum(found.parts.values()) + 16_000)
    assert (on_gpu.stored, on_gpu.most) == (16_000, sum(on_gpu.parts.values()))
    assert taken(replace(SHAPE, workers=4, zero=0)).stored == 4000, "of each rank its part"


def test_remedies_leave_the_rows_of_a_step_as_they_are():
    said = [text for _, text in smaller(replace(SHAPE, workers=2, zero=2))]
    assert said == [
        "runtime.micro_batch=2", "runtime.micro_batch=1", "runtime.micro_batch=1 runtime.activation_checkpointing=true",
        "runtime.micro_batch=1 runtime.activation_checkpointing=true runtime.zero_stage=3",
    ]  # fmt: skip
    assert [text for _, text in smaller(replace(SHAPE, rows=1, checkpointing=True))] == []


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 3])
def test_the_estimate_is_within_a_quarter_of_what_a_process_takes(zero):
    """Weights and what they bring are the most of one, a step's activations of the other."""
    baseline = memory.peak_of(replace(memory.NOTHING, zero=zero))
    for name in ("42M weights, little else", "5M weights, 8 rows x 512"):
        asked = replace(memory.SHAPES[name], zero=zero)
        assert taken(asked).most == pytest.approx(memory.peak_of(asked) - baseline, rel=memory.OFF), name


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(harness.RUN)
    return [str(path), *harness.LOCAL, f"runtime.root={tmp_path / 'root'}", "train.base.batch_rows=64"]


def proseco(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_plan_says_what_the_largest_training_takes(run):
    code, text = proseco("plan", *run)
    assert code == 0
    (line,) = [line for line in text.splitlines() if "the largest of" in line]
    assert line.startswith("train/base, the largest of 2 trainings: about ")
    assert all(part in line for part in ("weights", "gradients", "moments", "average", "activations", "logits", "of disk for 2 checkpoints"))
    trainings = {row["stage"]: row for row in json.loads(proseco("plan", *run, "--json")[1])}
    assert trainings["train/base"]["memory"]["activations"] > trainings["train/proseco"]["memory"]["activations"]
    assert trainings["tokenizer"]["memory"] is None


def test_what_cannot_fit_is_refused_with_what_would(run, monkeypatch, tmp_path):
    whole = needs.PROCESS_BYTES + taken(shape_in(run)).most
    least = int(whole * needs.SURE)
    for there, ok in ((least, True), (least - 2, False)):
        monkeypatch.setattr(needs, "memory_bytes", lambda there=there: there)
        code, text = proseco("plan", *run)
        assert (code == 0) is ok, "an estimate may be wrong by a quarter"
        assert "memory for the run" in text, "it is told in either case"
    assert "train/base = 'about 0.6 GiB'" in text
    monkeypatch.setattr(needs, "memory_bytes", lambda: int(0.7 * needs.PROCESS_BYTES))
    for command in ("plan", "run"):
        code, text = proseco(command, *run)
        assert code == 1
        assert "remedy: train a smaller model" in text
    assert not (tmp_path / "root").exists(), "nothing was started"
    assert proseco("plan", *run, "runtime.address=elsewhere:6379", "runtime.executor=ray")[0] == 0, "a joined cluster has its own"


def test_the_remedy_is_the_least_that_fits(run, monkeypatch):
    shape = shape_in(run)
    halved = next(smaller(shape))
    there = needs.PROCESS_BYTES + taken(halved[0]).most
    monkeypatch.setattr(needs, "SURE", 1.0)
    monkeypatch.setattr(needs, "memory_bytes", lambda: there)
    code, text = proseco("plan", *run)
    assert code == 1
    assert "remedy: set runtime.micro_batch=32" in text
    assert proseco("plan", *run, "runtime.micro_batch=32")[0] == 0
    monkeypatch.setattr(needs, "memory_bytes", lambda: there - 1)
    assert "remedy: set runtime.micro_batch=16" in proseco("plan", *run)[1]


def shape_in(run: list[str]) -> Shape:
    from pathlib import Path

    from pipelines.config.load import load_run
    from pipelines.workflows import build

    config = load_run(Path(run[0]), run[1:])
    return needs.shape_of(build(config)["train/base"], config.runtime, Path(config.runtime.root))

"""Where blocks of a network are compiled, and what is needed for it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._dynamo.utils import counters

from cluster import worker
from cluster.cluster import TrainLaunch
from cluster.config import RuntimeConfig
from cluster.worker import set_up
from components.diffusion import gpu
from components.models import device, transformer
from components.models.compiled import compile_for_cpu
from components.models.device import compiler_problems
from components.models.layers import Block
from components.models.transformer import Transformer
from components.objectives.config import ProsecoConfig
from tests import learning
from tests.doubles import TINY, VOCAB, job

lost = compiler_problems("compile", True, "leave it out")


@pytest.mark.parametrize(
    ("engine", "stage", "gpus", "compiles"),
    [("torch", 3, 1, True), ("deepspeed", 2, 1, True), ("deepspeed", 3, 1, False), ("torch", 2, 0, False), ("deepspeed", 2, 0, False)],
)
def test_a_training_compiles_blocks_on_gpus_where_their_weights_are_whole(engine, stage, gpus, compiles, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Transformer, "compile_blocks", lambda model: asked.append(model))
    runtime, model = RuntimeConfig(engine=engine, zero_stage=stage, gpus=gpus), Transformer(TINY, VOCAB)
    set_up(model, TrainLaunch(job=job(tmp_path, tmp_path), model=TINY, init=None, runtime=runtime))
    assert asked == ([model] if compiles else [])


@pytest.mark.parametrize(("asked", "gpus", "compiles"), [(True, 0, True), (False, 0, False), (True, 1, False)])
def test_a_training_makes_kernels_for_a_cpu_where_it_is_asked_to(asked, gpus, compiles, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Transformer, "compile_blocks", lambda model: None)
    monkeypatch.setattr(worker, "compile_for_cpu", lambda blocks, head: made.append((blocks, head)))
    runtime, model = RuntimeConfig(compile=asked, gpus=gpus), Transformer(TINY, VOCAB)
    set_up(model, TrainLaunch(job=job(tmp_path, tmp_path), model=TINY, init=None, runtime=runtime))
    assert made == ([(model.blocks, model.head)] if compiles else [])


@pytest.mark.parametrize(
    ("changes", "compiler", "said"),
    [
        ({}, True, []),
        ({"zero_stage": 3}, True, ["use zero_stage 0 to 2"]),
        ({"zero_stage": 3, "engine": "torch"}, True, []),
        ({"zero_stage": 3, "gpus": 1}, False, []),
        ({}, False, ["install g++, name one in the environment as CXX, or leave it out"]),
        ({"compile": False, "zero_stage": 3}, False, []),
    ],
)
def test_where_no_kernels_can_be_made_a_plan_says_so(changes, compiler, said, monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: name if compiler else None)
    found = [p for p in RuntimeConfig(**{"compile": True} | changes).problems() if p.path == "compile"]
    assert len(found) == len(said)
    assert all(part in problem.remedy for part, problem in zip(said, found, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(bool(lost), reason=f"kernels are {lost[0].rule}" if lost else "")
@pytest.mark.parametrize("again", [False, True], ids=["activations kept", "activations made again"])
def test_kernels_have_the_gradients_of_torchs_operations(again):
    """Of both passes of ProSeCo, at all positions and at some, of rows on a time and a class in blocks of attention, one row among
    them; and of rows of several lengths, whose attention is torch's own. They are made once for any number of rows."""
    torch.compiler.reset()
    config = ProsecoConfig()
    model = learning.network(config, attention_block=2, time_conditioning=True, num_classes=2)
    for name, parameter in model.named_parameters():
        if "modulation" in name:  # which starts at zero, so that no time would matter
            torch.nn.init.normal_(parameter, std=0.1)
    model.activation_checkpointing = again
    kernels = Transformer(model.config, learning.VOCAB).double()
    kernels.load_state_dict(model.state_dict())
    kernels.activation_checkpointing = again
    compile_for_cpu(kernels.blocks, kernels.head)
    made = []
    several = [learning.cut(learning.batch(rows=4), sizes) for sizes in ([8, 6, 5, 2], [7, 5, 4, 3])]
    for rows in (learning.batch(rows=4), learning.batch(rows=3), learning.batch(rows=1), *several):
        rows = dataclasses.replace(rows, label=torch.arange(len(rows.index)).float() % 2)
        plain, found = (learning.gradients(config, [rows], one) for one in (model, kernels))
        assert any(float(slope.abs().max()) > 1e-3 for slope in plain.values())
        assert all(torch.allclose(found[name], plain[name], rtol=0, atol=1e-9) for name in plain)
        made.append(counters["stats"]["unique_graphs"])
    assert made[0] > 0
    assert made[0] == made[1] == made[2]
    assert made[3] == made[4]


@pytest.mark.parametrize("makes", [True, False])
def test_every_block_is_compiled_where_kernels_can_be_made(makes, monkeypatch):
    compiled = []
    monkeypatch.setattr(transformer, "makes_kernels", lambda: makes)
    monkeypatch.setattr(Block, "compile", lambda block: compiled.append(block))
    model = Transformer(TINY, VOCAB)
    model.compile_blocks()
    assert compiled == (list(model.blocks) if makes else [])


@pytest.mark.parametrize(("triton", "compiler", "makes"), [(True, "gcc", True), (True, "none", False), (False, "gcc", False), (True, "mine", True)])
def test_kernels_need_triton_and_a_c_compiler(triton, compiler, makes, monkeypatch):
    monkeypatch.setenv("CC", "mine" if compiler == "mine" else "")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: name if triton else None)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name if name == compiler else None)
    assert gpu.makes_kernels.__wrapped__() is makes

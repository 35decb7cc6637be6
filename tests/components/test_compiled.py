"""Where blocks of a network are compiled, and what is needed for it."""

from __future__ import annotations

import pytest

from cluster.cluster import TrainLaunch
from cluster.config import RuntimeConfig
from cluster.worker import set_up
from components.diffusion import gpu
from components.models import transformer
from components.models.layers import Block
from components.models.transformer import Transformer
from tests.doubles import TINY, VOCAB, job


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

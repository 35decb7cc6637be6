"""Device and dtype: what auto comes to, what is refused, and that whoever runs a network obeys."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from ray import serve

from cluster.config import RuntimeConfig
from cluster.open import open_cluster
from cluster.replicas import replicas_of, runtime_of
from cluster.service import on_ray
from cluster.service.limits import ServiceLimits
from components.api import load, sample, score
from components.errors import ConfigError
from components.models import device as module
from components.models.config import ModelConfig
from components.models.cpu import routes_to_onednn
from components.models.device import Placement, dtype_on, multiplies_bfloat16, num_gpus, processor, resolve
from components.models.weights import load_model
from components.options import parse
from components.samplers import preset
from components.scorers import Scorers
from components.shards.model import Sampling
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard
from components.store.samples import shard_file
from pipelines.config.schema import GenerateConfig
from pipelines.diagnose import diagnose_model
from pipelines.workflows import one_stage
from tests.components.test_export import exported

BF16, FP32 = {"trained_precision": "bf16"}, {"trained_precision": "fp32"}
without_gpu = pytest.mark.skipif(num_gpus() > 0, reason="this machine has a GPU")


HERE = "bfloat16" if multiplies_bfloat16() else "float32"
"""What auto is on this CPU for a network trained in bfloat16."""


@pytest.mark.parametrize(
    ("told", "multiplies", "routes"),
    [
        ("vendor_id: AuthenticAMD\nflags\t: avx512f avx512_bf16\nflags: none", True, True),
        ("vendor_id: AuthenticAMD\nflags\t: avx512f", False, True),
        ("vendor_id: AuthenticAMD\nflags\t: avx2", False, False),
        ("vendor_id: GenuineIntel\nflags\t: avx512f amx_bf16 amx_tile", True, False),
        ("vendor_id: AuthenticAMD\nflags\t: avx512f amx_bf16", True, False),
        ("Features: fp asimd bf16", True, False),
        ("Features: fp asimd", False, False),
        ("", False, False),
    ],
)
def test_what_a_cpu_says_of_itself_decides_what_it_computes_in(monkeypatch, told, multiplies, routes):
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: told)
    processor.cache_clear()
    try:
        assert (multiplies_bfloat16(), routes_to_onednn()) == (multiplies, routes)
        assert dtype_on("cpu", "auto", "bf16") == ("bfloat16" if multiplies else "float32")
        assert dtype_on("cpu", "auto", "fp32") == "float32"
    finally:
        processor.cache_clear()


def gpus(monkeypatch, count: int) -> None:
    for place in ("components.models.device", "cluster.replicas"):
        monkeypatch.setattr(f"{place}.num_gpus", lambda: count)


@pytest.mark.parametrize(
    ("count", "device", "dtype", "info", "expected"),
    [
        (1, "auto", "auto", BF16, Placement("cuda", "bfloat16")),
        (1, "auto", "auto", FP32, Placement("cuda", "float32")),
        (1, "auto", "auto", {}, Placement("cuda", "float32")),
        (1, "cpu", "auto", BF16, Placement("cpu", HERE)),
        (2, "cuda:1", "float32", BF16, Placement("cuda:1", "float32")),
        (1, "cuda", "bfloat16", FP32, Placement("cuda", "bfloat16")),
        (0, "auto", "auto", BF16, Placement("cpu", HERE)),
        (0, "auto", "auto", FP32, Placement("cpu", "float32")),
        (0, "auto", "float32", BF16, Placement("cpu", "float32")),
        (0, "auto", "bfloat16", FP32, Placement("cpu", "bfloat16")),
    ],
)
def test_auto_is_a_gpu_where_there_is_one_and_bfloat16_where_the_export_allows_it(
    monkeypatch, count, device, dtype, info, expected
):
    gpus(monkeypatch, count)
    assert resolve(device, dtype, info) == expected


@pytest.mark.parametrize(("count", "device"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (1, "gpu"), (1, "cuda:x")])
def test_a_device_that_is_not_here_is_refused_with_a_remedy(monkeypatch, count, device):
    gpus(monkeypatch, count)
    with pytest.raises(ConfigError) as raised:
        resolve(device, "half")
    assert [(p.path, p.value) for p in raised.value.problems] == [("device", device), ("dtype", "half")]
    assert all(p.rule and p.remedy for p in raised.value.problems)


@pytest.mark.parametrize(
    ("options", "on_gpu", "dtype"),
    [
        ({}, False, HERE),
        ({"gpus": 1}, True, "bfloat16"),
        ({"gpus": 1, "device": "cpu"}, False, HERE),
        ({"device": "cuda"}, True, "bfloat16"),
        ({"device": "cuda", "dtype": "float32"}, True, "float32"),
        ({"dtype": "bfloat16"}, False, "bfloat16"),
    ],
)
def test_a_run_is_on_gpus_where_it_asks_for_them(options, on_gpu, dtype):
    runtime = RuntimeConfig(**options)
    assert (runtime.on_gpu, runtime.dtype_of("bf16")) == (on_gpu, dtype)


@without_gpu
@pytest.mark.parametrize("options", [{"gpus": 1}, {"device": "cuda", "executor": "local"}])
def test_gpus_on_a_machine_without_are_refused_before_a_cluster_is_started(options):
    with pytest.raises(ConfigError, match="runtime.device = 'cuda'"):
        open_cluster(RuntimeConfig(**options))


def test_a_bfloat16_network_says_float32_and_keeps_what_decides_in_float32(tmp_path):
    shape = ModelConfig(dim=16, depth=2, heads=2, encoder="dsl", noise_dim=8, quality_layers=0, policy=True)
    exported(tmp_path / "m", shape)
    half, full = (load_model(tmp_path / "m", Placement("cpu", d)) for d in ("bfloat16", "float32"))
    assert half.head.weight.dtype == torch.bfloat16
    assert {p.dtype for part in (half.encoder, half.policy) for p in part.parameters()} == {torch.float32}
    tokens = torch.arange(8)[None].clamp(max=6)
    said, exact = half(tokens, heads=("quality",)), full(tokens, heads=("quality",))
    assert said.logits.dtype == said.heads["quality"].dtype == torch.float32
    assert not torch.equal(said.logits, exact.logits)
    assert half.decide(torch.rand(1, 8), tokens > 3, torch.rand(1)).dtype == torch.float32


def test_python_samples_and_scores_in_the_asked_dtype(tmp_path):
    exported(tmp_path / "m")
    half, full = (load(tmp_path / "m", "cpu", d) for d in ("bfloat16", "float32"))
    rows = sample(full, "mdlm", 8, steps=4)
    assert [r.sample for r in rows] == [r.sample for r in sample(load(tmp_path / "m", "cpu"), "mdlm", 8, steps=4)]
    assert all(half.tokenizer.mask_id not in r.sample.tokens for r in sample(half, "mdlm", 8, steps=4))
    assert score(half, rows, ["nelbo"])["nelbo"] != score(full, rows, ["nelbo"])["nelbo"]
    assert score(half, rows, ["nelbo"])["nelbo"] == pytest.approx(score(full, rows, ["nelbo"])["nelbo"], rel=0.1)


def test_shards_obey_their_placement(tmp_path):
    exported(tmp_path / "m")
    for folder in ("samples", "float32", "bfloat16"):
        (tmp_path / folder).mkdir()
    shard = SampleShard("s", tmp_path / "samples", tmp_path / "m", Sampling(preset("mdlm", steps=4)), 0, 1, 9)
    shard.work()
    columns = {}
    for dtype in ("float32", "bfloat16"):
        scorers = parse(Scorers, ["nelbo"], "scorers")
        samples = shard_file(tmp_path / "samples" / "shards", "s")
        ScoreShard("s", tmp_path / dtype, samples, scorers, tmp_path / "m", placement=Placement("cpu", dtype)).work()
        columns[dtype] = pq.read_table(shard_file(tmp_path / dtype / "shards", "s"))["nelbo"].to_pylist()
    assert columns["float32"] != columns["bfloat16"]


@without_gpu
def test_shards_and_diagnosis_on_a_device_that_is_not_there_are_refused(tmp_path):
    exported(tmp_path / "m")
    shard = SampleShard("s", tmp_path, tmp_path / "m", Sampling(preset("mdlm")), 0, 1, 9)
    with pytest.raises(ConfigError, match="device = 'cuda'"):
        dataclasses.replace(shard, placement=Placement("cuda")).work()
    with pytest.raises(ConfigError, match="device = 'cuda'"):
        diagnose_model(tmp_path / "m", tmp_path, 1, 8, "", device="cuda")


def test_the_dtype_is_part_of_the_identity_of_samples_and_the_device_is_not(tmp_path):
    exported(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | BF16))

    def key(**options) -> str:
        how = GenerateConfig(num_samples=2)
        return one_stage.sampling(tmp_path / "m", preset("mdlm"), how, runtime=RuntimeConfig(**options)).key

    assert key() == key(dtype=HERE)
    assert key(dtype="float32") == key(gpus=1, dtype="float32")
    assert key(gpus=1) == key(dtype="bfloat16") != key(dtype="float32")


def test_the_service_asks_ray_for_gpus(tmp_path, monkeypatch):
    gpus(monkeypatch, 2)
    asked = {}
    monkeypatch.setattr(serve, "deployment", lambda **options: asked.update(options) or FakeDeployment)
    monkeypatch.setattr(serve, "run_many", lambda *_, **__: [None])
    monkeypatch.setattr(on_ray, "num_running", lambda app: 4)
    replicas = replicas_of(BF16, replicas=4, threads=1, gpus=0.5)
    assert replicas.placement == Placement("cuda", "bfloat16")
    assert (runtime_of([replicas]).gpus, runtime_of([replicas]).on_gpu) == (2, True)
    with pytest.raises(ConfigError, match="at most the 2 GPUs"):
        runtime_of([replicas, replicas_of(BF16, replicas=1, threads=1, gpus=0.5)])
    on_ray.deploy("m", tmp_path, replicas, ServiceLimits())
    assert (asked["num_replicas"], asked["ray_actor_options"]["num_gpus"]) == (4, 0.5)
    assert replicas_of(BF16, 2, 1).gpus == 1.0
    assert replicas_of(BF16, 2, 1, device="cpu").wanted()["ray_actor_options"]["num_gpus"] == 0.0
    with pytest.raises(ConfigError, match="at most the 2 GPUs"):
        replicas_of(BF16, 3, 1, device="cuda")
    with pytest.raises(ConfigError, match="drop gpus"):
        replicas_of(BF16, 1, 1, device="cpu", gpus=1.0)
    gpus(monkeypatch, 0)
    with pytest.raises(ConfigError, match="here it sees none"):
        replicas_of(BF16, 1, 1, gpus=1.0)


class FakeDeployment:
    def __init__(self, kind):
        self.kind = kind

    @staticmethod
    def bind(*_):
        return None


def test_an_explicit_device_asks_torch_for_no_more_than_it_sees():
    assert module.device_problems("cpu") == []
    assert bool(module.device_problems("cuda")) == (num_gpus() == 0)

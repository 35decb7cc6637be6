"""Products in 8 bits, and the kernels that are made around them: what they compute, and that no bit depends on the company."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._dynamo.utils import counters

from cluster.config import RuntimeConfig
from cluster.open import open_cluster
from components.errors import ConfigError
from components.models import device as module
from components.models.compiled import for_any_size
from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.device import Placement, dtype_problems, resolve
from components.models.int8 import LARGEST, Int8
from components.models.layers import Linear
from components.models.transformer import Transformer
from components.models.weights import place
from components.shards import model as shards
from pipelines.needs import refusals
from tests.components.test_export import exported

WORDS, LENGTH = 23, 12
lost = dtype_problems("cpu", "int8")
needs_int8 = pytest.mark.skipif(bool(lost), reason=f"int8 is {lost[0].rule}" if lost else "")

DTYPES = ["float32", "bfloat16", pytest.param("int8", marks=needs_int8)]


@pytest.fixture(autouse=True)
def one_thread():
    use_threads(1)


# --- the product -------------------------------------------------------------------------------------


def test_whole_numbers_are_multiplied_exactly():
    weight = torch.randint(-LARGEST, LARGEST + 1, (5, 40)).float()
    x = torch.randint(-LARGEST, LARGEST + 1, (3, 40)).float()
    weight[:, 0], x[:, 1] = LARGEST, -LARGEST
    assert torch.equal(Int8.of(weight)(x), x @ weight.T)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_products_are_those_of_the_nearest_whole_numbers(scale):
    """Equation 7 of LLM.int8 in float64, and no further from the product than the two roundings allow."""
    torch.manual_seed(0)
    weight, x = torch.randn(6, 64) * torch.logspace(-2, 2, 6)[:, None], scale * torch.randn(2, 7, 64)
    unit_x, unit_w = (y.double().abs().amax(-1, keepdim=True) / 127 for y in (x, weight))
    expected = ((x / unit_x).round() @ (weight / unit_w).round().T) * unit_x * unit_w[:, 0]
    found = Int8.of(weight)(x)
    assert found.dtype == torch.float32
    assert found.shape == (2, 7, 6)
    half = (
        unit_x / 2 * weight.double().abs().sum(-1)
        + x.double().abs().sum(-1, keepdim=True) * unit_w[:, 0] / 2
        + 64 * unit_x * unit_w[:, 0] / 4
    )
    exact = x.double() @ weight.double().T
    assert ((found - exact).abs() <= half).all()
    assert (found - exact).abs().max() > 1e-4 * scale
    # A number just between two whole ones may be rounded either way in float32.
    assert ((found - expected).abs() <= unit_x * unit_w[:, 0] * 127 * 1.01).all()
    assert ((found - expected).abs() <= 1e-5 * exact.abs().max()).double().mean() > 0.9


def test_positions_do_not_see_each_other():
    """What is zero stays zero; what is no number, or huge, is it by itself."""
    torch.manual_seed(0)
    product, x = Int8.of(torch.randn(8, 32)), torch.randn(40, 32)
    alone = [product(x[i : i + 1]) for i in range(40)]
    x[3], x[5, 7], x[9] = 0, torch.nan, 1e30
    together = product(x)
    assert (together[3] == 0).all()
    assert together[5].isnan().all()
    for i in set(range(40)) - {3, 5, 9}:
        assert torch.equal(together[i : i + 1], alone[i])


def test_a_matrix_of_zeros_gives_zeros():
    assert torch.equal(Int8.of(torch.zeros(3, 8))(torch.randn(2, 8)), torch.zeros(2, 3))


# --- the network -------------------------------------------------------------------------------------


def networks(**config) -> tuple[Transformer, Transformer]:
    """The same in 8 bits and in float32."""
    both = []
    for dtype in ("int8", "float32"):
        torch.manual_seed(1)
        model = Transformer(ModelConfig(dim=32, depth=2, heads=2, **config), WORDS).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) / 8)
        both.append(place(model, Placement("cpu", dtype)))
    return both[0], both[1]


def kept_in_int8(model: Transformer) -> set[str]:
    return {name for name, part in model.named_modules() if isinstance(part, Linear) and part.in8 is not None}


@needs_int8
def test_blocks_and_the_head_multiply_in_8_bits_and_nothing_else():
    model, full = networks(encoder="dsl", noise_dim=8, quality_layers=1, policy=True, num_classes=2, adapter_rank=2)
    kinds = ("adapter.down", "adapter.up", "attention.out", "attention.qkv", "mlp.down", "mlp.gate_up")
    attention = {k if "adapter" not in k else f"attention.{k}" for k in kinds}
    assert kept_in_int8(model) == {"head"} | {f"blocks.{i}.{k}" for i in range(2) for k in attention}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    lost = {name for name, _ in full.named_parameters()} - {name for name, _ in model.named_parameters()}
    assert lost == {f"{name}.weight" for name in kept_in_int8(model)}


CONFIGS = {"plain": {}, "on a class, in blocks": {"num_classes": 3, "attention_block": 4}}


def company(number: int, length: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(number)
    return {"tokens": torch.randint(0, WORDS, (number, length)), "label": torch.arange(number).float() % 3}


@needs_int8
@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_in_8_bits_says_nearly_what_it_says_in_float32(name):
    model, full = networks(**CONFIGS[name])
    with torch.inference_mode():
        for number, length in ((4, LENGTH), (1, LENGTH), (3, 8)):
            given = company(number, length)
            said, exact = model(**given).logits, full(**given).logits
            assert said.dtype == torch.float32
            assert 1e-3 < (said - exact).std() / exact.std() < 0.1
            wanted = torch.arange(0, number * length, 3)
            assert torch.allclose(model(**given, select=wanted).logits, said.flatten(0, 1)[wanted], atol=0.1)
            # Keys and values are told of by blocks that are not compiled.
            kept = model(**given, keep=True)
            assert torch.allclose(kept.logits, said, atol=0.3)
            assert kept.kept is not None


@needs_int8
def test_bits_are_the_same_whatever_was_computed_before_and_beside():
    """Kernels are made at the first sight of a size: in any order of sizes, a row has the bits that it has in a crowd."""
    row, found = torch.randint(0, WORDS, (LENGTH,)), []
    for order in itertools.permutations([(4, LENGTH), (1, LENGTH), (3, 8)]):
        torch.compiler.reset()
        model, _ = networks()
        with torch.inference_mode():
            for number, length in order:
                batch = company(number, length)["tokens"]
                if length == LENGTH:
                    batch[-1] = row
                logits = model(batch, select=torch.arange((number - 1) * length, number * length)).logits
                if length == LENGTH:
                    found.append(logits)
    assert len(found) == 12
    assert all(torch.equal(found[0], other) for other in found)


@needs_int8
def test_kernels_are_made_once_for_all_numbers_of_rows_and_positions():
    torch.compiler.reset()
    model, _ = networks(**CONFIGS["on a class, in blocks"])
    made = []
    with torch.inference_mode():
        for number, length in ((4, LENGTH), (1, LENGTH), (7, 8), (2, 16), (1, 5)):
            model(**company(number, length), select=torch.arange(0, number * length, 4))
            made.append(counters["stats"]["unique_graphs"])
            assert model(**company(number, length), select=torch.arange(0)).logits.shape == (0, WORDS)
    assert made[0] > 0
    assert set(made) == {made[0]}


@needs_int8
@torch._dynamo.config.patch(recompile_limit=3)  # which gives it back; ``monkeypatch`` loses torch's settings
def test_kernels_are_made_for_more_kinds_of_networks_than_torch_makes_by_itself():
    networks()
    torch.compiler.reset()
    double, before = for_any_size(lambda x: 2 * x), counters["stats"]["unique_graphs"]
    for width in range(4, 9):
        assert torch.equal(double(torch.ones(3, width)), torch.full((3, width), 2.0))
    assert counters["stats"]["unique_graphs"] - before == 5


# --- where it can be had -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "flags", "compiler", "rule"),
    [
        ("cpu", {"avx512_vnni"}, "true", ""),
        ("cpu", {"avx_vnni"}, "true", ""),
        ("cpu", {"amx_int8"}, "true", ""),
        ("cpu", {"avx512f", "avx512_bf16"}, "true", "VNNI"),
        ("cpu", {"avx512_vnni"}, "no-such-compiler", "compiler of C\\+\\+"),
        ("cuda", {"avx512_vnni"}, "true", "CPUs alone"),
    ],
)
def test_int8_is_refused_where_it_cannot_be_had(monkeypatch, tmp_path, device, flags, compiler, rule):
    monkeypatch.setattr(module, "processor", lambda: frozenset(flags))
    monkeypatch.setattr(module, "num_gpus", lambda: 1)
    monkeypatch.setenv("CXX", compiler)
    if not rule:
        assert resolve(device, "int8") == Placement(device, "int8")
        return
    with pytest.raises(ConfigError, match=f"(?s)dtype = 'int8'.*{rule}"):
        resolve(device, "int8")
    exported(tmp_path / "m")
    with pytest.raises(ConfigError, match=rule):
        shards.load(tmp_path / "m", Placement(device, "int8"))
    runtime = RuntimeConfig(device=device, dtype="int8", executor="local")
    with pytest.raises(ConfigError, match=f"(?s)runtime.dtype.*{rule}"):
        open_cluster(runtime)
    assert [p.path for p in refusals(runtime, tmp_path)] == ["runtime.dtype"]
    # A cluster that is joined may have other CPUs; that it was asked for GPUs is known.
    joined = RuntimeConfig(device=device, dtype="int8", address="auto", tracking_uri="http://x")
    assert [p.path for p in joined.problems()] == (["dtype"] if device == "cuda" else [])
    assert refusals(joined, tmp_path) == []

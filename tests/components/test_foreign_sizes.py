"""Folders of other projects whose config.json, weights and lengths do not make sense: refused, each with a reason."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.api import load, sample
from components.errors import ConfigError, ModelError
from components.models.weights import MAX_HEADER_BYTES, load_model, load_weights
from pipelines.import_weights import import_model
from tests.components.test_export import exported
from tests.components.test_foreign import llama
from tests.hostile import refused


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "source"
    llama(folder)
    exported(folder.parent / "model")
    shutil.copy(folder.parent / "model" / "tokenizer.json", folder)
    return folder


def changed(source, folder, config=None, tensors=None):
    """The folder with other sizes, or with tensors changed by a function of name and tensor."""
    shutil.copytree(source, folder)
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | (config or {})))
    if tensors is not None:
        loaded = {name: tensors(name, tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(loaded, folder / "model.safetensors")
    return folder


SIZES = {
    "no heads": {"num_attention_heads": 0},
    "heads that do not divide": {"num_attention_heads": 3},
    "no layers": {"num_hidden_layers": None},
    "layers without number": {"num_hidden_layers": 0},
    "a negative width": {"hidden_size": -32},
    "a width that is a text": {"hidden_size": "32"},
    "true heads": {"num_attention_heads": True},
    "a rope that is not a number": {"rope_theta": float("nan")},
    "no rope": {"rope_theta": 0},
    "a rope that is a list": {"rope_theta": [1]},
    "an epsilon that is a text": {"rms_norm_eps": "x"},
    "ties that are no answer": {"tie_word_embeddings": "maybe"},
    "a network of ten million layers": {"num_hidden_layers": 10_000_000},
    "a width that no machine holds": {"hidden_size": 2**40, "num_attention_heads": 2},
    "heads of another width": {"head_dim": 16},
    "a block more than there is": {"num_hidden_layers": 3},
    "a block less than there is": {"num_hidden_layers": 1},
    "a width that nothing fits": {"hidden_size": 64, "head_dim": None},
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_make_no_sense_are_refused(name, source, tmp_path):
    said = refused(lambda: list(import_model(changed(source, tmp_path / "s", SIZES[name]), tmp_path / "out", None, 9)))
    assert "config.json" in said
    assert not (tmp_path / "out").exists()


WEIGHTS = {
    "not a number": lambda name, t: torch.full_like(t, float("nan")) if "mlp.up" in name else t,
    "infinite": lambda name, t: t / 0 if "norm.weight" in name else t,
    "integers": lambda name, t: t.to(torch.int32) if "q_proj" in name else t,
    "finite in 64 bits alone": lambda name, t: t.double() * 1e300 if "mlp.up" in name else t,
    "8 bits without scales": lambda name, t: t.to(torch.float8_e4m3fn),
    "complex": lambda name, t: t.to(torch.complex64) if "q_proj" in name else t,
    "yes and no": lambda name, t: t > 0,
    "without rows": lambda name, t: t[:0].clone() if "embed_tokens" in name else t,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_no_network_computes_with_are_refused(name, source, tmp_path):
    said = refused(lambda: list(import_model(changed(source, tmp_path / "s", tensors=WEIGHTS[name]), tmp_path / "out", None, 9)))
    assert any(part in said for part in ("not finite", "of type ", "with rows in it"))
    assert not (tmp_path / "out").exists()


FILES = {
    "no config": ("config.json", None, "no config.json"),
    "an empty config": ("config.json", b"", "broken JSON"),
    "a list for a config": ("config.json", b"[]", "no JSON object"),
    "a deep config": ("config.json", b"[" * 5000, "64 levels"),
    "a config that is no text": ("config.json", b"\xff", "utf-8"),
    "no weights": ("model.safetensors", None, "no *.safetensors"),
    "weights of nothing": ("model.safetensors", b"", "model.safetensors"),
    "weights that end too early": ("model.safetensors", lambda raw: raw[:-5], "model.safetensors"),
    "a pickle for weights": ("model.safetensors", b"PK\x03\x04" * 9, "model.safetensors"),
    "a second file that is none": ("z.safetensors", b"x", "z.safetensors"),
    "no tokenizer": ("tokenizer.json", None, "does not exist"),
    "an empty tokenizer": ("tokenizer.json", b"", "broken JSON"),
    "a tokenizer of nothing": ("tokenizer.json", b"{}", "`tokenizers` library"),
    "a deep tokenizer": ("tokenizer.json", b"[" * 5000, "64 levels"),
    "a tokenizer with an id of a billion": ("tokenizer.json", lambda raw: raw.replace(b'"1": 4', b'"1": 1000000000'), "1000000001 tokens"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_what_their_names_say_are_refused(name, source, tmp_path):
    file, raw, part = FILES[name]
    folder = changed(source, tmp_path / "s")
    before = (folder / file).read_bytes() if (folder / file).exists() else b""
    if raw is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(raw(before) if callable(raw) else raw)
    said = refused(lambda: list(import_model(folder, tmp_path / "out", None, 9)))
    assert part in said
    assert not (tmp_path / "out").exists()


def test_an_id_that_a_tokenizer_leaves_out_has_an_embedding_all_the_same(source, tmp_path):
    folder = changed(source, tmp_path / "s")
    raw = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(raw.replace(b'"1": 4', b'"1": 50'))
    list(import_model(folder, tmp_path / "out", None, 9))
    model = load(tmp_path / "out")
    assert (model.tokenizer.vocab_size, model.network.vocab_size) == (51, 51)
    assert len(sample(model, "mdlm", prompts=["1"], steps=2)[0].sample.tokens) == 9
    (tmp_path / "out" / "tokenizer.json").write_bytes(raw.replace(b'"1": 4', b'"1": 51'))
    with pytest.raises(ModelError, match="ids up to 51, and its network 51 embeddings"):
        load(tmp_path / "out")


@pytest.mark.parametrize("length", [0, -5, 10**12, (1 << 20) + 1])
def test_lengths_that_no_row_has_are_refused(length, source, tmp_path):
    with pytest.raises(ConfigError, match="--length"):
        list(import_model(source, tmp_path / "out", None, length))


def test_the_folder_as_it_is_is_imported(source, tmp_path):
    assert "all there are" in next(iter(import_model(changed(source, tmp_path / "s"), tmp_path / "out", None, 1 << 20)))


def test_an_export_that_tells_of_a_huge_network_makes_none(source, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(source.parent / "model", folder)
    plain = json.loads((folder / "config.json").read_text())
    for change in ({"depth": 10**7}, {"vocab_size": 2**40}, {"mlp_dim": 2**36}, {"adapter_rank": 2**70},
                   {"num_classes": 2**40}, {"quality_layers": 10**7}, {"encoder": "dsl", "noise_dim": 2**40}, {"num_positions": 2**40}):  # fmt: skip
        (folder / "config.json").write_text(json.dumps(plain | change))
        said = refused(lambda: load_model(folder))
        assert "do not belong together" in said or f"{folder}/config.json.{next(reversed(change))}" in said


def test_a_header_has_a_length(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b" " * 100)
    with pytest.raises(ModelError, match="its header is longer than 16 MiB"):
        load_weights(tmp_path / "model.safetensors")

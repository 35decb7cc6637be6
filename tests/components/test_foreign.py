"""Weights of other projects: exact where the architecture is ours, and listed where it is not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from components.errors import ModelError
from components.models.exchange.foreign import read_foreign
from components.models.exchange.formats import FORMATS

VOCAB, DIM = 40, 32


def llama(tmp_path, kv_heads: int = 4, bias: bool = False, tie: bool = False):
    """A tiny random causal model of `transformers`, on disk and in memory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=DIM, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, attention_bias=bias, tie_word_embeddings=tie, rms_norm_eps=1e-5, rope_theta=5000.0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else torch.nn.init.normal_(parameter, 1.0, 0.1)
    model.save_pretrained(tmp_path)
    return model


def without_causality(model, tokens):
    """Their logits when every position sees every other."""
    return model(tokens, attention_mask=torch.zeros(len(tokens), 1, tokens.shape[1], tokens.shape[1])).logits


@pytest.mark.parametrize(("kv_heads", "tie"), [(4, False), (2, False), (4, True)])
def test_a_causal_model_becomes_a_bidirectional_one_with_shifted_logits(tmp_path, kv_heads, tie):
    theirs = llama(tmp_path, kv_heads, tie=tie)
    ours, report = read_foreign(tmp_path)
    assert report.format == "llama"
    assert report.exact, report.lines()
    tokens = torch.randint(0, VOCAB, (3, 7))
    with torch.inference_mode():
        expected, found = without_causality(theirs, tokens), ours.eval()(tokens).logits
    assert torch.allclose(found[:, 1:], expected[:, :-1], atol=1e-4)


def test_a_llada_shaped_model_gives_the_logits_of_its_own_positions(tmp_path):
    """LLaDA is LLaMA without causality under other names; its logits are not shifted."""
    theirs = llama(tmp_path / "llama")
    source = FORMATS["llama"]
    target = FORMATS["llada"]
    state = theirs.state_dict()
    tensors = {target.embed: state[source.embed], target.head: state[source.head], target.norm: state[source.norm]}
    for i in range(2):
        for part, names in source.parts.items():
            for old, new in zip(names, target.parts[part], strict=True):
                tensors[target.block.format(i=i) + new] = state[source.block.format(i=i) + old]
    folder = tmp_path / "llada"
    folder.mkdir()
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "model.safetensors")
    config = {
        "d_model": DIM, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48, "rope_theta": 5000.0, "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    ours, report = read_foreign(folder)
    assert report.exact, report.lines()
    tokens = torch.randint(0, VOCAB, (3, 7))
    with torch.inference_mode():
        assert torch.allclose(ours.eval()(tokens).logits, without_causality(theirs, tokens), atol=1e-4)


def test_the_8b_shape_is_known():
    from components.models.config import ModelConfig

    published = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "mlp_hidden_size": 12288, "rope_theta": 500000.0}
    sizes = FORMATS["llada"].sizes(published)
    ours = ModelConfig(preset="llada_8b").resolved()
    assert all(getattr(ours, n) == sizes[n] for n in ("dim", "depth", "heads", "mlp_dim"))
    assert ModelConfig(**sizes).num_parameters(126464) == pytest.approx(8.02e9, rel=0.01)


def test_biases_are_listed_as_having_no_place(tmp_path):
    llama(tmp_path, bias=True)
    _, report = read_foreign(tmp_path)
    assert not report.exact
    assert any("model.layers.*.self_attn.q_proj.bias" in line for line in report.lines())


def test_a_masked_model_starts_embeddings_and_attention_and_says_what_not(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCAB, hidden_size=DIM, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16,
    )  # fmt: skip
    theirs = BertForMaskedLM(config)
    theirs.save_pretrained(tmp_path)
    ours, report = read_foreign(tmp_path)
    assert torch.equal(ours.embed.weight, theirs.bert.embeddings.word_embeddings.weight)
    assert torch.equal(ours.position_embed.weight, theirs.bert.embeddings.position_embeddings.weight)
    assert "blocks.0.mlp.down.weight" in report.fresh
    assert any("intermediate.dense.weight" in name for name in report.unused)
    assert ours(torch.randint(0, VOCAB, (2, 16))).logits.shape == (2, 16, VOCAB)


def test_a_dit_starts_what_fits(tmp_path):
    tensors = {
        "backbone.vocab_embed.embedding": torch.randn(VOCAB, DIM),
        "backbone.output_layer.linear.weight": torch.randn(VOCAB, DIM),
    }
    for i in range(2):
        block = f"backbone.blocks.{i}."
        tensors |= {
            block + "attn_qkv.weight": torch.randn(3 * DIM, DIM), block + "attn_out.weight": torch.randn(DIM, DIM),
            block + "norm1.weight": torch.ones(DIM), block + "norm2.weight": torch.ones(DIM),
            block + "mlp.0.weight": torch.randn(4 * DIM, DIM), block + "adaLN_modulation.weight": torch.randn(6 * DIM, 128),
        }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model": {"hidden_size": DIM, "n_blocks": 2, "n_heads": 4}}))
    ours, report = read_foreign(tmp_path, vocab_size=VOCAB + 3)
    assert torch.equal(ours.blocks[1].attention.qkv.weight, tensors["backbone.blocks.1.attn_qkv.weight"])
    assert torch.allclose(ours.embed.weight[VOCAB:], tensors["backbone.vocab_embed.embedding"].mean(0).expand(3, -1))
    assert {"blocks.0.mlp.gate_up.weight", "norm.weight"} <= set(report.fresh)
    assert any("adaLN_modulation" in line for line in report.lines())


def test_what_is_no_model_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="convert it"):
        read_foreign(tmp_path)
    save_file({"something.else": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no known format"):
        read_foreign(tmp_path)


def test_an_imported_folder_samples_trains_on_and_loads_in_transformers(tmp_path):
    """The command's work: export, special tokens added, samples drawn, logits equal to the standing-alone code's."""
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers import models, pre_tokenizers
    from transformers import AutoModelForMaskedLM

    from components.api import load, sample
    from pipelines.import_weights import import_model

    source = tmp_path / "source"
    llama(source)
    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"</s>": VOCAB - 2, "<unk>": VOCAB - 1}
    inner = HfTokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(source / "tokenizer.json"))
    told = list(import_model(source, tmp_path / "out", None, 12))
    assert "all there are" in told[0]
    model = load(tmp_path / "out")
    assert (model.tokenizer.end_id, model.tokenizer.unknown_id) == (VOCAB - 2, VOCAB - 1)
    assert model.tokenizer.mask_id == VOCAB
    rows = sample(model, "confidence", num_samples=2, steps=4)
    assert all(len(r.sample.tokens) == 12 and model.tokenizer.mask_id not in r.sample.tokens for r in rows)
    alone = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    tokens = torch.randint(0, VOCAB, (2, 12))
    with torch.inference_mode():
        assert torch.allclose(alone(tokens).logits, model.network(tokens).logits, atol=1e-4)

"""How other projects name their weights and sizes: a format is a table of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Format:
    """Where a project keeps what. ``{i}`` is the block's number."""

    sign: str
    """A tensor whose presence tells the format."""
    embed: str
    head: str
    norm: str
    block: str
    parts: Mapping[str, tuple[str, ...]]
    """Our name inside a block: theirs, concatenated along the first axis."""
    sizes: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Fields of our ModelConfig, from their config.json."""
    positions: str = ""
    """Learned absolute positions."""


def section(c: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping in a config.json, empty where there is none."""
    found = c.get(name)
    return found if isinstance(found, Mapping) else {}


def llada_sizes(c: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dim": c["d_model"], "depth": c["n_layers"], "heads": c["n_heads"], "mlp_dim": c["mlp_hidden_size"],
        "rope_theta": c.get("rope_theta", 10000.0), "norm_eps": c.get("rms_norm_eps", 1e-5),
        "tie_embeddings": c.get("weight_tying", False),
    }  # fmt: skip


def llama_sizes(c: Mapping[str, Any]) -> dict[str, Any]:
    rope = c if c.get("rope_theta") is not None else section(c, "rope_parameters")
    return {
        "dim": c["hidden_size"], "depth": c["num_hidden_layers"], "heads": c["num_attention_heads"],
        "mlp_dim": c["intermediate_size"], "rope_theta": rope.get("rope_theta", 10000.0),
        "norm_eps": c.get("rms_norm_eps", 1e-6), "tie_embeddings": c.get("tie_word_embeddings", False), "shift_logits": True,
    }  # fmt: skip


def bert_sizes(c: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dim": c["hidden_size"], "depth": c["num_hidden_layers"], "heads": c["num_attention_heads"],
        "num_positions": c["max_position_embeddings"], "tie_embeddings": True,
    }  # fmt: skip


def dit_sizes(c: Mapping[str, Any]) -> dict[str, Any]:
    model = section(c, "model") or c
    return {"dim": model["hidden_size"], "depth": model["n_blocks"], "heads": model["n_heads"]}


FORMATS: dict[str, Format] = {
    "llada": Format(
        "model.transformer.blocks.0.ff_proj.weight", "model.transformer.wte.weight", "model.transformer.ff_out.weight",
        "model.transformer.ln_f.weight", "model.transformer.blocks.{i}.",
        {
            "attention.qkv.weight": ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
            "attention.out.weight": ("attn_out.weight",),
            "mlp.gate_up.weight": ("ff_proj.weight", "up_proj.weight"),
            "mlp.down.weight": ("ff_out.weight",),
            "norm_attention.weight": ("attn_norm.weight",),
            "norm_mlp.weight": ("ff_norm.weight",),
        },
        llada_sizes,
    ),
    "llama": Format(
        "model.layers.0.mlp.gate_proj.weight", "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
        "model.layers.{i}.",
        {
            "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
            "attention.out.weight": ("self_attn.o_proj.weight",),
            "mlp.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
            "mlp.down.weight": ("mlp.down_proj.weight",),
            "norm_attention.weight": ("input_layernorm.weight",),
            "norm_mlp.weight": ("post_attention_layernorm.weight",),
        },
        llama_sizes,
    ),
    "bert": Format(
        "bert.encoder.layer.0.attention.self.query.weight", "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight", "", "bert.encoder.layer.{i}.",
        {
            "attention.qkv.weight": (
                "attention.self.query.weight", "attention.self.key.weight", "attention.self.value.weight",
            ),
            "attention.out.weight": ("attention.output.dense.weight",),
        },
        bert_sizes, "bert.embeddings.position_embeddings.weight",
    ),
    "dit": Format(
        "backbone.blocks.0.attn_qkv.weight", "backbone.vocab_embed.embedding", "backbone.output_layer.linear.weight",
        "backbone.output_layer.norm_final.weight", "backbone.blocks.{i}.",
        {
            "attention.qkv.weight": ("attn_qkv.weight",),
            "attention.out.weight": ("attn_out.weight",),
            "norm_attention.weight": ("norm1.weight",),
            "norm_mlp.weight": ("norm2.weight",),
        },
        dit_sizes,
    ),
}  # fmt: skip

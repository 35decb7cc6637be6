"""An exported ProSeCo model, for `transformers`. Stands alone: torch and transformers only.

The network predicts every position at once. Give it ids with [MASK] where text is to be written;
logits at visible positions are its own opinion of them, which is what self-correction uses.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from .configuration_proseco import ProsecoConfig


class ProsecoForMaskedLM(PreTrainedModel):
    config_class = ProsecoConfig
    base_model_prefix = ""
    _no_split_modules = ["Block"]
    _keys_to_ignore_on_load_unexpected = [r"^quality\.", r"^policy\."]

    def __init__(self, config):
        super().__init__(config)
        conditioned = config.time_conditioning or config.num_classes > 0 or len(config.value_range) > 0
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.position_embed = nn.Embedding(config.num_positions, config.dim) if config.num_positions else None
        self.label_embed = nn.Embedding(config.num_classes + 1, config.dim) if config.num_classes else None
        if config.value_range:
            self.label_embed = ValueEmbedding(config.value_range, config.dim)
        self.time_embed = TimeEmbedding(config.dim) if config.time_conditioning else None
        self.blocks = nn.ModuleList(Block(config, conditioned) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        """Weights come from the file."""

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, class_labels=None, time=None, labels=None, **kwargs):
        x = self.embed(input_ids)
        if self.position_embed is not None:
            x = x + self.position_embed(torch.arange(input_ids.shape[1], device=x.device))
        condition = self.condition(input_ids, class_labels, time)
        rope = self.rotary_table(input_ids.shape[1], x)
        visible = None
        if self.config.attention_block:
            number = torch.arange(input_ids.shape[1], device=x.device) // self.config.attention_block
            visible = number <= number[:, None]
        for block in self.blocks:
            x = block(x, rope, condition, visible)
        hidden = self.norm(x)
        if self.config.shift_logits:
            hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
        logits = self.head(hidden)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
        return MaskedLMOutput(loss=loss, logits=logits)

    def condition(self, input_ids, class_labels, time):
        parts = []
        if self.label_embed is not None:
            if class_labels is None and self.config.value_range:
                class_labels = torch.full((input_ids.shape[0],), torch.nan, device=input_ids.device)
            elif class_labels is None:
                class_labels = input_ids.new_full((input_ids.shape[0],), self.config.num_classes)
            parts.append(self.label_embed(class_labels))
        if self.time_embed is not None:
            if time is None:
                raise ValueError("this model is conditioned on time: pass time [batch], in [0, 1]")
            parts.append(self.time_embed(time))
        return F.silu(sum(parts[1:], parts[0])) if parts else None

    def rotary_table(self, length, like):
        half = self.config.dim // self.config.heads // 2
        steps = torch.arange(half, device=like.device, dtype=torch.float32)
        frequencies = self.config.rope_theta ** (-steps / half)
        angles = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * frequencies
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class Block(nn.Module):
    def __init__(self, config, conditioned):
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_mlp = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = SwiGLU(config)
        self.modulation = nn.Linear(config.dim, 6 * config.dim) if conditioned else None

    def forward(self, x, rope, condition, visible=None):
        if self.modulation is None:
            x = x + self.attention(self.norm_attention(x), rope, visible)
            return x + self.mlp(self.norm_mlp(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + (1 + gate1) * self.attention(self.norm_attention(x) * (1 + scale1) + shift1, rope, visible)
        return x + (1 + gate2) * self.mlp(self.norm_mlp(x) * (1 + scale2) + shift2)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x, rope, visible=None):
        rows, length, dim = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v, attn_mask=visible)
        return self.out(y.transpose(1, 2).reshape(rows, length, dim))


class SwiGLU(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_up = nn.Linear(config.dim, 2 * config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class TimeEmbedding(nn.Module):
    def __init__(self, dim, num_frequencies=64, fastest=1000.0):
        super().__init__()
        self.num_frequencies, self.fastest = num_frequencies, fastest
        self.layers = nn.Sequential(nn.Linear(2 * num_frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time):
        exponents = torch.arange(self.num_frequencies, device=time.device) / self.num_frequencies
        angles = time[:, None].float() * self.fastest * torch.exp(-math.log(10000.0) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.layers(waves.to(self.layers[0].weight.dtype))


class ValueEmbedding(nn.Module):
    """Values [batch] of a property, NaN for none. Give them as class_labels."""

    def __init__(self, bounds, dim):
        super().__init__()
        self.low, self.high = bounds
        self.value = TimeEmbedding(dim, fastest=30.0)
        self.missing_embed = nn.Embedding(1, dim)

    def forward(self, x):
        missing = x.isnan()
        place = torch.where(missing, 0, (x - self.low) / (self.high - self.low))
        without = self.missing_embed(missing.new_zeros(len(x), dtype=torch.int64))
        return torch.where(missing[:, None], without, self.value(place))


def rotate(x, rope):
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

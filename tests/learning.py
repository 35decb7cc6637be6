"""What tests of objectives share: every configuration, small batches, a small network, gradients of sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from components.diffusion import noise
from components.diffusion.schedule import LogLinear
from components.models.config import ModelConfig
from components.models.transformer import Transformer
from components.objectives import config as c
from components.objectives.base import Batch, Setting, Term
from components.training.loop import build_objective

MASK, PAD, VOCAB, LENGTH = 0, 1, 7, 8
CONFIGS = [
    c.MdlmConfig(),
    c.ProsecoConfig(),
    c.ProsecoConfig(rollout=2, random_share=0.2, draft_token="sample"),
    c.PrismConfig(num_fills=2, draws=2),
    c.PrismConfig(num_fills=1, mdm_weight=0.0, frozen=True, select="confident", fill="argmax", head_layers=1),
    c.PrismConfig(num_fills=2, adapter_rank=3),
    c.DscConfig(step=0.2, head_layers=1),
    c.DscConfig(step=0.2, scope="visible", fill_from="extra", head_layers=0),
    c.CmlmConfig(),
    c.SmartConfig(),
    c.SmartConfig(plain_share=0.0, random_share=0.2, wrong_weight=3.0, fill="argmax"),
    c.DslConfig(noise_dim=8),
    c.DslConfig(noise_dim=8, roar_share=1.0),
    c.MapetConfig(),
    c.MapetConfig(context=0.0, streams="one", upper=0.8),
    c.PolicyImitationConfig(),
    c.PolicyGrpoConfig(rollouts=3),
    c.SoftMaskConfig(),
    c.SoftMaskConfig(base="proseco"),
    c.SoftMaskConfig(base="cmlm", share=0.5),
    c.SoftMaskConfig(base="smart"),
    c.SoftMaskConfig(base="prism"),
]
HEADS = ("quality.", "policy.")


def likes_even(tokens: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """A reward that untrained networks meet now and then."""
    return (tokens[:, -1] % 2 == 0).double()


def setting(reward=likes_even) -> Setting:
    return Setting(MASK, LogLinear(), 0.1, VOCAB, reward)


def network(config, seed=0, device="cpu", **changes) -> Transformer:
    torch.manual_seed(seed)
    made = ModelConfig(dim=16, depth=2, heads=2, num_positions=LENGTH, **changes)
    model = Transformer(dataclasses.replace(made, **config.model_changes()), VOCAB)
    nn.init.normal_(model.head.weight, std=0.3)
    return model.double().to(device)


def batch(rows=4, step=4, prompt=0, pads=0, seed=11, first=0, total=None, device="cpu") -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, VOCAB, (64, LENGTH), generator=generator)[first : first + rows]
    if pads:
        tokens[:, -pads:] = PAD
    maskable = (torch.arange(LENGTH) >= prompt).expand(rows, -1)
    target = maskable & (tokens != PAD)
    index = torch.arange(first, first + rows)
    tokens, maskable, target, index = (x.to(device) for x in (tokens, maskable, target, index))
    return Batch(tokens, maskable, target, index, noise.row_keys(seed, index), total or rows, step)


def cut(rows: Batch, sizes: list[int]) -> Batch:
    """The same rows, of which only so many positions each exist."""
    where = torch.tensor(sizes)
    there = (torch.arange(LENGTH) < where[:, None]).to(rows.tokens.device)
    return dataclasses.replace(rows, maskable=rows.maskable & there, target=rows.target & there, sizes=where)


def alone(rows: Batch) -> Iterator[Batch]:
    """Each row in a batch of its own, without what comes after it."""
    assert rows.sizes is not None
    for number, size in enumerate(rows.sizes.tolist()):
        one = rows.only(torch.tensor([number]))
        shorter = {name: getattr(one, name)[:, :size] for name in ("tokens", "maskable", "target")}
        yield dataclasses.replace(one, sizes=None, **shorter)


def terms_of(config, given, model, reward=likes_even) -> dict[str, Term]:
    """Every term of an objective on a batch, by name."""
    objective = build_objective(config, setting(reward))
    return {t.name: t for t in objective.terms(model, objective.corrupt(given))}


def gradients(config, batches, model, called=None) -> dict[str, torch.Tensor]:
    """Of the sums over all batches, divided by the global counts; the model is ``called`` as something else, if need be."""
    objective = build_objective(config, setting())
    corrupted = [objective.corrupt(b) for b in batches]
    totals: dict[str, float] = {}
    for rows in corrupted:
        for name, count in objective.counts(rows).items():
            totals[name] = totals.get(name, 0) + float(count)
    model.zero_grad()
    for rows in corrupted:
        for term in objective.terms(called or model, rows):
            if term.loss_sum.requires_grad:
                (term.loss_sum / max(1, totals[term.name])).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}

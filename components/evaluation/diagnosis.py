"""What a network knows of errors: planted ones, and those that it makes itself.

Some tokens of clean rows are made wrong, at random or by the network's own draw at a hidden position. Then

    AUROC of each score     does it rank wrong tokens below right ones? 0.5 is chance
    repair rate             share of wrong tokens at which its best token is the truth
    break rate              share of right tokens at which it is not
    preservation bias       probability that it gives a wrong token that it is shown
    edit precision, recall  of a corrector: edits that end right / edited positions; wrong tokens that end right
    flip-flop rate          positions that a corrector changes and changes back / edited positions

Truth is the data's row. Where several rows fit, a "wrong" token may be right in another one, so read AUROC and
repair beside the exact leave-one-out score, which is subject to the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from components.diffusion import noise, select
from components.diffusion.categorical import inverse_cdf, suppress
from components.diffusion.noise import Stream
from components.models.denoiser import Denoiser
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler

BATCH = 64


@dataclass(frozen=True)
class Planted:
    """Rows with errors. [N, L] each."""

    clean: Tensor
    shown: Tensor
    writable: Tensor
    """bool: not a prompt."""

    @property
    def wrong(self) -> Tensor:
        return self.shown != self.clean


@torch.inference_mode()
def plant(
    model: Denoiser, clean: Tensor, writable: Tensor, number: int, kind: str, vocabulary: Vocabulary, seed: int = 0
) -> Planted:
    """Make ``number`` writable tokens of each row wrong.

    Args:
        kind: ``random``: another token that occurs in the data; ``own``: a draw of the network with these positions
            hidden, again and again until it is wrong (a position where it never is, in 20 draws, stays right).
    """
    keys = noise.row_keys(seed, torch.arange(len(clean), device=clean.device))
    order = noise.uniform(keys, 0, 0, clean.shape[1], Stream.PAIR)
    where = select.best(order, writable, torch.full_like(clean[:, 0], number))
    if kind == "random":
        words = torch.unique(clean[writable])
        u = noise.uniform(keys, 1, 0, clean.shape[1], Stream.RANDOM_TOKEN)
        place = torch.searchsorted(words, clean)
        other = (place + 1 + (u * (len(words) - 1)).long()) % len(words)
        return Planted(clean, torch.where(where, words[other], clean), writable)
    hidden = clean.masked_fill(where, vocabulary.mask_id)
    p = torch.softmax(outputs(model, hidden, vocabulary), -1)
    shown = clean.clone()
    for attempt in range(20):
        u = noise.uniform(keys, attempt, 0, clean.shape[1], Stream.FILL)
        shown = torch.where(where & (shown == clean), inverse_cdf(p, u), shown)
    return Planted(clean, shown, writable)


def outputs(model: Denoiser, tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Logits [N, L, V] of rows, in batches."""
    time = torch.zeros(len(tokens), device=tokens.device)
    found = [model(tokens[i : i + BATCH], time=time[i : i + BATCH]).logits for i in range(0, len(tokens), BATCH)]
    return suppress(torch.cat(found), (vocabulary.mask_id, *vocabulary.never))


@torch.inference_mode()
def detection(model: Denoiser, planted: Planted, vocabulary: Vocabulary, has_quality: bool) -> dict[str, float]:
    """AUROC of every score that needs no history, and what the network says at the planted tokens."""
    wrong, shown, writable = planted.wrong, planted.shown, planted.writable
    right = writable & ~wrong
    logits = outputs(model, shown, vocabulary)
    p = torch.softmax(logits, -1)
    visible = p.gather(-1, shown[..., None])[..., 0]
    scores = {"visible": visible, "loo": leave_one_out(model, shown, writable, vocabulary)}
    if has_quality:
        found = [
            model(part, time=torch.zeros(len(part), device=part.device), heads=("quality",)).heads["quality"]
            for part in shown.split(BATCH)
        ]
        scores["quality"] = torch.cat(found)
    best = logits.argmax(-1)
    ranked = {f"auroc_{name}": auroc(score[wrong], score[right]) for name, score in scores.items()}
    return ranked | {
        "repair_rate": share(best == planted.clean, wrong),
        "break_rate": share(best != planted.clean, right),
        "preservation_bias": float(visible[wrong].mean()) if bool(wrong.any()) else float("nan"),
    }


def leave_one_out(model: Denoiser, shown: Tensor, writable: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Probability [N, L] of each token with itself hidden: L more passes."""
    found = torch.zeros(shown.shape, device=shown.device)
    for position in range(shown.shape[1]):
        if not bool(writable[:, position].any()):
            continue
        hidden = shown.clone()
        hidden[:, position] = vocabulary.mask_id
        p = torch.softmax(outputs(model, hidden, vocabulary)[:, position], -1)
        found[:, position] = p.gather(-1, shown[:, position, None])[:, 0]
    return found


def auroc(wrong: Tensor, right: Tensor) -> float:
    """P(score of a wrong token < score of a right one), ties counted half; NaN where a class is empty."""
    if not len(wrong) or not len(right):
        return float("nan")
    values, inverse = torch.unique(torch.cat([wrong, right]).double(), return_inverse=True)
    low = torch.bincount(inverse[: len(wrong)], minlength=len(values)).double()
    high = torch.bincount(inverse[len(wrong) :], minlength=len(values)).double()
    above = high.flip(0).cumsum(0).flip(0) - high
    return float((low * (above + high / 2)).sum() / (len(wrong) * len(right)))


def share(what: Tensor, among: Tensor) -> float:
    return float(what[among].double().mean()) if bool(among.any()) else float("nan")


def repair(
    model: Denoiser,
    planted: Planted,
    config: SamplerConfig,
    vocabulary: Vocabulary,
    extras: Extras,
    num_hidden: int = 1,
) -> dict[str, float]:
    """What a corrector makes of the planted rows: precision, recall and flip-flops of its edits, and its cost.

    ``num_hidden`` right tokens of each row are masked, because most samplers end with the last mask.
    """
    device = planted.clean.device
    keys = noise.row_keys(1, torch.arange(len(planted.clean), device=device))
    order = noise.uniform(keys, 0, 0, planted.clean.shape[1], Stream.PAIR)
    right = planted.writable & ~planted.wrong
    hidden = select.best(order, right, torch.full_like(planted.clean[:, 0], num_hidden))
    canvas = planted.shown.masked_fill(hidden, vocabulary.mask_id)
    rows = [
        Row(i, tuple(t), tuple(f), trace=True)
        for i, (t, f) in enumerate(zip(canvas.tolist(), (~planted.writable).tolist(), strict=True))
    ]
    sampler = build_sampler(config, vocabulary, extras)
    engine = Engine(lambda _, length: Session(model, sampler, length, BATCH, device=str(device)))
    samples = sorted(engine.run(config, rows), key=lambda s: s.id)
    tokens = torch.tensor([s.tokens for s in samples], device=device)
    edited, back = torch.zeros_like(hidden), torch.zeros_like(hidden)
    for sample in samples:
        history: dict[int, list[int]] = {}
        for edit in sample.trace:
            if edit.reason != "reveal":
                edited[sample.id, edit.position] = True
            seen = history.setdefault(edit.position, [int(canvas[sample.id, edit.position])])
            words = [t for t in seen if t != vocabulary.mask_id]
            if edit.new in words and edit.new != vocabulary.mask_id:
                back[sample.id, edit.position] = True
            seen.append(edit.new)
    edited = edited & ~hidden
    ends_right = tokens == planted.clean
    return {
        "edit_precision": share(ends_right, edited),
        "edit_recall": share(ends_right, planted.wrong),
        "flip_flop_rate": share(back, edited),
        "edits": float(edited.sum() / len(rows)),
        "calls": sum(s.calls for s in samples) / len(samples),
    }


def diagnose(
    model: Denoiser,
    clean: Tensor,
    writable: Tensor,
    vocabulary: Vocabulary,
    info: dict[str, Any],
    number: int,
    correctors: dict[str, SamplerConfig],
    extras: Extras,
) -> list[dict[str, Any]]:
    """One line for each kind of error, and one for each kind and corrector.

    A quarter of a row, at least four tokens, is hidden from correctors and written one a tick, so that those that
    act in a window of the ticks, or give back no more masks than are left, have room to act.
    """
    num_hidden = max(4, clean.shape[1] // 4)
    lines: list[dict[str, Any]] = []
    for kind in ("random", "own"):
        planted = plant(model, clean, writable, number, kind, vocabulary)
        has_quality = int(info.get("quality_layers", -1)) >= 0
        head = {"kind": kind, "share_wrong": share(planted.wrong, writable)}
        lines.append(head | detection(model, planted, vocabulary, has_quality))
        for name, config in correctors.items():
            ticks = replace(config, steps=num_hidden) if config.steps else config
            lines.append(head | {"corrector": name} | repair(model, planted, ticks, vocabulary, extras, num_hidden))
    return lines

"""A run for what was found: tokenizer, lengths, sizes and steps, each with its reason, fitted into the time that was asked for."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components.data.config import TokenizerConfig
from components.data.documents import Document
from components.data.tokenizer import build_tokenizer
from components.models.config import MODEL_PRESETS, ModelConfig
from components.models.transformer import Transformer
from pipelines.new.look import COUNTED, Looked

SMALL_ALPHABET = 128
"""Characters of an alphabet that needs no merges."""
SHORT = 256
"""Tokens of a document that has a row of its own."""
PACKED = 128
"""Tokens of a row of longer text."""
ROWS = 4
"""Whose forward and backward are timed."""
WORTH = 1500
"""Forward-backwards of a batch without which a larger network is not worth its size."""
SIZES = ("nano", "micro", "mini", "small", "medium", "large")
STEPS = (200, 20_000)
"""The fewest and the most of a training."""
PASSES = 30
"""Over the data, at most."""
BATCH = 64
MAX_TICKS = 32
"""Of the sampler that corrects: what first samples wait for grows with it."""


@dataclass(frozen=True)
class Line:
    """One entry of a file: a value, or further lines, and why it is so."""

    key: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Words:
    """How text becomes rows."""

    kind: str
    vocab_size: int
    length: int
    packed: bool
    varied: bool
    """Documents have different lengths."""
    longest: int
    """Tokens of the longest document of the sample."""
    usual: int
    """Of which 99% of documents have no more."""


def propose(looked: Looked, name: str, minutes: float, size: str = "") -> list[Line]:
    """The lines of a run.

    Args:
        name: of the run and its corpus.
        minutes: that the trainings may take on this machine.
        size: preset of the network; empty takes the largest that the time allows.
    """
    words = words_of(looked)
    cores = min(2, os.cpu_count() or 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = {}
    for preset in [size] if size else SIZES:
        seconds[preset] = seconds_of(ModelConfig(preset=preset), words, device) / (cores if device.type == "cpu" else 1)
        if 60 * minutes / (seconds[preset] * BATCH) < WORTH:
            break
    preset = size or [p for p, s in seconds.items() if p == SIZES[0] or 60 * minutes / (s * BATCH) >= WORTH][-1]
    batch = next((b for b in (BATCH, 32, 16) if 60 * minutes / (seconds[preset] * b) >= WORTH / 2), 8)
    fits = 60 * minutes / (seconds[preset] * batch)
    passes = int(min(max(fits, STEPS[0]), STEPS[1], PASSES * looked.total // batch + STEPS[0]))
    network = ModelConfig(preset=preset)
    return [
        Line("name", name),
        Line("corpora", [Line(name, corpus(looked))], found(looked)),
        Line("tokenizer", tokenizer(words), WHY_WORDS[words.kind]),
        *rows(looked, words),
        model(looked, words, network, f"The largest whose training fits into {minutes:g} minutes here." if not size else "As asked."),
        trainings(looked, passes, batch, f"{passes} forward-backwards of {batch} rows take about {passes / fits * minutes:.1f} minutes here."),
        generate(looked, cores),
        samplers(looked, words),
        *scorers(looked),
        Line("runtime", {"workers": cores, "replicas": cores} | ({"gpus": 1} if device.type == "cuda" else {}), "Of this machine."),
    ]


def seconds_of(config: ModelConfig, words: Words, device: torch.device) -> float:
    """What one row's forward and backward takes on one core, or on a GPU, measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = Transformer(config, words.vocab_size).to(device)
    tokens = torch.zeros(ROWS, words.length, dtype=torch.int64, device=device)
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        network(tokens).logits.logsumexp(-1).sum().backward()
        assert network.head.weight.grad is not None
        float(network.head.weight.grad[0, 0])  # which waits for the device
        took.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return min(took) / ROWS


def found(looked: Looked) -> str:
    """What is known of the data, in words."""
    many = f"{looked.total:,}" + (" or more" if looked.total + looked.bad >= COUNTED else "")
    bad = f", and {looked.bad:,} that cannot be used" if looked.bad else ""
    fields = f" Fields: {'; '.join(map(str, looked.fields))}." if looked.fields else ""
    return f"{many} documents{bad}.{fields}"


def words_of(looked: Looked) -> Words:
    """The tokenizer that fits, and how many tokens documents come to with it."""
    texts = [d.prompt + d.text for d in looked.documents]
    alphabet = len(set("".join(texts)))
    characters = sum(map(len, texts)) * max(1.0, looked.total / len(texts))
    if looked.kind == "molecules":
        kind, size = "smiles", 0
    elif looked.kind == "puzzle" or (alphabet <= SMALL_ALPHABET and np.percentile([len(t) for t in texts], 99) <= SHORT):
        kind, size = "characters", 0
    else:
        kind, size = "bpe", int(2 ** min(11, max(9, round(math.log2(characters / 500)))))
    made = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=max(size, 300)), texts)  # type: ignore[arg-type]
    counts = [len(ids) + 1 for ids in made.encode_batch(texts)]
    usual, longest = int(np.percentile(counts, 99)), max(counts)
    packed = looked.kind == "text" and usual > SHORT
    length = PACKED if packed else min(SHORT, -(-(longest if looked.kind != "text" else usual) // 4) * 4)
    varied = looked.kind != "puzzle" or len(set(counts)) > 1
    if not varied:
        length = longest - 1  # every row is full, so none needs an end
    return Words(kind, max(size, made.vocab_size), length, packed, varied, longest, usual)


WHY_WORDS = {
    "smiles": "One token for each atom, bond, branch and ring.",
    "characters": "A small alphabet and short documents: one token a character.",
    "bpe": "Merges learned on the corpus, the more of them the larger it is.",
}


def corpus(looked: Looked) -> list[Line]:
    share = min(0.2, max(0.02, round(100 / looked.total, 3)))
    lines = [Line("source", dict(looked.source))]
    if share != 0.02:
        lines.append(Line("validation_share", share, f"About {share * looked.total:.0f} documents to validate on."))
    if looked.bad:
        most = round(1.5 * looked.bad / (looked.total + looked.bad) + 0.01, 3)
        lines.append(Line("max_bad_share", min(1.0, most), f"{looked.bad:,} documents cannot be used; the quarantine says why."))
    return lines


def tokenizer(words: Words) -> dict[str, Any]:
    return {"kind": words.kind} | ({"vocab_size": words.vocab_size} if words.kind == "bpe" else {})


def rows(looked: Looked, words: Words) -> list[Line]:
    """How documents become rows."""
    if words.packed:
        why = f"Documents have up to {words.longest:,} tokens, so they are joined and cut."
        return [Line("rows", {"length": words.length, "layout": "packed"}, why)]
    plain: dict[str, Any] = {"length": words.length, "layout": "document"}
    why = f"The longest of the documents that were looked at has {words.longest} tokens, its end included; 99% have at most {words.usual}."
    if words.varied:
        plain["end_token"] = True
        if looked.kind in ("text", "pairs"):
            plain["too_long"] = "cut"
            why += " Longer ones are cut off."
        if words.length >= 64:
            plain["buckets"] = [n for n in (32, 64, 128) if n <= words.length // 2]
    return [Line("rows", plain, why)]


def model(looked: Looked, words: Words, network: ModelConfig, why: str) -> Line:
    plain: dict[str, Any] = {"preset": network.preset}
    if looked.kind == "puzzle":
        plain["num_positions"] = words.length
        why += " Places of a puzzle have a meaning of their own."
    if field := looked.source.get("label_field"):
        plain["num_classes"] = 1 + int(max(d.label or 0 for d in looked.documents))
        why += f" Classes of {field}."
    if field := looked.source.get("value_field"):
        low, high = np.percentile(values(looked.documents), [1, 99])
        plain["value_range"] = [tidy(low), tidy(high if high > low else low + 1)]
        why += f" 98% of the values of {field} lie between these."
    width = MODEL_PRESETS[network.preset]
    return Line("model", plain, f"{width['dim']} wide, {width['depth']} blocks. {why}")


def values(documents: Sequence[Document]) -> list[float]:
    return [d.label for d in documents if d.label is not None]


def tidy(value: float) -> float:
    """Three digits of a number."""
    return float(f"{value:.3g}")


def labelled(looked: Looked) -> bool:
    return bool(looked.source.get("label_field") or looked.source.get("value_field"))


def trainings(looked: Looked, passes: int, batch: int, why: str) -> Line:
    """A base, and ProSeCo from there: a third of the work, each step of it two forward-backwards."""
    base, further = max(100, round(passes * 0.6)), max(50, round(passes * 0.2))
    hidden = {"label_dropout": 0.1} if labelled(looked) else {}
    common = {"batch_rows": batch, **hidden}

    def training(objective: str, steps: int, lr: float, **more: Any) -> dict[str, Any]:
        optimizer = {"lr": lr, "schedule": "cosine", "warmup_steps": max(5, steps // 20)}
        return {**more, "objective": objective, "steps": steps, **common, "optimizer": optimizer, "validate_every": max(1, steps // 5), "checkpoint_every": max(1, steps // 2)}

    return Line(
        "train",
        [
            Line("base", training("mdlm", base, 2e-3), "Plain masked diffusion." + (" A tenth of the rows hide their label, for guidance." if hidden else "")),
            Line("proseco", training("proseco", further, 1e-3, init_from="base"), "Learns to correct its own drafts, from there."),
        ],
        why,
    )


def generate(looked: Looked, replicas: int) -> Line:
    number = 256 if looked.kind in ("puzzle", "molecules") else 32
    share = number // replicas
    plain: dict[str, Any] = {"num_samples": number, "shard_rows": share, "lanes": min(64, share)}
    why = "For each sampler, shared by all replicas."
    if looked.kind == "pairs" or looked.documents[0].prompt:
        plain["prompts"] = "validation"
        why = "Prompts of the validation split are continued."
    if looked.source.get("value_field"):
        plain["labels"] = [tidy(v) for v in np.percentile(values(looked.documents), [10, 50, 90])]
        why += f" In turn for a low, a usual and a high {looked.source['value_field']}."
    elif looked.source.get("label_field"):
        plain["labels"] = list(range(1 + int(max(values(looked.documents)))))
        why += " Each class in turn."
    return Line("generate", plain, why)


def samplers(looked: Looked, words: Words) -> Line:
    """Plain masked diffusion against ProSeCo at equal calls: each of its ticks is two."""
    ticks = min(max(2, words.length // 4), MAX_TICKS)
    plain = "mdlm" if looked.kind in ("text", "molecules") else "confidence"  # which repeats itself where much is right
    corrected = "proseco" if looked.kind == "text" else "proseco_confidence"
    drawn = {"draw": {"top_p": 0.9}} if looked.kind in ("text", "pairs") else {}
    guided = {"guidance": {"gamma": 1.0, "without": "label"}} if labelled(looked) else {}
    return Line(
        "samplers",
        [
            Line("plain", {"model": "base", "sampler": {"preset": plain, **drawn, **guided}, "steps": [2 * ticks]}),
            Line("corrected", {"model": "proseco", "sampler": {"preset": corrected, **drawn, **guided}, "steps": [ticks]}),
        ],
        f"Both at {2 * ticks} calls of the network a row" + (", twice that with guidance." if guided else "."),
    )


def scorers(looked: Looked) -> list[Line]:
    """What tells good samples."""
    if looked.kind == "puzzle":
        return [Line("scorers", {"validity": {}, "entropy": {}}, "Does a row obey the rules?"), Line("metric", "validity")]
    if looked.kind == "molecules" and importlib.util.find_spec("rdkit") is not None:
        measured = {f.name.lower() for f in looked.fields} & {"qed", "logp", "weight", "rings", "heavy_atoms"}
        field = str(looked.source.get("value_field", "")).lower()
        plain = {"molecule": {"measured": field} if field in measured else {}, "entropy": {}}
        return [Line("scorers", plain, "Is it a molecule that can be?"), Line("metric", "molecule")]
    why = "An n-gram model of the corpus judges; its perplexity falls when diversity does, so both are told."
    return [Line("scorers", {"judge": {}, "entropy": {}, "distinct": {}}, why), Line("metric", "judge")]

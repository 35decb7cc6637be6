"""A folder that is the whole model: weights, config, tokenizer, card, and code that imports nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from components.data.tokenizer import END, MASK, PAD, UNKNOWN, Tokenizer
from components.models.config import ModelConfig
from components.models.weights import save_weights
from components.store.files import publish_text, publishing

HF = Path(__file__).parent / "hf"


def write_export(
    folder: Path,
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    length: int,
    trained_with: str,
    visible_supervision: bool,
    numbers: Mapping[str, float],
    vocab_size: int = 0,
    paper: str = "",
    trained_precision: str = "fp32",
) -> None:
    """Write all files of an exported model into ``folder``.

    Args:
        vocab_size: rows of the embedding where they are more than the tokenizer knows.
        trained_precision: fp32, or bf16 for a network that may be run in it.
    """
    config = asdict(model.resolved()) | {
        "model_type": "proseco",
        "architectures": ["ProsecoForMaskedLM"],
        "vocab_size": vocab_size or tokenizer.vocab_size,
        "length": length,
        "mask_token_id": tokenizer.mask_id,
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.end_id,
        "trained_with": trained_with,
        "visible_supervision": visible_supervision,
        "trained_precision": trained_precision,
    }
    alone = model.encoder == "tokens"  # the standing-alone code knows no noisy embeddings
    if alone:
        config["auto_map"] = {
            "AutoConfig": "configuration_proseco.ProsecoConfig",
            "AutoModel": "modeling_proseco.ProsecoForMaskedLM",
            "AutoModelForMaskedLM": "modeling_proseco.ProsecoForMaskedLM",
        }
    special = {"mask_token": MASK, "pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    with publishing(folder / "model.safetensors") as private:
        save_weights(private, weights, {"format": "pt"})
    with publishing(folder / "tokenizer.json") as private:
        tokenizer.save(private)
    for source in sorted(HF.glob("*_proseco.py")) if alone else ():
        publish_text(folder / source.name, source.read_text(encoding="utf-8"))
    publish_text(folder / "config.json", json.dumps(config, indent=1))
    publish_text(
        folder / "tokenizer_config.json",
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **special}, indent=1),
    )
    publish_text(folder / "README.md", card(config, numbers, paper))


def card(config: Mapping[str, object], numbers: Mapping[str, float], paper: str) -> str:
    """The model card."""
    trained_with = str(config["trained_with"])
    table = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(numbers.items()))
    corrects = (
        "It was trained at visible positions, so correctors that replace tokens work on it."
        if config["visible_supervision"]
        else "It was never trained at visible positions: do not use correctors that replace tokens."
    )
    origin = f"Trained with **{trained_with}**."
    if paper:
        origin = f"Trained with **{trained_with}** ({paper})."
    return f"""---
library_name: transformers
tags: [dllm, masked-diffusion, proseco]
---
# A masked diffusion language model

{origin} {corrects}

    from components.api import load, sample
    rows = sample(load("."), num_samples=4)

or, without proseco (the folder's code is run, so look at it first):

    from transformers import AutoModelForMaskedLM, AutoTokenizer
    model = AutoModelForMaskedLM.from_pretrained(".", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=False)

| size | |
|---|---|
| width x depth | {config["dim"]} x {config["depth"]} |
| vocabulary | {config["vocab_size"]} |
| trained row length | {config["length"]} |

| number at the end of training | |
|---|---|
{table}

Limits: it knows rows of the trained length, and what it writes is not checked.
"""

"""Write the averaged weights as a folder that loads with and without proseco."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from components.data.tokenizer import load_tokenizer
from components.models.exchange.export import write_export
from components.models.weights import merge_adapters
from components.training import checkpoint
from pipelines.graph.stage import Context
from pipelines.stages.spec import ExportSpec
from pipelines.stages.train import final


def run(config: ExportSpec, context: Context) -> Mapping[str, Any]:
    last = final(context.inputs["train"])
    kind = "ema" if config.averaged else "weight"
    weights = {name: tensor for _, name, tensor in checkpoint.read(last, (kind,))}
    weights = merge_adapters(weights)
    tokenizer = load_tokenizer(context.inputs["tokenizer"] / "tokenizer.json")
    numbers = {k: v for k, v in context.infos["train"].items() if isinstance(v, int | float)}
    write_export(
        context.folder, dataclasses.replace(config.model, mask_id=tokenizer.mask_id, adapter_rank=0), weights, tokenizer, config.length, config.trained_with,
        config.visible_supervision, numbers, paper=config.paper,
        trained_precision=config.trained_precision,
    )  # fmt: skip
    return {"parameters": sum(w.numel() for w in weights.values())}

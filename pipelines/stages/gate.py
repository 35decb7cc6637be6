"""Compare a candidate with the champion by the stated rule, on rows that both have scores of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from components.evaluation.gate import compare, verdict
from components.store.files import publish_text
from components.store.samples import read_shards
from pipelines.graph.stage import Context
from pipelines.stages.spec import GateSpec


def run(config: GateSpec, context: Context) -> Mapping[str, Any]:
    measured = []
    for table, rules in config.rules.items():
        champion, candidate = (
            read_shards(context.inputs[role] / "shards", context.infos[role]["shards"])
            for role in (f"{table}_champion", f"{table}_candidate")
        )
        by_prompt = config.by_prompt and table == "samples"
        measured += [compare(rule, champion, candidate, config.confidence, by_prompt) for rule in rules]
    wins, why = verdict(measured)
    found = {"wins": wins, "why": why, "measured": [asdict(m) for m in measured]}
    publish_text(context.folder / "verdict.json", json.dumps(found, indent=1))
    return found | {"artifacts": ["verdict.json"]}

"""What samplers there are, for whoever lets people choose: names, summaries, and every option at its value."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from fastapi import FastAPI

from components.options.classes import as_plain
from components.samplers import PRESETS, preset


@cache
def all_samplers() -> list[dict[str, Any]]:
    """Every preset. ``options`` are nested as a request's are, and a part says its name."""
    return [
        {
            "id": name,
            "object": "sampler",
            "summary": named.summary,
            "paper": named.paper,
            "options": json.loads(json.dumps(preset(name), default=as_plain)),
        }
        for name, named in PRESETS.items()
    ]


def add_samplers(app: FastAPI) -> None:
    @app.get("/v1/samplers")
    async def samplers() -> dict[str, Any]:
        """The samplers and their options; GET /v1/models says which of them each model can be run with."""
        return {"object": "list", "data": all_samplers()}

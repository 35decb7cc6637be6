"""Sampling and scoring over HTTP: the same replicas behind Ray Serve's proxy."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from components.errors import ProsecoError

MAX_SAMPLES = 256
MAX_CALLS = 4096


class Endpoint:
    """One replica with one model."""

    def __init__(self, folder: str, threads: int):
        from components.api import load
        from components.models.cpu import use_threads

        self.use_threads, self.threads = use_threads, threads
        self.model = load(folder)

    async def __call__(self, request: Request) -> JSONResponse:
        routes: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
            ("POST", "/v1/sample"): self.sample,
            ("POST", "/v1/score"): self.score,
        }
        if request.url.path == "/healthz":
            return JSONResponse({"status": "ok", "trained_with": self.model.info["trained_with"]})
        route = routes.get((request.method, request.url.path))
        if route is None:
            return JSONResponse(
                {"error": f"no {request.method} {request.url.path}; use {', '.join(p for _, p in routes)}"}, 404
            )
        try:
            body = await request.json()
            if not isinstance(body, dict):
                raise ValueError("the body must be a JSON object")
            return JSONResponse(await asyncio.to_thread(route, body))
        except (ProsecoError, ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)

    def sample(self, body: dict[str, Any]) -> dict[str, Any]:
        from components.api import sample

        self.use_threads(self.threads)
        options = dict(body.get("options", {}))
        prompts, number = body.get("prompts", [""]), int(body.get("num_samples", 1))
        if not 1 <= number * len(prompts) <= MAX_SAMPLES:
            raise ValueError(f"{number * len(prompts)} samples were asked for; one request gives 1 to {MAX_SAMPLES}")
        if not 1 <= int(options.get("steps", 32)) <= MAX_CALLS:
            raise ValueError(f"options.steps must be 1 to {MAX_CALLS}")
        rows = sample(
            self.model, body.get("sampler", "mdlm"), number, prompts, seed=int(body.get("seed", 0)),
            trace=bool(body.get("trace", False)), **options,
        )  # fmt: skip
        return {
            "samples": [
                {
                    "prompt": r.prompt, "text": r.text, "id": r.sample.id, "calls": r.sample.calls,
                    "edits": r.sample.edits, "trace": [dataclasses.asdict(e) for e in r.sample.trace],
                }
                for r in rows
            ]
        }  # fmt: skip

    def score(self, body: dict[str, Any]) -> dict[str, Any]:
        from components.api import score

        self.use_threads(self.threads)
        rows = [self.row(str(text)) for text in body["texts"]]
        return {"scores": score(self.model, rows, body.get("scorers", ["nelbo"]))}

    def row(self, text: str) -> Any:
        """A given text as if it had been sampled."""
        from components.api import Text
        from components.samplers.engine import Sample

        tokenizer, length = self.model.tokenizer, int(self.model.info["length"])
        ids = tokenizer.encode_batch([text])[0]
        if len(ids) > length:
            raise ValueError(f"{len(ids)} tokens are more than the trained length {length}")
        padded = tuple(ids + [tokenizer.pad_id] * (length - len(ids)))
        return Text(text, "", Sample(0, padded, 0, 0.0, 0, 0))


def serve_forever(model: Path, host: str, port: int, replicas: int, threads: int, say: Callable[[str], None]) -> None:
    """Serve on the open cluster until SIGINT or SIGTERM."""
    serve.start(http_options={"host": host, "port": port})
    deployment = serve.deployment(num_replicas=replicas, max_ongoing_requests=4, max_queued_requests=64)(Endpoint)
    serve.run(deployment.bind(str(model), threads), name="endpoint", route_prefix="/")
    say(f"serving {model} on http://{host}:{port} (process {os.getpid()}); stop with Ctrl-C")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()

"""Sampling and scoring over HTTP: the same replicas behind Ray Serve's proxy."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from cluster.replicas import Replicas
from cluster.shared_engine import SharedEngine
from components.api import Text, ask, load, read_texts, score
from components.errors import ConfigError, Problem, ProsecoError
from components.models.cpu import use_threads
from components.options import Count, Seed, options, parse
from components.samplers import SamplerConfig, preset
from components.samplers.needs import check_needs
from components.shards.model import Sampling, engine_of

MAX_SAMPLES = 256
NUM_LANES = 64
"""Rows of all requests that share a forward."""
MAX_STEPS = 4096


@options
class SampleRequest:
    """Body of POST /v1/sample."""

    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = ("",)
    """Texts to continue."""
    num_samples: Count = 1
    """Of each prompt."""
    sampler: str = "mdlm"
    """Name of a preset."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the preset should have otherwise, nested as in a run's YAML."""
    seed: Seed = 0
    """The same request with the same seed gives the same rows."""
    trace: bool = False
    """Tell every edit."""


@options
class ScoreRequest:
    """Body of POST /v1/score."""

    texts: Annotated[tuple[str, ...], Field(min_length=1)]
    """What is scored."""
    scorers: tuple[str, ...] = ("nelbo",)
    """Names of scorers."""


class Endpoint:
    """One replica with one model."""

    def __init__(self, folder: str, replicas: Replicas):
        self.threads = threads = replicas.threads
        self.model = load(folder, replicas.placement.device, replicas.placement.dtype)
        lanes = Sampling(sampler=SamplerConfig(), num_lanes=NUM_LANES)
        self.engine = SharedEngine(engine_of(self.model, lanes), lambda: use_threads(threads))

    async def __call__(self, request: Request) -> JSONResponse:
        routes: dict[tuple[str, str], Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
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
            return JSONResponse(await route(body))
        except (ProsecoError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)

    async def sample(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = parse(SampleRequest, body)
        number = asked.num_samples * len(asked.prompts)
        if number > MAX_SAMPLES:
            rule = f"at most {MAX_SAMPLES} samples of one request"
            raise ConfigError([Problem("num_samples", asked.num_samples, rule, "ask several times")])
        sampler = preset(asked.sampler, **asked.options)
        if sampler.steps > MAX_STEPS:
            raise ConfigError([Problem("options.steps", sampler.steps, f"at most {MAX_STEPS}", "lower it")])
        check_needs(sampler, self.model.info, allow_untrained=False)
        rows = ask(self.model, asked.prompts, asked.num_samples, seed=asked.seed, trace=asked.trace)
        samples = await self.engine.sample(sampler, [row for _, row in rows])
        return {"samples": [described(row) for row in read_texts(self.model, rows, samples)]}

    async def score(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = parse(ScoreRequest, body)

        def scores() -> dict[str, list[float]]:
            use_threads(self.threads)
            return score(self.model, asked.texts, asked.scorers)

        return {"scores": await asyncio.to_thread(scores)}


def described(row: Text) -> dict[str, Any]:
    """A sample as JSON."""
    trace = [dataclasses.asdict(edit) for edit in row.sample.trace]
    numbers = {"id": row.sample.id, "calls": row.sample.calls, "edits": row.sample.edits}
    return {"prompt": row.prompt, "text": row.text, **numbers, "trace": trace}


def serve_forever(model: Path, host: str, port: int, replicas: Replicas, say: Callable[[str], None]) -> None:
    """Serve on the open cluster until SIGINT or SIGTERM."""
    serve.start(http_options={"host": host, "port": port})
    deploy(model, replicas)
    where = f"{replicas.placement.device} in {replicas.placement.dtype}"
    say(f"serving {model} from {where} on http://{host}:{port} (process {os.getpid()}); stop with Ctrl-C")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()


def deploy(model: Path, replicas: Replicas) -> None:
    """Start the replicas; returns when they answer."""
    limits = {"max_ongoing_requests": 16, "max_queued_requests": 64}
    deployment = serve.deployment(**limits, **replicas.wanted())(Endpoint)
    serve.run(deployment.bind(str(model), replicas), name="endpoint", route_prefix="/")

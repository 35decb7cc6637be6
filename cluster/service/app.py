"""The routes. Where the application runs, and where its replicas are, is not its business."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.service import rows, work
from cluster.service.answers import ChatCompletion, Completion, Scores, reply_to
from cluster.service.bodies import ChatRequest, CompletionRequest, Decoding, ScoreRequest, read_body
from cluster.service.docs import page_of
from cluster.service.errors import ApiError, busy, failed
from cluster.service.gate import Doors, Gate
from cluster.service.jobs import Jobs
from cluster.service.limits import ServiceLimits
from cluster.service.metrics import Metrics
from cluster.service.model import ServedModel
from cluster.service.samplers import add_samplers
from cluster.service.shelf import Shelf
from cluster.service.tables import add_tables
from components.options import json_schema, nearest
from components.samplers import PRESETS, preset
from components.samplers.needs import missing

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
NUMBERS_S = 2.0
"""How long a replica may take to tell its numbers."""

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    for code, text in {
        400: "The request breaks a rule; the message names path, value, rule and remedy.",
        401: "No key, or an unknown one.",
        403: "Without keys: a request for another host, or from a page of another origin.",
        404: "No such model or path.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        415: "The body is not said to be application/json.",
        429: "The key has used up what it may; see Retry-After.",
        500: "The service failed.",
        503: "There is no room now; see Retry-After.",
        504: "Not done within the deadline.",
    }.items()
}
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def takes(kind: Any, gives: type[BaseModel]) -> dict[str, Any]:
    """The description of a route by its body and its answer."""
    body = {"required": True, "content": {"application/json": {"schema": json_schema(kind)}}}
    streamed = {"text/event-stream": {"schema": {"type": "string"}}} if issubclass(kind, Decoding) else {}
    answer: dict[int | str, dict[str, Any]] = {200: {"model": gives, "content": streamed}}
    return {"openapi_extra": {"requestBody": body}, "responses": answer | ERRORS}


class Service:
    """What the routes share."""

    def __init__(self, shelf: Shelf, limits: ServiceLimits, metrics: Metrics, jobs: Jobs):
        self.shelf, self.limits, self.metrics, self.jobs = shelf, limits, metrics, jobs
        metrics.registry.register(jobs)

    def model(self, name: str) -> ServedModel:
        """The model that a request names. Raises ApiError where there is none, or it has to be named."""
        known = self.shelf.names
        if not name and len(known) == 1:
            return self.shelf.pick(known[0])
        if name not in self.shelf:
            text = f"model = {name!r:.200}: one of {', '.join(known)}. Remedy: {nearest(name, known)}."
            raise ApiError(404 if name else 400, text, param="model", code="model_not_found")
        return self.shelf.pick(name)

    async def text(
        self, request: Request, model: ServedModel, body: Decoding, prompts: tuple[str, ...], kind: str
    ) -> Response:
        """Rows for a request, streamed or whole."""
        asked = await asyncio.to_thread(rows.ask, model, body, prompts, self.limits)
        if request.state.account is not None:
            request.state.account.charge(len(asked.job.rows))
        reply = reply_to(asked, kind)
        if body.stream:
            events = work.stream(model.backend, reply, self.limits.heartbeat_s)
            return EventStream(await anext(events), events)
        samples = await work.unless_gone(work.samples_of(model.backend, asked.job), request.receive)
        return JSONResponse(await asyncio.to_thread(reply.whole, samples))

    async def score(self, request: Request, body: ScoreRequest) -> Response:
        model = self.model(body.model)
        await asyncio.to_thread(rows.check_score, model, body, self.limits)
        if request.state.account is not None:
            request.state.account.charge(len(body.texts))
        seconds = rows.deadline_of(body.deadline_s, self.limits)
        scoring = work.by_deadline(model.backend.score(body.texts, body.scorers), seconds)
        columns = await work.unless_gone(scoring, request.receive)
        known = {name: [x if math.isfinite(x) else None for x in column] for name, column in columns.items()}
        return JSONResponse({"object": "scores", "model": model.name, "scores": known})

    async def told(self) -> None:
        """Ask all replicas for their numbers, and read those of batch jobs."""
        await self.jobs.read()
        models = self.shelf.all()
        asked = await asyncio.gather(
            *(asyncio.wait_for(m.backend.numbers(), NUMBERS_S) for m in models), return_exceptions=True
        )
        self.metrics.replicas.told = [
            (m.name, n)
            for m, found in zip(models, asked, strict=True)
            if not isinstance(found, BaseException)
            for n in found
        ]

    async def ready(self) -> bool:
        asked = [asyncio.wait_for(m.backend.ready(), NUMBERS_S) for m in self.shelf.current()]
        return all(found is True for found in await asyncio.gather(*asked, return_exceptions=True))


class EventStream(StreamingResponse):
    """Server-sent events, which are ended when the client leaves."""

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]):
        self.events = events
        super().__init__(self.all(first), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def all(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        async for event in self.events:
            yield event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.events.aclose()


def build_app(
    shelf: Shelf, limits: ServiceLimits, doors: Doors, tables: Path | None = None
) -> ASGIApp:
    """The application for these models, and for the tables and jobs of a root."""
    metrics = Metrics(shelf)
    service = Service(shelf, limits, metrics, Jobs(tables))
    app = FastAPI(title="proseco", version="1", docs_url=None, redoc_url=None, summary=SUMMARY)
    app.add_exception_handler(ApiError, said)
    app.add_exception_handler(HTTPException, said)
    app.add_exception_handler(Exception, said)
    add_texts(app, service)
    add_samplers(app)
    add_tables(app, tables, ERRORS)
    add_numbers(app, service)
    describe(app)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Gate(app, limits, doors, metrics, sum(m.backend.num_replicas for m in shelf.current()))


SUMMARY = "Texts of masked diffusion models, which are written all over at once and corrected while they are written."


def add_texts(app: FastAPI, service: Service) -> None:
    """What the service is for."""

    @app.post("/v1/completions", **takes(CompletionRequest, Completion))
    async def completions(request: Request) -> Response:
        """Continue prompts, or fill the holes of a template."""
        body = await asyncio.to_thread(read_body, CompletionRequest, await request.body())
        return await service.text(request, service.model(body.model), body, body.prompt, "text_completion")

    @app.post("/v1/chat/completions", **takes(ChatRequest, ChatCompletion))
    async def chat(request: Request) -> Response:
        """Answer a conversation, for models with a chat template."""
        body = await asyncio.to_thread(read_body, ChatRequest, await request.body())
        model = service.model(body.model)
        prompt = await asyncio.to_thread(model.chat, body.messages)
        return await service.text(request, model, body, (prompt,), "chat.completion")

    @app.post("/v1/score", **takes(ScoreRequest, Scores))
    async def score(request: Request) -> Response:
        """Score texts, e.g. by the likelihood bound of the model."""
        return await service.score(request, await asyncio.to_thread(read_body, ScoreRequest, await request.body()))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models, what each was trained with, and the samplers that it can be run with."""
        return {"object": "list", "data": [described(model) for model in service.shelf.current()]}


def add_numbers(app: FastAPI, service: Service) -> None:
    """What whoever runs the service wants to know."""

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: ERRORS[503]})
    async def ready() -> Response:
        """Every model has a replica that answers."""
        if not await service.ready():
            raise busy("A model has no replica that answers yet. Ask again in a moment.")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        await service.told()
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page_of(app.openapi()))


def described(model: ServedModel) -> dict[str, Any]:
    samplers = [name for name in PRESETS if not missing(preset(name), model.info, allow_untrained=False)]
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "version": model.version,
        "owned_by": "proseco",
        "length": int(model.info["length"]),
        "trained_with": model.info.get("trained_with"),
        "num_classes": int(model.info.get("num_classes", 0)),
        "default_sampler": model.default_sampler,
        "samplers": samplers,
        "chat": isinstance(model.special.get("chat_template"), str),
    }


def describe(app: FastAPI) -> None:
    """Put the shape of errors into the published schema."""
    schema = app.openapi()
    schema.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR_SCHEMA


async def said(request: Request, error: Exception) -> Response:
    """Any error as OpenAI's clients read it."""
    path = request.url.path
    if isinstance(error, HTTPException):
        routes = [route for route in request.app.routes if isinstance(route, APIRoute) and route.path == path]
        if routes:  # the page is mounted over all paths, so the framework does not see that it is the method
            allowed = ", ".join(sorted({method for route in routes for method in route.methods or ()}))
            text = f"{request.method} is not for {path}; use {allowed}."
            error = ApiError(405, text, code="method_not_allowed", headers={"Allow": allowed})
        else:
            error = ApiError(404, f"There is no {path[:200]!r} here; see /docs.", code="not_found")
    if not isinstance(error, ApiError):
        log.error("%s failed", path, exc_info=error)
        error = failed(f"This failed here: {type(error).__name__}. The server's log says more.")
    return JSONResponse(error.body, error.status, error.headers)

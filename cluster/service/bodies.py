"""What requests may say, and how their bytes are read. Every value goes through the one parser of the house."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field

from cluster.service.errors import ApiError, refused
from components.errors import ConfigError
from components.options import Count, Positive, Reads, Seed, malformed, options, parse
from components.outside import from_request

T = TypeVar("T")

MAX_DEPTH = 16
"""Levels of a body; options of samplers need four."""
MAX_OPTION = 2**31 - 1
"""The largest whole number among options of samplers."""


Texts = Annotated[tuple[str, ...], Field(min_length=1)]


def one_or_many(value: Any) -> tuple[Any, Any]:
    """A text is one of them, and no list of letters."""
    return Texts, [value] if isinstance(value, str) else value


def texts_and_holes(value: Any) -> tuple[Any, Any]:
    """Texts, and numbers of positions to write."""
    fits = isinstance(value, list) and all(
        isinstance(x, str) or (isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= MAX_OPTION) for x in value
    )
    if not fits:
        raise malformed("a list of texts and of whole numbers of at least 1", 'e.g. ["The ", 3, " fox"]')
    return tuple[Any, ...], value


def text_schema() -> dict[str, Any]:
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}


def template_schema() -> dict[str, Any]:
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]}}


Temperature = Annotated[float, Field(ge=0)]
TopP = Annotated[float, Field(gt=0, le=1)]


@options
class Decoding:
    """What requests for text share."""

    model: str = ""
    """Name of a model of /v1/models; may be left out where there is one."""
    n: Count = 1
    """Texts for each prompt."""
    seed: Seed = 0
    """The same request with the same seed gives the same rows."""
    max_tokens: Count | None = None
    """Positions to write after the prompt; without it the rest of the trained length."""
    label: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Class of the rows, or value of their property, for networks that are conditioned on one."""
    sampler: str = ""
    """Name of a preset; without it proseco where the model was taught visible tokens, else mdlm."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the preset should have otherwise, as in a run's YAML, e.g. {"steps": 8, "corrector": {"passes": 2}}."""
    temperature: Temperature | None = None
    """The same as options.draw.temperature."""
    top_p: TopP | None = None
    """The same as options.draw.top_p."""
    stream: bool = False
    """Send edits as they happen, as server-sent events."""
    deadline_s: Positive | None = None
    """Seconds after which the request is given up."""


@options
class CompletionRequest(Decoding):
    """Body of POST /v1/completions."""

    prompt: Annotated[tuple[str, ...], Reads(one_or_many, text_schema)] = ("",)
    """A text to continue, or several."""
    template: Annotated[tuple[Any, ...], Reads(texts_and_holes, template_schema)] = ()
    """Instead of a prompt: texts that stay, and numbers of positions to write, in order."""
    length: Count | None = None
    """Positions of the rows, prompt and all; another way to say ``max_tokens``."""
    echo: bool = False
    """Give the prompt in front of the text."""


@options
class Message:
    """One turn of a conversation."""

    role: str
    """system, user or assistant, as the model's chat template knows them."""
    content: str
    """What was said."""


@options
class ChatRequest(Decoding):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1)] = ()
    """The conversation so far."""


@options
class ScoreRequest:
    """Body of POST /v1/score."""

    texts: Annotated[tuple[str, ...], Reads(one_or_many, text_schema)]
    """What is scored."""
    model: str = ""
    """Name of a model of /v1/models; may be left out where there is one."""
    scorers: Annotated[tuple[str, ...], Field(min_length=1)] = ("nelbo",)
    """Names of scorers that need nothing but the model."""
    deadline_s: Positive | None = None
    """Seconds after which the request is given up."""


WHOLE = "a row is written as a whole, and not from left to right"
UNKNOWN_HERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "best_of": ((1,), 'use "sampler": "best_of_n" with options.search.particles'),
    "frequency_penalty": ((0,), f"{WHOLE}; leave it out"),
    "presence_penalty": ((0,), f"{WHOLE}; leave it out"),
    "logit_bias": (({},), "leave it out; options.draw says how tokens are drawn"),
    "logprobs": (
        (False,),
        "a token has no probability given those before it; use POST /v1/score, or the confidence of edits",
    ),
    "top_logprobs": ((0,), "use the confidence of edits"),
    "suffix": (("",), 'use "template": [prompt, number of positions, suffix]'),
    "stop": (([],), f"{WHOLE}; cut the text where you want it to end"),
    "max_completion_tokens": ((), "use max_tokens"),
    "tools": (([],), "leave it out; these models call no tools"),
    "tool_choice": (("none",), "leave it out; these models call no tools"),
    "functions": (([],), "leave it out; these models call no tools"),
    "function_call": (("none",), "leave it out; these models call no tools"),
    "response_format": (({"type": "text"},), 'use "template" to fix what must stand where'),
    "stream_options": (({"include_usage": True},), "the last event of a stream always has the usage"),
}
"""Parameters of OpenAI's API that say nothing about this kind of model: values that change nothing, and what to do."""


def read_body(kind: type[T], raw: bytes) -> T:
    """The bytes of a body as a request.

    Raises:
        ApiError: they are no JSON, or say what can not be done.
    """
    plain = read_json(raw)
    if not isinstance(plain, dict):
        raise ApiError(
            400, f'The body is {kind_of(plain)}; it must be an object such as {{"prompt": "..."}}.', code="invalid_json"
        )
    for name, (neutral, remedy) in UNKNOWN_HERE.items():
        if name in plain:
            value = plain.pop(name)
            if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
                message = f"{name} is not supported: {remedy}."
                raise ApiError(400, message, param=name, code="unsupported_parameter")
    try:
        return parse(kind, plain)
    except ConfigError as error:
        raise refused(error) from None


def read_json(raw: bytes) -> Any:
    """What a body says. Raises ApiError where it is no JSON, or breaks a limit of ``components.outside``."""
    try:
        return from_request(raw, MAX_DEPTH)
    except ValueError as error:
        raise ApiError(400, f"The body can not be read: {error}. Send one JSON object in UTF-8.", code="invalid_json") from None


def largest(plain: Any, path: str) -> tuple[str, int] | None:
    """Path and value of a whole number that is larger than options may be."""
    if isinstance(plain, int) and abs(plain) > MAX_OPTION:
        return path, plain
    below = plain.items() if isinstance(plain, Mapping) else enumerate(plain) if isinstance(plain, list | tuple) else ()
    return next((found for name, value in below if (found := largest(value, f"{path}.{name}"))), None)


def kind_of(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "null")

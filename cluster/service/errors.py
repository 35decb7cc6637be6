"""Errors in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.errors import ConfigError, ProsecoError


class ApiError(Exception):
    """A request that gets no answer but a reason."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.error = {"message": message, "type": kind, "param": param, "code": code}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.error}


def wrong(param: str, value: object, rule: str, remedy: str) -> ApiError:
    """A value that breaks a rule, in the words of the house."""
    return ApiError(400, sentence(param, value, rule, remedy), param=param, code="invalid_value")


def refused(error: ProsecoError) -> ApiError:
    """A user's error that one of our own parts told."""
    problems = error.problems if isinstance(error, ConfigError) else []
    if not problems:
        return ApiError(400, str(error), code="invalid_value")
    lines = [sentence(p.path, p.value, p.rule, p.remedy) for p in problems]
    return ApiError(400, "\n".join(lines), param=problems[0].path, code="invalid_value")


def sentence(path: str, value: object, rule: str, remedy: str) -> str:
    return f"{path} = {shortened(value)}: {rule}. Remedy: {remedy}{'' if remedy.endswith('?') else '.'}"


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def busy(message: str, after_s: int = 1) -> ApiError:
    """There is no room now."""
    return ApiError(503, message, kind="overloaded_error", code="overloaded", headers={"Retry-After": str(after_s)})


def too_many(message: str, after_s: int) -> ApiError:
    """A key has used up what it may."""
    return ApiError(
        429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers={"Retry-After": str(after_s)}
    )


def failed(message: str) -> ApiError:
    """Our own fault."""
    return ApiError(500, message, kind="server_error", code="internal_error")


def timed_out(seconds: float) -> ApiError:
    message = (
        f"Not done within the deadline of {seconds:g} s; what was begun is dropped. Ask for less, or set deadline_s."
    )
    return ApiError(504, message, kind="timeout_error", code="deadline_exceeded")

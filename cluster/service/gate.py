"""What every request passes before the application sees it: host and origin, key, body, and room.

A body is taken in whole, and within its limits, so what comes after never waits for a slow client, and nobody's request
takes up room while it is still being sent. Plain ASGI, because nothing else sees bytes as they come.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.service.errors import ApiError, busy, timed_out
from cluster.service.keys import Account, Keys
from cluster.service.limits import ServiceLimits
from cluster.service.metrics import Metrics

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
SENDING_S = 60.0
"""How long an answer may take to be sent."""


@dataclass(frozen=True)
class Doors:
    """Who may come in."""

    keys: Keys | None = None
    """None asks nobody for a key, and then only this machine's own programs and pages may come in."""


class Gate:
    """See the module's docstring."""

    def __init__(self, app: ASGIApp, limits: ServiceLimits, doors: Doors, metrics: Metrics, num_replicas: int):
        self.app, self.limits, self.doors, self.metrics = app, limits, doors, metrics
        self.max_requests = limits.max_requests * num_replicas
        self.longest_s = limits.body_s + limits.max_deadline_s + SENDING_S
        self.at_work, self.held_bytes = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, answered = time.monotonic(), Answering(send)
        try:
            async with asyncio.timeout(self.longest_s):
                await self.pass_on(scope, receive, answered)
        except ApiError as error:
            await answered.refuse(error)
        except TimeoutError:  # whoever does not read an answer is let go
            if not answered.status:
                await answered.refuse(timed_out(self.longest_s))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(route, answered.status or 499, time.monotonic() - start)

    async def pass_on(self, scope: Scope, receive: Receive, send: Answering) -> None:
        """One request, through all doors."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        account = None
        if self.doors.keys is None:
            check_host(headers)
        elif scope["path"].startswith("/v1/") or scope["path"] == "/metrics":
            account = self.doors.keys.account(headers.get("authorization", ""))
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if account is not None:
            account.enter()
        try:
            await self.post(scope, headers, receive, send, account)
        finally:
            if account is not None:
                account.leave()

    async def post(
        self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send, account: Account | None
    ) -> None:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            text = f"The Content-Type is {headers.get('content-type', '')[:100]!r}; send application/json."
            raise ApiError(415, text, code="unsupported_media_type")
        body = bytearray()
        try:
            await self.read(headers, receive, body)
            if self.at_work >= self.max_requests:
                raise busy(f"{self.at_work} requests are at work here, as many as there may be. Ask again in a moment.")
            self.at_work += 1
            try:
                scope.setdefault("state", {})["account"] = account
                await self.app(scope, Replayed(bytes(body), receive), send)
            finally:
                self.at_work -= 1
        finally:
            self.held_bytes -= len(body)

    async def read(self, headers: dict[str, str], receive: Receive, body: bytearray) -> None:
        """Take in the whole body. Raises ApiError where it is too large or too slow."""
        limit = self.limits.max_body_bytes
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            raise too_large(limit)
        try:
            async with asyncio.timeout(self.limits.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(
                            400, "The connection was closed before the body had come.", code="incomplete_body"
                        )
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    if len(body) + len(chunk) > limit:
                        raise too_large(limit)
                    if self.held_bytes + len(chunk) > self.limits.max_bodies_bytes:
                        raise busy("Too many bodies are being sent at once. Ask again in a moment.")
                    body += chunk
                    self.held_bytes += len(chunk)
        except TimeoutError:
            text = f"The body had not come after {self.limits.body_s:g} s (limits.body_s). Send it at once."
            raise ApiError(408, text, code="slow_body") from None


def too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"The body has more than {limit} bytes (limits.max_body_bytes). Send less.", code="body_too_large"
    )


def check_host(headers: dict[str, str]) -> None:
    """Raise ApiError where the request is not for this machine by name, or is a page's of somewhere else.

    A page of the web can have a browser post to loopback, and can give its own name our address.
    """
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if name not in LOOPBACK:
        text = f"The request is for the host {host[:200]!r}; without --keys this service answers as localhost alone."
        raise ApiError(403, text, kind="permission_error", code="foreign_host")
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        text = f"The request comes from a page of {origin[:200]!r}, and without keys only this service's own may ask."
        raise ApiError(403, text, kind="permission_error", code="foreign_origin")


class Replayed:
    """``receive`` with a body that was taken in already."""

    def __init__(self, body: bytes, receive: Receive):
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


class Answering:
    """``send`` with headers that every answer has, which remembers the status."""

    def __init__(self, send: Send):
        self.send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *SAFE_HEADERS]}
        await self.send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error. What is left of the body is not waited for, so the connection is closed."""
        body = json.dumps(error.body).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **error.headers,
        }
        plain = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": plain})
        await self({"type": "http.response.body", "body": body})

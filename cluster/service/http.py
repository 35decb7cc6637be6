"""The server: uvicorn in a thread, on a socket that was bound before anything else was started."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import resource
import socket
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cluster.service.errors import busy
from cluster.service.limits import ServiceLimits
from components.errors import ConfigError, Problem

BACKLOG = 2048


def is_loopback(host: str) -> bool:
    """Does an address belong to this machine alone?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: there is no such port, or it is taken, or the address is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ConfigError([Problem("port", port, "0 to 65535, where 0 takes a free one", "e.g. --port 8000")])
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            [Problem("host", host, f"an address of this machine ({error})", "e.g. --host 127.0.0.1")]
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        rule = f"a port that is free on {host} ({error.strerror})"
        raise ConfigError([Problem("port", port, rule, "end what has it, or use another --port")]) from None
    return bound


class Patient(H11Protocol):
    """Connections that may be slow, but not for ever: whoever has not sent the head of a request in time is let go, and
    nobody is let in beyond what there may be."""

    limits: ServiceLimits
    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.write(FULL)
            transport.close()
            return
        self.await_head()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self.await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def await_head(self) -> None:
        """Give the client its time while no request of it is known; the time does not start anew with each byte."""
        at_work = self.cycle is not None and not self.cycle.response_complete
        if at_work:
            self.stop_waiting()
        elif self.waiting is None:
            self.waiting = self.loop.call_later(self.limits.body_s, self.transport.close)

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None


def full() -> bytes:
    """The answer to a connection too many, as it goes over the wire."""
    body = json.dumps(busy("Too many connections are open. Ask again in a moment.").body)
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}".encode()


FULL = full()


class Server:
    """Serves an application from a thread until it is stopped."""

    def __init__(self, app: ASGIApp, bound: socket.socket, limits: ServiceLimits):
        protocol = type("Limited", (Patient,), {"limits": limits})
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:  # a connection is a file
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(limits.grace_s)),
        )
        self.server = uvicorn.Server(config)
        self.bound = bound
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [bound]}, name="http", daemon=True)

    def start(self) -> None:
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.bound.getsockname()[1])

    def stop(self) -> None:
        """Take no more requests, and end when those at work have ended, or have had their time."""
        self.server.should_exit = True
        self.thread.join()

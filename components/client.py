"""A client of ``proseco serve`` that needs the standard library only.

    client = Client("http://127.0.0.1:8000")
    choices = client.complete("def main(", sampler="proseco", options={"steps": 8})

    for event in client.stream("def main(", sampler="proseco"):
        if isinstance(event, Start):
            row = Replay(event)
        elif isinstance(event, Edits):
            row.apply(event)

The same request with the same seed has the same answer, so asking again after a failure does no harm.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from components.errors import ClusterError, ConfigError

BUSY = (429, 503)
"""What the service answers when it wants to be asked again later."""


@dataclass(frozen=True)
class Choice:
    """A finished row."""

    index: int
    text: str
    finish_reason: str
    row_id: str
    """The sample's id and its seed, which make it again."""
    tokens: tuple[int, ...]
    calls: int
    """Forwards of the network that it took."""
    call_positions: float
    """Positions computed for it / its length."""
    edits: int
    """Visible tokens that were replaced or masked again."""


@dataclass(frozen=True)
class Edit:
    """A position that a call changed."""

    position: int
    old: int
    new: int
    text: str | None
    """The new token as a text; None where it has none of its own."""
    confidence: float | None
    """Probability of the token when it was written, where there is one."""
    reason: str
    """``reveal``, ``replace``, ``remask``; ``fill`` at the end of a row, ``choose`` of the chain that a search kept."""


@dataclass(frozen=True)
class Start:
    """The canvas of a row."""

    index: int
    tokens: tuple[int, ...]
    pieces: tuple[str | None, ...]
    mask_id: int


@dataclass(frozen=True)
class Edits:
    """What one call did to a row."""

    index: int
    call: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Done:
    """The end of a stream."""

    choices: tuple[Choice, ...]
    usage: Mapping[str, Any]


@dataclass
class Replay:
    """A row as it stands after the edits so far."""

    start: Start
    tokens: list[int] = field(init=False)
    pieces: list[str | None] = field(init=False)
    call: int = 0

    def __post_init__(self) -> None:
        self.tokens, self.pieces = list(self.start.tokens), list(self.start.pieces)

    def apply(self, event: Edits) -> None:
        """Raises ClusterError where an edit is not one of this row as it stands: something was lost on the way."""
        for e in event.edits:
            if event.index != self.start.index or self.tokens[e.position] != e.old:
                raise ClusterError(
                    f"Call {event.call} of row {event.index} changes position {e.position} from token {e.old}, and "
                    f"row {self.start.index} has {self.tokens[e.position]} there. Edits are missing: ask again."
                )
            self.tokens[e.position], self.pieces[e.position] = e.new, e.text
        self.call = event.call

    @property
    def num_masked(self) -> int:
        return self.tokens.count(self.start.mask_id)


@dataclass(frozen=True)
class Client:
    """A service at an address. It holds nothing open between requests, and threads may share it."""

    url: str
    """Such as http://127.0.0.1:8000."""
    key: str | None = field(default=None, repr=False)
    """Sent as a bearer token."""
    timeout_s: float = 120.0
    """The longest silence of the service."""
    retries: int = 5
    """How often a request is made again that met a busy or an absent service."""
    max_wait_s: float = 60.0
    """The longest wait before one of them; a service that wants a longer one is not asked again."""
    wait: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ConfigError(f"url = {self.url!r}: it must be http://HOST:PORT or https://HOST.")

    def complete(self, prompt: str = "", **asked: Any) -> list[Choice]:
        """Rows of a prompt, or of a ``template=["text ", 5, " text"]`` in its place.

        Args:
            asked: fields of the request: model, template, n, seed, length, sampler, options.
        Raises:
            ConfigError: the service refused the request.
            ClusterError: there is no service, it failed, or it stayed busy.
        """
        return read_choices(self._ask("POST", "/v1/completions", {**body_of(prompt, asked), "stream": False}))

    def stream(self, prompt: str = "", **asked: Any) -> Iterator[Start | Edits | Done]:
        """The same, event by event as it happens. Closing the iterator tells the service to stop. Raises as
        ``complete`` does."""
        answer, connection = self._open("POST", "/v1/completions", {**body_of(prompt, asked), "stream": True})
        try:
            for data in events(answer):
                if data == "[DONE]":
                    return
                yield read_event(json.loads(data))
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"The service at {self.url} broke off: {error}. Ask again.") from error
        finally:
            connection.close()
        raise ClusterError(f"The service at {self.url} ended a stream before its end. Ask again.")

    def score(self, texts: Sequence[str], scorers: Sequence[str] = ("nelbo",), **asked: Any) -> dict[str, list[float | None]]:
        """Columns of numbers, one value a text, None where a scorer has none. Raises as ``complete`` does."""
        body = {"texts": list(texts), "scorers": list(scorers), **asked}
        return dict(self._ask("POST", "/v1/score", body)["scores"])

    def models(self) -> list[dict[str, Any]]:
        """What is served. Raises as ``complete`` does."""
        return list(self._ask("GET", "/v1/models")["data"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer, connection = self._open(method, path, body)
        try:
            return json.load(answer)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ClusterError(f"The service at {self.url} broke off: {error}. Ask again.") from error
        finally:
            connection.close()

    def _open(self, method: str, path: str, body: Any) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        """An answer that is no error, and its connection, which whoever asked must close."""
        for attempt in range(self.retries + 1):
            connection = self._connection()
            try:
                answer = self._send(connection, method, path, body)
                if answer.status < 400:
                    return answer, connection
                status, said, wanted = answer.status, message_of(answer.read()), answer.getheader("Retry-After")
            except (OSError, http.client.HTTPException) as error:
                status, said, wanted = 0, f"The service at {self.url} cannot be reached: {error}.", None
            connection.close()
            pause = backoff(attempt, wanted)
            if status not in (0, *BUSY) or attempt == self.retries or pause > self.max_wait_s:
                break
            self.wait(pause)
        if 400 <= status < 500 and status not in BUSY:
            raise ConfigError(said)
        raise ClusterError(said)

    def _connection(self) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        return kind(str(place.hostname), place.port, timeout=self.timeout_s)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, urlsplit(self.url).path.rstrip("/") + path, data, headers)
        return connection.getresponse()


def body_of(prompt: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    return dict(asked) if "template" in asked else {"prompt": prompt, **asked}


def backoff(attempt: int, wanted: str | None) -> float:
    """Seconds before the next attempt: what the service wants, or twice as long each time from half a second; and a
    random share more, so that those who were refused together do not come back together."""
    base = float(wanted) if wanted is not None and wanted.strip().isdecimal() else 0.5 * 2**attempt
    return base * (1 + random.random() / 2)


def events(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[str]:
    """The data of server-sent events; comments keep a connection alive and say nothing."""
    data: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def read_event(event: Mapping[str, Any]) -> Start | Edits | Done:
    """Raises ClusterError where the event tells an error."""
    if "error" in event:
        raise ClusterError(str(event["error"]["message"]))
    return READERS[event["object"]](event)


def read_start(event: Mapping[str, Any]) -> Start:
    return Start(event["index"], tuple(event["tokens"]), tuple(event["pieces"]), event["mask_id"])


def read_edits(event: Mapping[str, Any]) -> Edits:
    edits = tuple(
        Edit(e["position"], e["old"], e["new"], e["text"], e["confidence"], e["reason"]) for e in event["edits"]
    )
    return Edits(event["index"], event["call"], edits)


def read_done(event: Mapping[str, Any]) -> Done:
    return Done(tuple(read_choices(event)), event["usage"])


READERS: dict[str, Callable[[Mapping[str, Any]], Start | Edits | Done]] = {
    "text_completion.start": read_start,
    "text_completion.edit": read_edits,
    "text_completion": read_done,
}


def read_choices(answer: Mapping[str, Any]) -> list[Choice]:
    return [read_choice(c) for c in answer["choices"]]


def read_choice(choice: Mapping[str, Any]) -> Choice:
    ours = choice["proseco"]
    return Choice(
        index=choice["index"],
        text=choice["text"],
        finish_reason=choice["finish_reason"],
        row_id=ours["row_id"],
        tokens=tuple(ours["tokens"]),
        calls=ours["calls"],
        call_positions=ours["call_positions"],
        edits=ours["edits"],
    )


def message_of(body: bytes) -> str:
    """The service's own words, or what else stands there."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The service answered {body[:200].decode('utf-8', 'replace')!r}, which is no error of ours."

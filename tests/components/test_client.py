"""The client's own rules: when it asks again, when it gives up, and what it makes of a stream.

What it gets from the real service is held in ``tests/cluster/test_service_client.py``.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from components.client import Client, Done, Edit, Edits, Replay, Start, backoff, events
from components.errors import ClusterError, ConfigError

Answer = tuple[int, dict[str, str], bytes]
BUSY = json.dumps({"error": {"message": "no room now"}}).encode()


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[tuple[str, dict, object]]]]:
    """A server that gives these answers in order, and what it was asked."""
    left, asked = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((f"{self.command} {self.path}", dict(self.headers), json.loads(body) if body else None))
            status, headers, data = left.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def models(*names: str) -> Answer:
    return 200, {}, json.dumps({"data": [{"id": n} for n in names]}).encode()


def test_a_busy_service_is_asked_again_when_it_wants_to_be():
    waits: list[float] = []
    with answering((429, {"Retry-After": "7"}, BUSY), (503, {}, BUSY), (503, {}, BUSY), models("a")) as (url, asked):
        assert Client(url, key="secret", wait=waits.append).models() == [{"id": "a"}]
    assert [line for line, _, _ in asked] == ["GET /v1/models"] * 4
    assert {headers["Authorization"] for _, headers, _ in asked} == {"Bearer secret"}
    assert 7 <= waits[0] <= 10.5
    assert 1 <= waits[1] <= 1.5
    assert 2 <= waits[2] <= 3


def test_waits_differ_between_clients_that_were_refused_together():
    assert len({backoff(0, "1") for _ in range(10)}) > 5


def test_asking_again_has_an_end():
    waits: list[float] = []
    with answering(*[(503, {}, BUSY)] * 3) as (url, asked):
        with pytest.raises(ClusterError, match="no room now"):
            Client(url, retries=2, wait=waits.append).models()
        assert (len(asked), len(waits)) == (3, 2)
    with answering((429, {"Retry-After": "3600"}, BUSY)) as (url, asked):
        with pytest.raises(ClusterError, match="no room now"):
            Client(url, wait=waits.append).models()
    assert len(waits) == 2, "nobody waits for an hour"


def test_what_is_wrong_is_said_in_the_words_of_the_service_and_not_asked_again():
    said = json.dumps({"error": {"message": "steps = -1: at least 0"}}).encode()
    for status, kind in ((400, ConfigError), (401, ConfigError), (500, ClusterError)):
        with answering((status, {}, said)) as (url, asked):
            with pytest.raises(kind, match="steps = -1: at least 0"):
                Client(url, wait=lambda s: pytest.fail("it waited")).complete("a", options={"steps": -1})
        assert asked[0][2] == {"prompt": "a", "options": {"steps": -1}, "stream": False}
    with answering((502, {}, b"<html>")) as (url, _), pytest.raises(ClusterError, match="<html>"):
        Client(url).models()


def test_an_absent_service_is_waited_for_and_then_named():
    waits: list[float] = []
    with answering() as (url, _):
        pass
    with pytest.raises(ClusterError, match=f"{url} cannot be reached"):
        Client(url, retries=3, wait=waits.append).models()
    assert len(waits) == 3
    with pytest.raises(ConfigError, match="must be http"):
        Client("localhost:8000")


START = {"object": "text_completion.start", "index": 0, "tokens": [4, 0, 0], "pieces": ["a", None, None], "mask_id": 0}
EDIT = {
    "object": "text_completion.edit", "index": 0, "call": 3,
    "edits": [{"position": 2, "old": 0, "new": 5, "text": "b", "confidence": 0.5, "reason": "reveal"}],
}  # fmt: skip
END = {
    "object": "text_completion",
    "choices": [
        {
            "index": 0, "text": "ab", "finish_reason": "stop",
            "proseco": {"row_id": 1, "tokens": [4, 0, 5], "calls": 3, "call_positions": 3.0, "edits": 0},
        }
    ],
    "usage": {"total_tokens": 3},
}  # fmt: skip


def sse(*parts: object) -> bytes:
    return b"".join(
        b": still here\n\n" + f"data: {p if isinstance(p, str) else json.dumps(p)}\n\n".encode() for p in parts
    )


def test_a_stream_is_read_to_its_end_and_replayed():
    with answering((200, {}, sse(START, EDIT, END, "[DONE]"))) as (url, asked):
        start, edits, done = Client(url).stream(template=["a", 2])
    assert asked[0][2] == {"template": ["a", 2], "stream": True}
    row = Replay(start)
    assert row.num_masked == 2
    row.apply(edits)
    assert (row.tokens, row.pieces, row.call, row.num_masked) == ([4, 0, 5], ["a", None, "b"], 3, 1)
    assert isinstance(done, Done)
    assert (done.choices[0].text, done.choices[0].calls, done.choices[0].tokens) == ("ab", 3, (4, 0, 5))
    with pytest.raises(ClusterError, match="Edits are missing"):
        row.apply(edits)
    other = Edits(1, 1, (Edit(1, 0, 5, "b", 0.5, "reveal"),))
    with pytest.raises(ClusterError, match="row 1"):
        Replay(Start(0, (4, 0, 0), ("a", None, None), 0)).apply(other)


def test_a_stream_that_breaks_off_or_tells_an_error_is_no_answer():
    with answering((200, {}, sse(START, EDIT))) as (url, _), pytest.raises(ClusterError, match="before its end"):
        list(Client(url).stream("a"))
    told = {"error": {"message": "the deadline has passed"}}
    with answering((200, {}, sse(START, told))) as (url, _), pytest.raises(ClusterError, match="deadline has passed"):
        list(Client(url).stream("a"))


def test_lines_of_one_event_belong_together():
    assert list(events(iter([b"data: a\n", b"data:b\r\n", b"\n", b": no\n", b"\n", b"data: c\n", b"\n"]))) == [
        "a\nb",
        "c",
    ]


def test_the_client_needs_the_standard_library_only():
    code = "import sys, components.client; print({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    said = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert said.stdout.strip() in ("{'components', '__main__'}", "{'__main__', 'components'}")

"""What the service does not take on, who may ask, and what becomes of those who leave or are slow."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.service.app import build_app
from cluster.service.gate import Doors
from cluster.service.http import FULL, Server, listen
from cluster.service.keys import Account, ApiKey, Keys, read_keys
from cluster.service.limits import ServiceLimits
from cluster.service.model import open_model
from cluster.service.replica import Replica
from cluster.service.shelf import Shelf
from components.errors import ConfigError
from components.models.weights import HOME
from components.samplers import preset
from tests.cluster.service import OPEN, events_of, made, replicas, served
from tests.waiting import until

COMPLETIONS = "/v1/completions"
LONG = {"sampler": "proseco", "options": {"steps": 2, "corrector": {"passes": 500_000, "inner": "sample"}}}
"""Rows that need half a million calls: they end only when they are dropped."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("limits") / "m")


BOUNDS = {
    "max_prompts": ({"max_prompts": 2}, {"prompt": ["1", "2"]}, {"prompt": ["1", "2", "3"]}),
    "max_samples": ({"max_samples": 4}, {"prompt": ["1", "2"], "n": 2}, {"prompt": ["1", "2"], "n": 3}),
    "max_prompt_chars": ({"max_prompt_chars": 3}, {"prompt": "123"}, {"prompt": "1231"}),
    "max_length": ({"max_length": 12}, {"length": 12}, {"length": 13}),
    "max_cost": ({"max_cost": 4 * 9 * 2}, {"sampler": "mdlm", "n": 2, "options": {"steps": 3}}, {"sampler": "mdlm", "n": 2, "options": {"steps": 4}}),
    "max_row_bytes": ({"max_row_bytes": 3000}, {"sampler": "mdlm"}, {"sampler": "particle_gibbs"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_a_limit_is_met_exactly(folder, name):
    limits, fits, over = BOUNDS[name]
    with served(folder, **limits) as client:
        assert client.post(COMPLETIONS, json=fits).status_code == 200
        refused = client.post(COMPLETIONS, json=over)
        assert refused.status_code == 400, refused.text
        message = refused.json()["error"]["message"]
        assert str(limits[name]) in message
        assert client.replica.engine.numbers.rows == fits.get("n", 1) * (
            len(fits["prompt"]) if isinstance(fits.get("prompt"), list) else 1
        )


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("mdlm", {"steps": 3_000_000}),
        ("proseco", {"corrector": {"passes": 3_000_000}}),
        ("best_of_n", {"search": {"particles": 10**6}}),
        ("particle_gibbs", {"search": {"sweeps": 10**6}}),
        ("fk_steering", {"search": {"guesses": 10**6, "guess": "sample"}}),
        ("moi", {"inputs": {"top_k": 10**8}}),
        ("moi", {"inputs": {"top_k": 2**31 - 1}}),
        ("mdlm", {"steps": 2**31}),
        ("particle_gibbs", {"search": {"every": 1, "sweeps": 2, "particles": 64}, "steps": 2000}),
        ("cfg", {"steps": 10**6}),
        ("prism", {"corrector": {"score": "loo"}, "steps": 10**6}),
    ],
)
def test_a_request_that_would_cost_too_much_is_refused_before_it_starts(folder, sampler, options):
    with served(folder) as client:
        start = time.monotonic()
        answer = client.post(COMPLETIONS, json={"sampler": sampler, "options": options, "length": 1000})
        assert answer.status_code == 400, answer.text
        assert time.monotonic() - start < 20
        assert client.replica.engine.numbers.rows == 0
        assert client.replica.engine.engine.idle


def test_rows_whose_keys_and_values_are_kept_count_as_larger(folder):
    """As many lanes as there is memory for, with what a cache takes of it."""
    lanes = {}
    replica = Replica(str(folder), HOME, 1, dataclasses.replace(ServiceLimits(), max_lanes=64, max_lanes_bytes=1 << 16))
    try:
        for cache in (False, True):
            config = preset("llada_block", blocks={"length": 3, "cache": cache})
            lanes[cache] = replica.open_session(config, 9).max_groups
    finally:
        replica.close()
    kept = replica.model.network.config.kept_bytes(9, 4)
    assert lanes[True] <= (1 << 16) // kept < lanes[False] <= 64


def test_texts_to_score_are_bounded(folder):
    with served(folder, max_texts=2, max_prompt_chars=9) as client:
        assert client.post("/v1/score", json={"texts": ["1", "2"]}).status_code == 200
        for texts in (["1"] * 3, ["1" * 10], ["9"], []):
            assert client.post("/v1/score", json={"texts": texts}).status_code == 400
        for scorers in (["validity"], ["judge"], ["nelbo", "nelbo"], [], ["x"]):
            assert client.post("/v1/score", json={"texts": ["1"], "scorers": scorers}).status_code == 400


def test_a_body_is_bounded_also_where_its_length_is_not_told(folder):
    def chunks(size: int) -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(size):
            yield b"1" * 100

    with served(folder, max_body_bytes=2000) as client:
        told = client.post(COMPLETIONS, content=b"1" * 2001, headers={"content-type": "application/json"})
        untold = client.post(COMPLETIONS, content=chunks(100), headers={"content-type": "application/json"})
        for answer in (told, untold):
            assert answer.status_code == 413
            assert "2000" in answer.json()["error"]["message"]
            assert answer.headers["connection"] == "close"
        whole = json.dumps({"options": {"steps": 1}}).ljust(2000).encode()
        assert client.post(COMPLETIONS, content=whole, headers={"content-type": "application/json"}).status_code == 200


def test_a_deadline_ends_an_answer_and_a_stream_and_drops_their_rows(folder):
    with served(folder, max_cost=2**40, max_deadline_s=0.3) as client:
        assert client.post(COMPLETIONS, json={"deadline_s": 0.31}).status_code == 400
        whole = client.post(COMPLETIONS, json=LONG)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "0.3 s" in whole.json()["error"]["message"]
        *events, error, done = events_of(client.post(COMPLETIONS, json=LONG | {"stream": True, "deadline_s": 0.2}).text)
        assert events[0]["object"] == "text_completion.start"
        assert error["error"]["code"] == "deadline_exceeded"
        assert done == "[DONE]"
        until(lambda: client.replica.engine._held == [0, 0])
        assert client.post(COMPLETIONS, json={"options": {"steps": 2}}).status_code == 200


@contextlib.contextmanager
def listening(folder, doors: Doors = OPEN, **limits) -> Iterator[tuple[int, object]]:
    """A server on a port of loopback, and its replica."""
    bounds = dataclasses.replace(ServiceLimits(), **limits)
    with replicas({"toy": folder}, bounds) as opened, listen("127.0.0.1", 0) as bound:
        server = Server(build_app(Shelf([open_model("toy", folder, opened["toy"], 0)]), bounds, doors), bound, bounds)
        server.start()
        try:
            yield server.port, opened["toy"]
        finally:
            server.stop()


def head(body: bytes | str, path: str = COMPLETIONS, length: int | None = None, **headers: str) -> bytes:
    known = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(len(body) if length is None else length),
    }
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in (known | headers).items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + (body if isinstance(body, bytes) else body.encode())


def talk(port: int, data: bytes, seconds: float = 30.0) -> bytes:
    """What comes back until the other side has nothing more to say."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
            if found.startswith(b"HTTP/1.1 200") and b"chunked" not in found and found.endswith(b"}"):
                break
    return found


def healthy(port: int) -> bool:
    start = time.monotonic()
    try:
        found = talk(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    except ConnectionResetError:
        return False
    return b"200 OK" in found and time.monotonic() - start < 5


def test_clients_that_leave_take_their_rows_along(folder):
    """Eight that leave amid an answer, and eight amid a stream: what they wanted is not computed on."""
    with listening(folder, max_cost=2**40) as (port, replica):
        for stream in (False, True):
            open_ones = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
            for connection in open_ones:
                connection.sendall(head(json.dumps(LONG | {"stream": stream})))
            until(lambda: replica.engine._held[0] == 8)
            assert healthy(port)
            for connection in open_ones:
                connection.close()
            until(lambda: replica.engine._held[0] == 0 and replica.engine.engine.idle)
        assert b"200 OK" in talk(port, head('{"options": {"steps": 2}}'))


def test_clients_that_send_slowly_keep_nobody_waiting_and_are_let_go(folder):
    with listening(folder, body_s=1.0) as (port, _replica):
        slow = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(40)]
        for number, connection in enumerate(slow):
            connection.sendall(head(b"{", length=500) if number % 2 else b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        assert healthy(port)
        assert b"200 OK" in talk(port, head('{"options": {"steps": 2}}'))
        for number, connection in enumerate(slow):
            said = connection.recv(65536)
            assert said.startswith(b"HTTP/1.1 408") if number % 2 else said == b""
            connection.close()


def test_a_byte_now_and_then_does_not_buy_more_time(folder):
    with (
        listening(folder, body_s=0.6) as (port, _replica),
        socket.create_connection(("127.0.0.1", port), timeout=30) as slow,
    ):
        start = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - start < 10:
                slow.sendall(b"G")
                slow.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    if slow.recv(10) == b"":
                        break
        assert time.monotonic() - start < 5


def test_connections_are_bounded(folder):
    with listening(folder, max_connections=3, body_s=20.0) as (port, _replica):
        held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        for connection in held:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in connection.recv(65536)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as one_more:
            assert one_more.recv(65536) == FULL
        for connection in held:
            connection.close()
        until(lambda: healthy(port))


def test_requests_at_work_are_bounded_and_told_when_to_come_again(folder):
    with listening(folder, max_requests=2, max_cost=2**40) as (port, replica):
        at_work = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for connection in at_work:
            connection.sendall(head(json.dumps(LONG)))
        until(lambda: replica.engine._held[0] == 2)
        refused = talk(port, head("{}"))
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in refused
        assert healthy(port)
        for connection in at_work:
            connection.close()
        until(lambda: b"200 OK" in talk(port, head('{"options": {"steps": 2}}')))


@pytest.mark.parametrize("stream", [False, True])
def test_rows_beyond_the_room_of_a_replica_are_refused_before_a_stream_begins(folder, stream):
    with served(folder, max_rows=3) as client:
        answer = client.post(COMPLETIONS, json={"n": 4, "stream": stream})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "limits.max_rows = 3" in answer.json()["error"]["message"]
        assert client.post(COMPLETIONS, json={"n": 3, "stream": stream}).status_code == 200


def test_a_stream_without_news_is_kept_alive(folder):
    with listening(folder, max_cost=2**40, heartbeat_s=0.1) as (port, replica):
        held = replica.engine.engine
        free, step = threading.Event(), held.step
        held.step = lambda: step() if free.wait(30) else {}
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(head('{"stream": true, "options": {"steps": 2}}'))
            said = b""
            while said.count(b": at work\n\n") < 3:
                said += connection.recv(65536)
            free.set()
            while b"[DONE]" not in said:
                said += connection.recv(65536)
        assert said.index(b"text_completion.start") < said.index(b": at work")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.nip.io"}, 403),
        ({"host": "[bad"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        ({"host": "localhost:8000", "origin": "https://localhost:8000"}, 403),
        ({"host": "localhost:8000", "origin": "http://evil.example"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
    ],
)
def test_without_keys_no_page_of_the_web_may_ask(folder, headers, code):
    with served(folder) as client:
        assert client.get("/v1/models", headers=headers).status_code == code
        assert client.post(COMPLETIONS, json={"options": {"steps": 1}}, headers=headers).status_code == code


def key_of(name: str, secret: str, **limits: int) -> ApiKey:
    return ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), **limits)


def test_keys_are_asked_for_and_their_allowances_kept(folder):
    now = [0.0]
    keys = Keys([key_of("anna", "a", requests_per_minute=3, samples_per_minute=5), key_of("bert", "b")], lambda: now[0])
    with served(folder, Doors(keys)) as client:

        def ask(secret: str | None, **body):
            headers = {"host": "example.org"} | ({"authorization": f"Bearer {secret}"} if secret else {})
            return client.post(COMPLETIONS, json={"options": {"steps": 1}} | body, headers=headers)

        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        for answer in (ask(None), ask("c"), client.get("/v1/models"), client.get("/metrics")):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert ask("a", n=4).status_code == 200
        over = ask("a", n=2)
        assert over.status_code == 429
        assert over.headers["retry-after"] == "12", "one row more comes in 60 / 5 s"
        assert ask("b", n=2).status_code == 200
        assert ask("a").status_code == 200
        spent = ask("a")
        assert (spent.status_code, spent.headers["retry-after"]) == (429, "20")
        now[0] = 20.0
        assert ask("a").status_code == 200
        never = ask("b", n=6001)
        assert never.status_code == 400
        assert (
            'proseco_refused_total{code="429"} 2.0'
            in client.get("/metrics", headers={"authorization": "Bearer b"}).text
        )


def test_a_key_has_so_many_requests_at_work_and_no_more(folder):
    keys = Keys([key_of("anna", "a", max_concurrent=1)])
    with listening(folder, Doors(keys), max_cost=2**40) as (port, replica):
        with socket.create_connection(("127.0.0.1", port)) as first:
            first.sendall(head(json.dumps(LONG), Authorization="Bearer a"))
            until(lambda: replica.engine._held[0] == 1)
            refused = talk(port, head("{}", Authorization="Bearer a"))
            assert refused.startswith(b"HTTP/1.1 429")
            assert b"retry-after" in refused
        until(lambda: b"200 OK" in talk(port, head('{"options": {"steps": 2}}', Authorization="Bearer a")))


def test_an_account_is_given_back_what_it_holds_when_a_request_fails():
    account = Account(key_of("anna", "a", max_concurrent=1))
    for _ in range(3):
        account.enter()
        account.leave()
    assert account.at_work == 0


def test_a_file_of_keys_is_yaml_or_json_lines_and_is_checked(tmp_path):
    digest, other = (hashlib.sha256(x).hexdigest() for x in (b"a", b"b"))
    path = tmp_path / "keys"
    good = [
        f"- name: anna\n  sha256: {digest}\n  requests_per_minute: 7\n",
        json.dumps({"name": "anna", "sha256": digest, "requests_per_minute": 7})
        + "\n\n"
        + json.dumps({"name": "b", "sha256": other}),
    ]
    for text in good:
        path.write_text(text)
        account = read_keys(path).account("Bearer a")
        assert (account.key.name, account.key.requests_per_minute) == ("anna", 7)
    bad = [
        "", "a: 1", "[]", "- name: anna\n", f"- name: anna\n  sha256: {digest[:-1]}\n", "{", "- [", "\x00",
        f"- {{name: a, sha256: {digest}}}\n- {{name: a, sha256: {other}}}\n", f"- {{name: a, sha256: {digest}}}\n- {{name: b, sha256: {digest}}}\n",
        f"- {{name: a, sha256: {digest}, requests_per_minute: 0}}\n", "!!python/object/apply:os.system [true]",
    ]  # fmt: skip
    for text in bad:
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_keys(path)
    with pytest.raises(ConfigError, match="can not be read"):
        read_keys(tmp_path / "none")


async def status_of(app, method: str, path: str) -> int:
    """The status of a request whose path no client has tidied up."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"host", b"example.org"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers, "client": ("192.0.2.1", 1),
        "server": ("192.0.2.2", 80), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS"])
def test_no_other_spelling_of_a_path_passes_without_a_key(method, tmp_path):
    key = ApiKey("anna", hashlib.sha256(b"secret").hexdigest())
    app = build_app(Shelf([]), ServiceLimits(), Doors(Keys([key])))
    app.max_requests = 8  # without models there are no replicas, and no room
    asked = ["v1/models", "v1/completions", "v1/tables", "v1/samplers", "v1/score", "metrics"]
    for path in asked:
        for begin, end in (("/", ""), ("//", ""), ("/./", ""), ("/x/../", ""), ("/", "/"), ("/", "\0"), ("http://h/", ""), ("", "")):
            status = asyncio.run(status_of(app, method, begin + path + end))
            assert status in (401, 403, 404, 405, 415), (method, begin + path + end, status)
        assert asyncio.run(status_of(app, method, f"/{path.upper()}")) in (404, 405, 415)
        assert asyncio.run(status_of(app, method, f"/{path}")) == 401

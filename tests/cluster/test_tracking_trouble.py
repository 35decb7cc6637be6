"""MLflow that can not be used is noticed soon, told in a line, and costs nothing but curves."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from cluster import mlflow_tracking
from cluster.environment import prepare
from components.store.files import publish_bytes


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens MLflow at an address, and gives what was said and how long it took."""
    prepare()
    monkeypatch.setattr(mlflow_tracking, "LOCKED_S", 1.0)

    def attempt(uri=""):
        if uri:  # tables of a new database are made as fast as the disk takes them
            monkeypatch.setattr(mlflow_tracking, "ANSWER_S", 12.0)
        said, begun = [], time.monotonic()
        found = mlflow_tracking.open_mlflow(uri, tmp_path, "a run", said.append)
        return found, said, time.monotonic() - begun

    return attempt


def told(opened, why, *uri):
    found, said, seconds = opened(*uri)
    assert found is None
    assert len(said) == 1
    assert "can not be used" in said[0]
    assert why in said[0]
    assert "the run goes on without it" in said[0]
    assert "\n" not in said[0]
    assert len(said[0]) < 500
    assert seconds < 15


def test_a_database_that_is_garbage(opened, tmp_path):
    publish_bytes(tmp_path / "mlflow.db", b"\x07garbage" * 1000)
    told(opened, "file is not a database")


def test_a_database_that_is_a_folder(opened, tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    told(opened, "unable to open database file")


def test_a_database_that_another_process_holds(opened, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as base:
        base.execute("BEGIN EXCLUSIVE")
        told(opened, "database is locked")


def test_a_port_where_nobody_listens(opened):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told(opened, "", f"http://127.0.0.1:{port}")


def test_a_server_that_never_answers(opened):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told(opened, "no answer in 12 s", f"http://127.0.0.1:{silent.getsockname()[1]}")


class Answering(BaseHTTPRequestHandler):
    """A server that has one answer for everything: a status, a kind of text, and the text."""

    answer = (200, "application/json", b"{}")

    def do_GET(self):
        status, kind, text = self.answer
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def answering(*answer):
    kind = type("Fixed", (Answering,), {"answer": answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kind
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, "text/html", b"<h1>Internal Server Error</h1>"), "500"),
        ((404, "text/html", b"<h1>Not Found</h1>"), "404"),
        ((401, "application/json", b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}'), "who are you?"),
        ((200, "text/html", b"<h1>Welcome to another service</h1>"), ""),
        ((200, "application/json", b"\xff\x00garbage"), ""),
        ((200, "application/json", b"[]"), ""),
    ],
)
def test_a_server_that_answers_with_something_else(answer, why, opened):
    with answering(*answer) as (url, _):
        told(opened, why, url)


@pytest.mark.parametrize("answer", [(500, "text/html", b"<h1>oh\nno</h1>"), (200, "text/html", b"garbage")])
def test_a_server_that_answers_amid_a_run_with_something_else_is_told_of_once_and_no_more_is_asked(answer, opened):
    """Its first answers are those of a server that has one experiment, and makes one run."""
    asked = []
    run = {"run": {"info": {"run_id": "r", "experiment_id": "1", "status": "RUNNING"}, "data": {}}}
    well = json.dumps({"experiment": {"experiment_id": "1", "name": "proseco"}, **run}).encode()
    with answering(200, "application/json", well) as (url, kind):
        tracking, said, _ = opened(url)
        assert (tracking is not None, said) == (True, [])
        kind.answer = answer
        kind.log_request = lambda self, *_: asked.append(self.path)
        tracking.metrics("r", [{"step": 1, "time_s": 1.0, "loss": 2.0}])
        number = len(asked)
        for _ in range(3):
            tracking.metrics("r", [{"step": 2, "time_s": 2.0, "loss": 1.0}])
        tracking.close("FINISHED")
        assert number == len(asked) > 0
    assert len(said) == 1
    assert "MLflow does not answer" in said[0]
    assert "\n" not in said[0]


def test_a_question_that_is_never_answered_is_given_up(opened, monkeypatch):
    """As by a database server whose machine has gone, which no timeout of HTTP ends."""
    tracking, said, _ = opened()
    monkeypatch.setattr(mlflow_tracking, "ANSWER_S", 0.5)
    never = threading.Event()
    monkeypatch.setattr(tracking, "client", SimpleNamespace(log_batch=lambda *_, **__: never.wait(20)))
    begun = time.monotonic()
    tracking.metrics("r", [{"step": 1, "time_s": 1.0, "loss": 2.0}])
    tracking.end("r")
    assert time.monotonic() - begun < 5
    assert said == ["MLflow does not answer (no answer in 0.5 s); the run goes on, and the journals keep its numbers"]
    never.set()


def test_a_database_that_can_be_used_is(opened):
    found, said, _ = opened()
    assert found is not None
    assert said == []
    found.close("FINISHED")

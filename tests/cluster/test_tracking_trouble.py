"""MLflow that can not be used is noticed soon, told in a line, and costs nothing but curves."""

from __future__ import annotations

import socket
import sqlite3
import time
from contextlib import closing

import pytest

from cluster.environment import prepare
from components.store.files import publish_bytes


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens MLflow at an address, and gives what was said and how long it took."""
    prepare()
    from cluster import mlflow_tracking

    monkeypatch.setattr(mlflow_tracking, "OPEN_S", 12.0)
    monkeypatch.setattr(mlflow_tracking, "LOCKED_S", 1.0)

    def attempt(uri=""):
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


def test_a_database_that_can_be_used_is(opened):
    found, said, _ = opened()
    assert found is not None
    assert said == []
    found.close("FINISHED")

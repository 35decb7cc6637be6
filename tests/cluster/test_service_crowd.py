"""Many clients at once, and those that mean no good: each gets an answer or a reason, and the memory is given back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from tests.bench import service as bench


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("crowd") / "m"


def test_each_of_a_crowd_gets_an_answer_or_is_told_when_to_come_again(folder):
    found = bench.crowd(folder, clients=200, rounds=2, max_requests=24)
    assert set(found["codes"]) == {200, 503}
    assert sum(found["codes"].values()) == 400
    assert found["codes"][200] >= 48
    assert found["refused_without_retry_after"] == 0
    start, *after = found["memory_mb"]
    assert after[-1] - start < 60, found


def test_where_there_is_room_all_of_a_crowd_are_answered(folder):
    found = bench.crowd(folder, clients=60, rounds=1)
    assert found["codes"] == {200: 60}


def test_requests_that_share_an_engine_are_served_sooner_than_by_an_engine_each(folder):
    """A small run of what ``python -m tests.bench.service compare`` measures; there the bar is 3."""
    numbers = bench.compare(folder, clients=64, requests=1, threads=(1,))
    assert numbers["shared"]["requests_per_s"] > 2 * numbers["1"]["requests_per_s"], numbers


def flood(port: int, head: str, said: list[bytes]) -> None:
    """Send 50 MB whatever comes back, and keep what does."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            for _ in range(800):
                chunk = b"x" * 65536
                connection.sendall(b"10000\r\n" + chunk + b"\r\n" if "chunked" in head else chunk)
        with contextlib.suppress(OSError):
            said.append(connection.recv(65536))


@pytest.mark.parametrize("framing", ["Content-Length: 52428800", "Transfer-Encoding: chunked"])
def test_bodies_of_50_megabytes_take_up_no_memory(folder, framing):
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    with bench.running("shared", folder) as (port, pid):
        asyncio.run(bench.at_once(port, 8))
        before, said = bench.memory_of(pid), []
        threads = [threading.Thread(target=flood, args=[port, head, said]) for _ in range(8)]
        for thread in threads:
            thread.start()
        most = before
        while any(thread.is_alive() for thread in threads):
            most = max(most, bench.memory_of(pid))
            threads[0].join(0.02)
        assert most - before < 40, (before, most)
        assert all(answer.startswith(b"HTTP/1.1 413") for answer in said if answer)
        answers = asyncio.run(bench.at_once(port, 4))
        assert [a.code for a in answers] == [200] * 4

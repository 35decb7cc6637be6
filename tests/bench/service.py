"""The service under load: one engine for all requests against one engine for each, and crowds of clients.

    python -m tests.bench.service compare --clients 64 --requests 4
    python -m tests.bench.service crowd --clients 1000

``compare`` runs both servers one after the other, in a process of their own, with the same clients: closed loops of mixed
lengths and budgets. ``crowd`` counts what every one of many clients at once got, and the memory before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LENGTHS, BUDGETS = (16, 24, 32, 48), (8, 16, 32)


class OneEngineEach:
    """Replicas as they would be without a shared engine: every request has an engine of its own, in a thread."""

    def __init__(self, replica: Any, threads: int):
        self.replica, self.num_replicas = replica, 1
        self.threads = ThreadPoolExecutor(threads)
        self.score, self.numbers, self.ready = replica.score, replica.numbers, replica.ready

    async def sample(self, job: Any) -> AsyncGenerator[list[Any], None]:
        from cluster.shared_engine import News
        from components.models.cpu import use_threads
        from components.samplers.engine import Engine

        def work() -> dict[int, Any]:
            use_threads(1)
            limits = replace(self.replica.limits, max_lanes=len(job.rows), forward_lanes=len(job.rows))
            own = _with_limits(self.replica, limits)
            return {s.id: s for s in Engine(own).run(job.sampler, job.rows)}

        yield []
        found = await asyncio.get_running_loop().run_in_executor(self.threads, work)
        yield [News(i, outcome=found[row.id]) for i, row in enumerate(job.rows)]


def _with_limits(replica: Any, limits: Any) -> Any:
    """``open_session`` of a replica with other limits."""
    from cluster.service.replica import Replica

    other = object.__new__(Replica)
    other.__dict__ = {**replica.__dict__, "limits": limits}
    return other.open_session


def serve(kind: str, folder: Path, limits: dict[str, Any]) -> None:
    """A server until standard input ends; prints its port. ``kind`` is shared, or a number of threads with an engine a
    request."""
    from cluster.service.app import build_app
    from cluster.service.gate import Doors
    from cluster.service.http import Server, listen
    from cluster.service.limits import ServiceLimits
    from cluster.service.model import open_model
    from cluster.service.replica import Replica
    from cluster.service.shelf import Shelf
    from components.models.config import ModelConfig
    from components.models.device import Placement
    from tests.components.test_export import exported

    if not folder.exists():
        exported(folder, ModelConfig(dim=64, depth=4, heads=4))
    bounds = replace(ServiceLimits(), **limits)
    replica = Replica(str(folder), Placement(), 1, bounds)
    backend: Any = replica if kind == "shared" else OneEngineEach(replica, int(kind))
    with listen("127.0.0.1", 0) as bound:
        server = Server(build_app(Shelf([open_model("toy", folder, backend, 0)]), bounds, Doors()), bound, bounds)
        server.start()
        print(server.port, flush=True)
        sys.stdin.read()
        server.stop()
        replica.close()


@contextlib.contextmanager
def running(kind: str, folder: Path, **limits: Any) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.service", "serve", kind, str(folder), json.dumps(limits)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        process.wait(60)


@dataclass(frozen=True)
class Answer:
    """What one client got."""

    code: int
    """0 where the connection ended without one."""
    seconds: float
    tokens: int = 0
    retry_after: bool = False


async def ask(port: int, body: dict[str, Any], patience_s: float = 300.0) -> Answer:
    """One request on a connection of its own."""
    start, raw = time.perf_counter(), json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + raw)
            found = await reader.read()
            writer.close()
    except (OSError, TimeoutError):
        return Answer(0, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    headers, _, text = found.partition(b"\r\n\r\n")
    code = int(headers.split(b" ")[1]) if headers.startswith(b"HTTP/1.1 ") else 0
    tokens = sum(len(c["proseco"]["tokens"]) for c in json.loads(text)["choices"]) if code == 200 else 0
    return Answer(code, seconds, tokens, b"retry-after:" in headers.lower())


def mixed(number: int) -> dict[str, Any]:
    """A request of one of the lengths and budgets."""
    length, steps = LENGTHS[number % len(LENGTHS)], BUDGETS[number // len(LENGTHS) % len(BUDGETS)]
    return {"sampler": "proseco", "length": length, "options": {"steps": steps}, "seed": number}


async def closed_loops(port: int, clients: int, requests: int) -> tuple[float, list[Answer]]:
    """(seconds, answers) of clients that ask again as soon as they have an answer."""

    async def client(number: int) -> list[Answer]:
        return [await ask(port, mixed(number * requests + i)) for i in range(requests)]

    start = time.perf_counter()
    found = await asyncio.gather(*(client(number) for number in range(clients)))
    return time.perf_counter() - start, [a for answers in found for a in answers]


def compare(folder: Path, clients: int, requests: int, threads: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Throughput and 95th percentile of the shared engine, and of an engine a request in so many threads."""
    numbers = {}
    for kind in (*map(str, threads), "shared"):
        with running(kind, folder, deadline_s=600.0) as (port, _):  # an engine a request takes its time
            asyncio.run(closed_loops(port, 2, 1))
            seconds, answers = asyncio.run(closed_loops(port, clients, requests))
        assert all(a.code == 200 for a in answers), collections.Counter(a.code for a in answers)
        times = [a.seconds for a in answers]
        numbers[kind] = {
            "requests_per_s": len(answers) / seconds,
            "tokens_per_s": sum(a.tokens for a in answers) / seconds,
            "p50_s": statistics.median(times),
            "p95_s": statistics.quantiles(times, n=20)[-1],
        }
    return numbers


def memory_of(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def at_once(port: int, clients: int) -> list[Answer]:
    return list(await asyncio.gather(*(ask(port, mixed(number)) for number in range(clients))))


def crowd(folder: Path, clients: int, rounds: int, **limits: Any) -> dict[str, Any]:
    """What each of many clients at once got, round after round, and the server's memory."""
    with running("shared", folder, **limits) as (port, pid):
        asyncio.run(at_once(port, 8))
        memory = [memory_of(pid)]
        codes: collections.Counter[int] = collections.Counter()
        silent = 0
        start = time.perf_counter()
        for _ in range(rounds):
            answers = asyncio.run(at_once(port, clients))
            codes.update(a.code for a in answers)
            silent += sum(a.code in (429, 503) and not a.retry_after for a in answers)
            memory.append(memory_of(pid))
        seconds = time.perf_counter() - start
    return {"codes": dict(codes), "refused_without_retry_after": silent, "memory_mb": memory, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare")
    one.add_argument("--clients", type=int, default=64)
    one.add_argument("--requests", type=int, default=4)
    many = commands.add_parser("crowd")
    many.add_argument("--clients", type=int, default=1000)
    many.add_argument("--rounds", type=int, default=3)
    child = commands.add_parser("serve")
    child.add_argument("kind", help="shared, or a number of threads")
    child.add_argument("folder", type=Path)
    child.add_argument("limits", type=json.loads)
    given = parser.parse_args()
    if given.command == "serve":
        serve(given.kind, given.folder, given.limits)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        if given.command == "crowd":
            print(json.dumps(crowd(model, given.clients, given.rounds), indent=1))
            return
        numbers = compare(model, given.clients, given.requests, (1, given.clients))
        shared = numbers["shared"]
        for kind, found in numbers.items():
            print(f"{kind:>6} threads  " if kind != "shared" else "shared engine  ", end="")
            print("  ".join(f"{name} {value:.3f}" for name, value in found.items()), end="  ")
            print(
                f"x {shared['requests_per_s'] / found['requests_per_s']:.2f}, p95 x {shared['p95_s'] / found['p95_s']:.2f}"
            )


if __name__ == "__main__":
    main()

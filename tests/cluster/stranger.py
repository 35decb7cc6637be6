"""A process that has a cluster of its own, and what somebody without its token may try."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from ray.serve.generated.serve_pb2 import ASGIRequest
from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

from cluster.processes import Process, descendants

AGENT_PORT = 52365
ROUTES = ("/api/job_agent/jobs/", "/api/jobs/")


def of(process: Process, name: str) -> bytes:
    """A file of /proc, empty where the process has just ended."""
    try:
        return Path(f"/proc/{process.pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class Up:
    """A process that has a cluster of its own, and what listens in its tree."""

    def __init__(self, command: list[str]):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        pipe = subprocess.PIPE
        self.driver = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def wait_for(self, sign: str) -> None:
        for line in self.driver.stdout:
            if line.startswith(sign):
                return
        raise AssertionError(f"the driver ended with {self.driver.wait()} before it said {sign!r}")

    def tree(self) -> set[Process]:
        return descendants([self.driver.pid])

    def listening(self) -> set[tuple[str, int]]:
        return listening({self.driver.pid, *(p.pid for p in self.tree())})

    def variable(self, name: str) -> str:
        """A variable that the GCS was given."""
        for process in self.tree():
            if b"gcs_server" in of(process, "cmdline"):
                pairs = of(process, "environ").decode().split("\0")
                return dict(p.split("=", 1) for p in pairs if "=" in p)[name]
        raise AssertionError("there is no GCS")

    def agent(self) -> int:
        """The port where the dashboard's agent takes jobs, once it does; it comes up after the cluster.

        0 where another cluster on this machine has the port, which is fixed: then this one takes no jobs.
        """
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if ("127.0.0.1", AGENT_PORT) in self.listening():
                return AGENT_PORT
            if post("127.0.0.1", AGENT_PORT, ROUTES[0], "true") and AGENT_PORT not in {p for _, p in self.listening()}:
                return 0
            time.sleep(0.2)
        raise AssertionError("no agent takes jobs")

    def gcs(self) -> str:
        for process in self.tree():
            # The raylet's argument is the whole command of a worker, with spaces.
            found = re.search(rb"--gcs-address=([^\0 ]+)", of(process, "cmdline"))
            if found:
                return found[1].decode()
        raise AssertionError("nobody was given the address of the GCS")

    def end(self, number: signal.Signals) -> int:
        self.driver.send_signal(number)
        self.driver.stdin.close()
        self.driver.stdout.close()
        return self.driver.wait(timeout=180)


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket of these processes that listens."""
    inodes = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add((readable(address), int(port, 16)))
    return found


def readable(address: str) -> str:
    """An address of /proc/net, whose words of four bytes are little-endian."""
    raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
    made = ipaddress.ip_address(raw)
    return str(getattr(made, "ipv4_mapped", None) or made)


def own_address() -> str:
    """The address that other machines know this one by. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:  # without a network there is loopback alone
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def post(host: str, port: int, route: str, command: str, token: str = "") -> int:
    """Ask for a command to be run, and return the status, or 0 where nothing answers in HTTP."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("POST", route, json.dumps({"entrypoint": command}), headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def try_everywhere(ports: set[int], command: str) -> set[int]:
    """The statuses of all ports, on loopback and on the machine's own address, without a token."""
    asked = [(h, p, r) for h in ("127.0.0.1", own_address()) for p in ports for r in ROUTES]
    with ThreadPoolExecutor(16) as threads:
        return set(threads.map(lambda a: post(*a, command), asked))


def loose(up: Up) -> set[tuple[str, int]]:
    """Sockets that other machines reach, but for the one of each replica that Serve itself binds to all
    addresses; that one asks for the token, too."""
    replicas = {p.pid for p in up.tree() if b"ServeReplica" in of(p, "cmdline")}
    found = {(a, p) for a, p in up.listening() if not ipaddress.ip_address(a).is_loopback}
    return found - listening(replicas)


class Payload:
    """What runs a command where it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def ask_replica(host: str, port: int, command: str, token: str = "") -> str:
    """Send a replica's own port a pickle, and return the status of the answer."""
    channel = grpc.insecure_channel(f"{host}:{port}")
    headers = [("authorization", f"Bearer {token}")] if token else []
    request = ASGIRequest(pickled_request_metadata=pickle.dumps(Payload(command)))
    try:
        ASGIServiceStub(channel).HandleRequest(request, timeout=60, metadata=headers)
    except grpc.RpcError as error:
        return str(error.code().name)
    finally:
        channel.close()
    return "OK"

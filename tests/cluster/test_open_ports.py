"""While a run or a server is up, no socket of it takes a command from somebody without its token."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from ray.serve.generated.serve_pb2 import ASGIRequest
from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

from cluster.config import RuntimeConfig
from cluster.environment import prepare
from cluster.processes import Process, descendants
from tests.components.test_export import exported

pytestmark = pytest.mark.ray

ROUTES = ("/api/job_agent/jobs/", "/api/jobs/")
RUN = """
import sys, time
from cluster.open import open_cluster
from cluster.config import RuntimeConfig

for _ in range(int(sys.argv[1])):
    cluster = open_cluster(RuntimeConfig(replicas=1, cpus=2))
    try:
        assert cluster.map(abs, [-2], lambda i, r: None) == [2]
        cluster.serve([], lambda i, r: None)  # starts the replicas
        print("up", flush=True)
        sys.stdin.readline()
    finally:
        cluster.close()
    print("down", flush=True)
sys.stdin.readline()
"""


def of(process: Process, name: str) -> bytes:
    """A file of /proc, empty where the process has just ended."""
    try:
        return Path(f"/proc/{process.pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class Up:
    """A process that has a cluster of its own, and what listens in its tree."""

    def __init__(self, command: list[str]):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
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

    def gcs(self) -> str:
        for process in self.tree():
            found = re.search(rb"--gcs-address=([^\0]+)", of(process, "cmdline"))
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
        probe.connect(("192.0.2.1", 9))
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


@pytest.fixture(scope="module")
def run() -> Iterator[Up]:
    up = Up([sys.executable, "-c", RUN, "2"])
    try:
        up.wait_for("up")
        yield up
    finally:
        if up.driver.poll() is None:
            up.end(signal.SIGTERM)


def loose(up: Up) -> set[tuple[str, int]]:
    """Sockets that other machines reach, but for the one of each replica that Serve itself binds to all
    addresses; that one asks for the token, too."""
    replicas = {p.pid for p in up.tree() if b"ServeReplica" in of(p, "cmdline")}
    found = {(a, p) for a, p in up.listening() if not ipaddress.ip_address(a).is_loopback}
    return found - listening(replicas)


def test_a_run_listens_on_loopback_only(run):
    assert len(run.listening()) >= 5
    assert loose(run) == set()


def test_nobody_without_the_token_of_a_run_can_have_a_command_run(run, tmp_path):
    ports = {p for _, p in run.listening()}
    statuses = try_everywhere(ports, f"touch {tmp_path / 'without'}")
    assert 401 in statuses  # the route is there, and closed
    assert not {s for s in statuses if 200 <= s < 300}
    token = Path(run.variable("RAY_AUTH_TOKEN_PATH")).read_text()
    assert 200 in {post("127.0.0.1", p, ROUTES[0], f"touch {tmp_path / 'with'}", token) for p in ports}
    deadline = time.monotonic() + 120
    while not (tmp_path / "with").exists():
        assert time.monotonic() < deadline, "not even with the token a command is run, so nothing was tried"
        time.sleep(0.1)
    assert not (tmp_path / "without").exists()


def test_a_driver_without_the_token_of_a_run_is_turned_away(run, tmp_path):
    (tmp_path / "wrong").write_text("0" * 64)
    token = run.variable("RAY_AUTH_TOKEN_PATH")
    # It asks for the address as it is, and does not look for the GCS on the machine's outer one.
    common = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    code = f"import ray; ray.init(address={run.gcs()!r}, log_to_driver=False); print('joined', flush=True)"
    cases = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")},
        "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token},
    }
    drivers = {
        name: subprocess.Popen(
            [sys.executable, "-c", code], env=common | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name, own in cases.items()
    }
    said = {}
    for name, driver in drivers.items():
        try:
            said[name] = driver.communicate(timeout=180)[0]
        finally:
            driver.kill()
    assert "joined" in said["right"]
    for name in ("none", "wrong"):
        assert drivers[name].returncode != 0
        assert "joined" not in said[name]
        assert "authentication" in said[name].lower()


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


def test_a_replica_unpickles_nothing_without_the_token(run, tmp_path):
    ports = {p for _, p in run.listening()}
    asked = [(h, p) for h in ("127.0.0.1", own_address()) for p in ports]
    with ThreadPoolExecutor(16) as threads:
        statuses = set(threads.map(lambda a: ask_replica(*a, f"touch {tmp_path / 'without'}"), asked))
    assert "UNAUTHENTICATED" in statuses
    assert "OK" not in statuses
    token = Path(run.variable("RAY_AUTH_TOKEN_PATH")).read_text()
    for port in ports:
        ask_replica("127.0.0.1", port, f"touch {tmp_path / 'with'}", token)
    assert (tmp_path / "with").exists()
    assert not (tmp_path / "without").exists()


def test_the_token_is_seen_nowhere_but_in_its_file(run):
    path = Path(run.variable("RAY_AUTH_TOKEN_PATH"))
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for process in run.tree():
        for kind in ("cmdline", "environ"):
            assert token.encode() not in of(process, kind)
    sockets = next(
        found[1] for p in run.tree() if (found := re.search(rb"--raylet_socket_name=(\S+?)/sockets/", of(p, "cmdline")))
    )
    logs = [p for p in (Path(sockets.decode()) / "logs").rglob("*") if p.is_file()]
    assert logs
    assert not [p for p in logs if token.encode() in p.read_bytes()]


def test_a_closed_cluster_is_gone_and_the_next_has_a_token_of_its_own(run):
    """The last of the tests that use this run."""
    first, tree = Path(run.variable("RAY_AUTH_TOKEN_PATH")), run.tree()
    token = first.read_text()
    run.driver.stdin.write("\n")
    run.driver.stdin.flush()
    run.wait_for("down")
    assert not [p for p in tree if p.lives()]
    assert run.listening() == set()
    assert not first.parent.exists()
    run.wait_for("up")
    second = Path(run.variable("RAY_AUTH_TOKEN_PATH"))
    assert second.read_text() != token
    run.driver.stdin.write("\n")
    run.driver.stdin.flush()
    run.wait_for("down")
    assert not second.parent.exists()


def test_a_server_takes_no_command_and_leaves_nothing_behind(tmp_path):
    exported(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = Up([sys.executable, "-m", "pipelines.cli", "serve", str(tmp_path / "model"), "--port", str(port)])
    try:
        up.wait_for("serving")
        tree, found = up.tree(), up.listening()
        assert ("127.0.0.1", port) in found
        assert loose(up) == set()
        statuses = try_everywhere({p for _, p in found}, f"touch {tmp_path / 'made'}")
        assert 401 in statuses
        assert not {s for s in statuses if 200 <= s < 300}
    finally:
        code = up.end(signal.SIGTERM)
    assert code == 0
    assert not [p for p in tree if p.lives()]
    assert listening({p.pid for p in tree}) == set()
    assert not (tmp_path / "made").exists()


def test_a_run_that_gets_sigterm_closes_its_cluster(tmp_path):
    """As a scheduler ends a job: the exit code is that of Ctrl-C, and no process, token or lease stays."""
    from tests.chaos import harness

    run = tmp_path / "run.yaml"
    run.write_text(harness.RUN.replace("steps: 6", "steps: 100000"))
    options = ["runtime.tracking_uri=none", f"runtime.root={tmp_path / 'root'}"]
    up = Up([sys.executable, "-m", "pipelines.cli", "run", str(run), *options])
    try:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "root").glob("train/*/metrics.jsonl")):
            assert time.monotonic() < deadline, "no training began in 240 s"
            time.sleep(0.1)
        tree, token = up.tree(), Path(up.variable("RAY_AUTH_TOKEN_PATH"))
        open_to_others = loose(up)
    finally:
        code = up.end(signal.SIGTERM)
    assert code == 130
    assert not [p for p in tree if p.lives()]
    assert not token.parent.exists()
    assert not (tmp_path / "root" / ".lease.json").exists()
    assert open_to_others == set()


def test_what_was_set_for_one_cluster_is_put_back(monkeypatch):
    """So that a cluster that is joined afterwards is met as the user's environment says."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    before = dict(os.environ)
    prepared = prepare(RuntimeConfig())
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ
    prepared.close()
    assert dict(os.environ) == before
    joined = prepare(RuntimeConfig(address="127.0.0.1:6379"))
    assert joined.token is None
    assert dict(os.environ) == before

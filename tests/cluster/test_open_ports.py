"""While a run or a server is up, no socket of it takes a command from somebody without its token."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.config import RuntimeConfig
from cluster.environment import OOM_TRIES, QUIET, prepare
from components.store.lease import highest
from tests.cluster.stranger import ROUTES, Up, ask_replica, listening, loose, of, own_address, post, try_everywhere
from tests.components.test_export import exported

pytestmark = pytest.mark.ray

RUN = """
import signal, sys
from cluster.open import open_cluster
from cluster.config import RuntimeConfig

signal.signal(signal.SIGTERM, signal.default_int_handler)
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


SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Of Ray, read when it is imported: where it is not 0, the outer address of the machine is taken for 127.0.0.1."""


@pytest.fixture(scope="module")
def run() -> Iterator[Up]:
    up = Up([sys.executable, "-c", RUN, "2"])
    try:
        up.wait_for("up")
        yield up
    finally:
        if up.driver.poll() is None:
            up.end(signal.SIGTERM)


def test_a_run_listens_on_loopback_only(run):
    assert len(run.listening()) >= 5
    assert loose(run) == set()


def test_nobody_without_the_token_of_a_run_can_have_a_command_run(run, tmp_path):
    agent = run.agent()
    statuses = try_everywhere({p for _, p in run.listening()}, f"touch {tmp_path / 'without'}")
    assert 401 in statuses  # the route is there, and closed
    assert not {s for s in statuses if 200 <= s < 300}
    if not agent:
        pytest.skip("another Ray cluster has the port of the agent, so with the token no job is taken here either")
    token = Path(run.variable("RAY_AUTH_TOKEN_PATH")).read_text()
    assert post("127.0.0.1", agent, ROUTES[0], f"touch {tmp_path / 'with'}", token) == 200
    deadline = time.monotonic() + 120
    while not (tmp_path / "with").exists():
        assert time.monotonic() < deadline, "not even with the token a command is run, so nothing was tried"
        time.sleep(0.1)
    assert not (tmp_path / "without").exists()


def test_what_ray_leaves_of_a_run_is_closed_to_other_users(run):
    """It lets everybody write to its sockets and logs, so the folder around them must not let others in."""
    sockets = next(
        found[1] for p in run.tree() if (found := re.search(rb"--raylet_socket_name=(\S+?)/sockets/", of(p, "cmdline")))
    )
    session = Path(sockets.decode())
    assert stat.S_IMODE(session.stat().st_mode) == 0o777
    assert stat.S_IMODE(session.parents[1].stat().st_mode) == 0o700
    assert session.parents[1].stat().st_uid == os.getuid()


def test_a_driver_without_the_token_of_a_run_is_turned_away(run, tmp_path):
    (tmp_path / "wrong").write_text("0" * 64)
    token = run.variable("RAY_AUTH_TOKEN_PATH")
    code = f"import ray; ray.init(address={run.gcs()!r}, log_to_driver=False); print('joined', flush=True)"
    cases = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")},
        "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token},
    }
    drivers = {
        name: subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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
        up.agent()
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
    chains = list((tmp_path / "root" / ".leases").iterdir())
    assert chains
    assert [highest(chain)[1] for chain in chains] == [None] * len(chains)
    assert open_to_others == set()


def test_a_run_says_nothing_but_its_results():
    """Ray tells of "infinite retries" of its own on standard output whenever Serve ends."""
    said = subprocess.run([sys.executable, "-c", RUN, "1"], input="\n\n", capture_output=True, text=True, timeout=240)
    assert said.stdout.splitlines() == ["up", "down"]
    assert "infinite" not in said.stderr


@pytest.mark.parametrize("address", ["", "127.0.0.1:6379"])
def test_a_cluster_on_this_machine_is_refused_where_ray_was_imported_before(address):
    code = f"""
import ray
from cluster.open import open_cluster
from cluster.config import RuntimeConfig
open_cluster(RuntimeConfig(address={address!r}))
"""
    environment = {k: v for k, v in os.environ.items() if k != SWITCH}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "Open the cluster before Ray is imported" in ran.stderr


def test_what_was_set_for_one_cluster_is_put_back(monkeypatch):
    """So that a cluster that is joined afterwards is met as the user's environment says."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    monkeypatch.delenv(SWITCH)
    before = dict(os.environ)
    prepared = prepare(RuntimeConfig())
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ
    shutil.rmtree(prepared.token.parent)  # as one that cleans temporary files may
    prepared.close()
    assert dict(os.environ) == before
    assert SWITCH not in os.environ
    joined = prepare(RuntimeConfig(address="192.0.2.1:6379"))
    assert joined.token is None
    assert dict(os.environ) == before | {OOM_TRIES: "2"}, "of this process alone, which has the tasks that it sends there tried again"
    joined.close()
    assert dict(os.environ) == before
    on_loopback = prepare(RuntimeConfig(address="127.0.0.1:6379"))
    assert on_loopback.token is None
    assert (os.environ["RAY_AUTH_MODE"], os.environ[SWITCH]) == ("disabled", "0")
    on_loopback.close()
    assert dict(os.environ) == before


def test_the_daemons_of_our_own_cluster_rest_unless_the_user_says_otherwise(monkeypatch):
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_event_stats", "1")
    before = dict(os.environ)
    prepared = prepare(RuntimeConfig())
    told = {name: os.environ[name] for name in QUIET}
    prepared.close()
    assert told == QUIET | {"RAY_event_stats": "1"}
    assert dict(os.environ) == before
    assert not QUIET.keys() & prepare(RuntimeConfig(address="192.0.2.1:6379")).former.keys()

"""``proseco serve`` on Ray: it answers, drops what nobody waits for, refuses with a reason, and ends when told."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from cluster.processes import command, descendants
from components.api import load, sample
from components.models.config import ModelConfig
from components.models.weights import version_of
from components.store.history import Entry, read_history
from tests.cluster.service import events_of
from tests.components.test_export import MODELS, exported
from tests.waiting import until

LONG = {"sampler": "proseco", "options": {"steps": 2, "corrector": {"passes": 500_000, "inner": "sample"}}}

TOLD_S = 20
"""Who waits for a replica that died is told within so long; a deadline of 50 s would end it otherwise."""
REPLACED_S = 60
"""And another one answers."""


def ask(url: str, body: object = None, **headers: str) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Served:
    """A running ``proseco serve``."""

    def __init__(self, *arguments: str):
        command = [sys.executable, "-m", "pipelines.cli", "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, f"it did not start: {line!r}, {self.process.poll()}"
        self.port, self.url = int(found[1]), found[0]

    def number(self, name: str, **labels: str) -> float:
        """The sum of a number over all replicas that have these labels."""
        lines = ask(f"{self.url}/metrics")[1].splitlines()
        kept = [x for x in lines if x.startswith(f"{name}{{") and all(f'{k}="{v}"' in x for k, v in labels.items())]
        return sum(float(x.rsplit(" ", 1)[1]) for x in kept)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=90)


def replicas_of(served: Served) -> list[int]:
    """Processes."""
    below = descendants([served.process.pid])
    return [p.pid for p in below if command(p.pid).startswith(b"ray::ServeReplica")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    exported(folder / "plain")
    exported(folder / "classes", MODELS["conditioned"], "mdlm")
    return folder


@pytest.fixture(scope="module")
def served(folders) -> Iterator[Served]:
    found = Served(
        str(folders / "plain"), f"second={folders / 'classes'}", "--replicas", "2", "limits.max_cost=1000000000000"
    )
    try:
        yield found
    finally:
        found.end()


@pytest.mark.ray
def test_models_on_replicas_answer_as_python_does(served, folders):
    assert json.loads(ask(f"{served.url}/readyz")[1]) == {"status": "ready"}
    assert [m["id"] for m in json.loads(ask(f"{served.url}/v1/models")[1])["data"]] == ["plain", "second"]
    body = {"model": "plain", "prompt": ["12", ""], "n": 2, "options": {"steps": 3}}
    code, text = ask(f"{served.url}/v1/completions", body)
    assert code == 200, text
    answer = json.loads(text)
    rows = sample(load(folders / "plain"), "proseco", 2, ["12", ""], steps=3)
    assert [c["proseco"]["tokens"] for c in answer["choices"]] == [list(r.sample.tokens) for r in rows]
    code, text = ask(f"{served.url}/v1/completions", body | {"stream": True})
    *events, done = events_of(text)
    assert done == "[DONE]"
    assert events[-1]["choices"] == answer["choices"]
    shown = {e["index"]: list(e["tokens"]) for e in events[:4]}
    for event in events[4:-1]:
        for edit in event["edits"]:
            assert shown[event["index"]][edit["position"]] == edit["old"]
            shown[event["index"]][edit["position"]] = edit["new"]
    assert [shown[i] for i in range(4)] == [c["proseco"]["tokens"] for c in answer["choices"]]
    assert ask(f"{served.url}/v1/completions", {"model": "second", "label": 2, "options": {"steps": 2}})[0] == 200
    scores = json.loads(ask(f"{served.url}/v1/score", {"model": "plain", "texts": ["123231312"]})[1])["scores"]
    assert scores["nelbo"][0] > 0
    code, text = ask(f"{served.url}/v1/score", {"model": "plain", "texts": ["1"], "scorers": ["localization"]})
    assert code == 400, text


@pytest.mark.ray
def test_the_numbers_of_all_replicas_are_seen_at_one_place(served):
    text = ask(f"{served.url}/metrics")[1]
    assert len(set(re.findall(r'proseco_forwards_total{model="plain",replica="([^"]+)"}', text))) == 2
    before = served.number("proseco_rows_total", model="plain")
    for seed in range(8):
        assert ask(f"{served.url}/v1/completions", {"model": "plain", "seed": seed, "options": {"steps": 2}})[0] == 200
    until(lambda: served.number("proseco_rows_total", model="plain") == before + 8)


@pytest.mark.ray
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_noticed_by_the_replica(served, stream):
    body = json.dumps(LONG | {"model": "plain", "n": 3, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: served.number("proseco_rows_running", lane="people") == 3)
    until(lambda: served.number("proseco_rows_running", lane="people") == 0)


@pytest.mark.ray
def test_a_deadline_and_a_crowd_on_replicas(served):
    code, text = ask(f"{served.url}/v1/completions", LONG | {"model": "plain", "deadline_s": 0.5})
    assert (code, json.loads(text)["error"]["code"]) == (504, "deadline_exceeded")
    codes = []

    def one(seed: int) -> None:
        codes.append(
            ask(f"{served.url}/v1/completions", {"model": "plain", "seed": seed, "options": {"steps": 2 + seed % 3}})[0]
        )

    threads = [threading.Thread(target=one, args=[seed]) for seed in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert codes == [200] * 48
    until(lambda: served.number("proseco_rows_running", lane="people") == 0)


@pytest.mark.ray
def test_a_replica_that_dies_is_replaced_and_nobody_waits_for_ever(served):
    """Both replicas of one model, amid an answer: the client is told to ask again, and then gets one."""
    found: list[tuple[int, str]] = []
    body = LONG | {"model": "plain", "deadline_s": 50}
    thread = threading.Thread(target=lambda: found.append(ask(f"{served.url}/v1/completions", body)))
    thread.start()
    until(lambda: served.number("proseco_rows_running", lane="people") == 1)
    text = ask(f"{served.url}/metrics")[1]
    for pid in set(re.findall(r'proseco_forwards_total{model="plain",replica="[^"]+-(\d+)"}', text)):
        os.kill(int(pid), signal.SIGKILL)
    killed = time.monotonic()
    thread.join(TOLD_S)
    assert found[0][0] == 503, found
    assert "ask again" in json.loads(found[0][1])["error"]["message"]
    until(lambda: ask(f"{served.url}/v1/completions", {"model": "plain", "options": {"steps": 2}})[0] == 200, REPLACED_S)
    assert time.monotonic() - killed < REPLACED_S


@pytest.mark.ray
def test_what_is_at_work_may_end_when_the_service_is_stopped(served):
    """The last of the tests that use this service."""
    found: list[tuple[int, str]] = []
    body = {
        "model": "plain",
        "sampler": "proseco",
        "options": {"steps": 2, "corrector": {"passes": 1000, "inner": "sample"}},
    }
    thread = threading.Thread(target=lambda: found.append(ask(f"{served.url}/v1/completions", body)))
    thread.start()
    until(lambda: served.number("proseco_rows_running", lane="people") == 1 or found)
    below = descendants([served.process.pid])
    served.process.send_signal(signal.SIGTERM)
    thread.join(90)
    assert found[0][0] == 200
    assert served.end() == 0
    assert len(below) > 5
    assert not [p for p in below if p.lives()]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", served.port))


def refused(*arguments: str) -> str:
    """What ``proseco serve`` says instead of serving; in less time than it takes to start a cluster."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_what_is_wrong_is_said_before_a_cluster_is_started(folders, tmp_path):
    model = str(folders / "plain")
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port = {port}" in refused(model, "--port", port)
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"- {{name: a, sha256: {hashlib.sha256(b'a').hexdigest()}}}")
    cases = [
        ([model, "--port", "70000"], "port = 70000"),
        ([str(tmp_path)], "no exported model"),
        ([model, "limits.max_sample=3"], "did you mean max_samples?"),
        ([model, "limits.max_samples=0"], "at least 1"),
        ([model, model], "plain-2="),
        ([f"a b={model}"], "model = 'a b'"),
        ([model, "--host", "0.0.0.0"], "give --keys FILE"),
        ([model, "--host", "no.such.host.invalid", "--keys", str(keys)], "host = "),
        ([model, "--keys", str(tmp_path / "none")], "can not be read"),
    ]
    for arguments, words in cases:
        assert words in refused(*arguments), arguments


def test_a_service_for_others_asks_for_keys(folders, tmp_path):
    from cluster.service.serving import Address
    from components.errors import ConfigError

    with pytest.raises(ConfigError, match="--keys"):
        Address("0.0.0.0", 8000).doors()
    assert Address("127.0.0.1", 8000).doors().keys is None
    assert Address("localhost", 8000).doors().keys is None


@pytest.mark.ray
def test_the_champion_of_a_nightly_run_is_served_and_followed(tmp_path):
    """Replicas of the new one start beside those of the old one, whose requests are answered all the while."""
    (tmp_path / "export").mkdir()
    exported(tmp_path / "export" / "a")
    exported(tmp_path / "export" / "b", ModelConfig(dim=16, depth=1, heads=2))
    history = read_history(tmp_path, "tiny").add(Entry("2026-11-16", "first", "a"))
    before, after = (version_of(tmp_path / "export" / key) for key in "ab")
    found = Served(str(history.folder), "limits.follow_s=0.2", "limits.trial_s=1", "limits.trial_share=0.5")
    try:
        body = {"options": {"steps": 2}}
        assert json.loads(ask(f"{found.url}/v1/completions", body)[1])["system_fingerprint"] == before
        history.add(Entry("2026-11-17", "promoted", "b", before="a"))
        seen = []

        def taken() -> bool:
            code, text = ask(f"{found.url}/v1/completions", body)
            seen.append((code, json.loads(text).get("system_fingerprint", text)))
            return found.number("proseco_trials_total", outcome="taken") == 1

        until(taken, 120)
        assert json.loads(ask(f"{found.url}/v1/completions", body)[1])["system_fingerprint"] == after
        assert {code for code, _ in seen} == {200}, seen
        until(lambda: len(replicas_of(found)) == 1)
    finally:
        assert found.end() == 0

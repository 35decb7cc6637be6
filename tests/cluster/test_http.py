"""``proseco serve`` answers, refuses with a reason, and ends when told."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.components.test_export import exported

pytestmark = pytest.mark.ray


def ask(url: str, body: object = None) -> tuple[int, dict]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_serving_over_http(tmp_path):
    exported(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(tmp_path / "model"), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None
            assert time.monotonic() < deadline, "the server did not answer in 120 s"
            try:
                if ask(f"{url}/healthz")[0] == 200:
                    break
            except (OSError, ValueError):
                time.sleep(0.5)
        body = {"prompts": ["12", ""], "num_samples": 2, "sampler": "proseco", "options": {"steps": 3}, "trace": True}
        code, found = ask(f"{url}/v1/sample", body)
        assert code == 200
        assert len(found["samples"]) == 4
        assert all(s["calls"] >= 1 and s["trace"] for s in found["samples"])
        assert ask(f"{url}/v1/sample", body)[1] == found
        code, scores = ask(f"{url}/v1/score", {"texts": ["123231312"], "scorers": ["nelbo", "entropy"]})
        assert code == 200
        assert scores["scores"]["nelbo"][0] > 0
        assert ask(f"{url}/v1/sample", {"sampler": "prosecco"})[0] == 400
        assert "did you mean proseco?" in ask(f"{url}/v1/sample", {"sampler": "prosecco"})[1]["error"]
        code, found = ask(f"{url}/v1/sample", {"sampler": "proseco", "options": {"corrector": {"draft": "argmx"}}})
        assert code == 400
        assert "sampler.corrector.draft = 'argmx'" in found["error"]
        assert "did you mean argmax?" in found["error"]
        assert ask(f"{url}/v1/sample", {"prompts": "12"})[0] == 400, "a text is no list of prompts"
        assert ask(f"{url}/v1/score", {})[0] == 400
        assert ask(f"{url}/v1/sample", {"num_samples": 10**6})[0] == 400
        assert ask(f"{url}/v1/sample", [1])[0] == 400
        assert ask(f"{url}/nowhere", {})[0] == 404
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)

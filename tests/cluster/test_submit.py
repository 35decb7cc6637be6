"""``proseco submit`` and its like on a cluster of two nodes: the same tables as here, once, and never without a token."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import jobs, processes
from cluster.jobs import Job, Jobs, Once
from components.errors import ClusterError, ConfigError
from components.options import plain_of
from components.store.files import at
from pipelines.config.load import load_run
from pipelines.submission import elsewhere, ids, submit
from tests.chaos import harness
from tests.cluster.nodes import Nodes, nodes
from tests.cluster.stranger import listening, try_everywhere
from tests.objects import BUCKET, objects, reach
from tests.waiting import until

RUNS = sorted(Path("configs/runs").glob("*.yaml"))


@pytest.fixture(scope="module")
def there():
    with nodes(2) as made:
        yield made


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "chaos.yaml"
    path.write_text(harness.RUN)
    return path


def proseco(there: Nodes, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | there.environment | variables
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    printed, complained = process.communicate(timeout=300)
    return process.returncode, printed, complained


def jobs_of(there: Nodes) -> list[dict[str, object]]:
    code, printed, complained = told(proseco(there, "status", "--json"))
    assert code == 0, complained
    return json.loads(printed)


@pytest.mark.ray
def test_a_run_that_two_send_at_once_is_made_once_and_its_tables_are_those_of_this_machine(there, run, tmp_path):
    shared = [str(run), "runtime.zero_stage=2"]
    sent = [*shared, f"runtime.root={tmp_path / 'there'}"]
    first, second = proseco(there, "submit", *sent), proseco(there, "submit", *sent)
    both = [told(first), told(second)]
    assert [code for code, _, _ in both] == [0, 0], both
    assert sorted("was sent before" in printed for _, printed, _ in both) == [False, True]
    assert all("stages made" in printed for _, printed, _ in both), "both follow what it prints"
    (job,) = [j for j in jobs_of(there) if j["run"] == "chaos"]
    assert job["state"] == "SUCCEEDED"
    here = proseco(there, "run", *shared, "runtime.executor=local", "runtime.tracking_uri=none", f"runtime.root={tmp_path / 'here'}", "--quiet")
    assert told(here)[0] == 0
    assert harness.samples(tmp_path / "there") == harness.samples(tmp_path / "here")
    # What has ended may be sent again, and finds everything done.
    code, printed, _ = told(proseco(there, "submit", *sent))
    assert code == 0
    assert "nothing to do" in printed
    assert len(jobs_of(there)) == 2


@pytest.mark.ray
def test_a_run_whose_root_is_a_store_of_objects_gives_the_tables_of_this_machine(there, run, tmp_path, monkeypatch):
    """The nodes share nothing but the store; where it is, and who asks, is passed on with the job."""
    shared = [str(run), "runtime.zero_stage=2", "runtime.tracking_uri=none"]
    with objects() as variables:
        passed = [word for name in variables for word in ("--env", name)]
        root = f"s3://{BUCKET}/root"
        code, printed, complained = told(proseco(there, "submit", *shared, f"runtime.root={root}", *passed, **variables))
        assert code == 0, printed + complained
        reach(monkeypatch, variables)
        at(root).fs.get(f"{BUCKET}/root", str(tmp_path / "there"), recursive=True)
    here = proseco(there, "run", *shared, "runtime.executor=local", f"runtime.root={tmp_path / 'here'}", "--quiet")
    assert told(here)[0] == 0
    assert harness.samples(tmp_path / "there") == harness.samples(tmp_path / "here") != []


@pytest.mark.ray
def test_a_job_that_fails_tells_why_and_passes_its_exit_code_on(there, run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    code, printed, complained = told(proseco(there, "submit", str(run), f"runtime.root={tmp_path / 'file'}", "--id", "fails"))
    assert code == 1
    assert "error: " in printed
    assert "FAILED" in complained
    again = told(proseco(there, "submit", str(run), f"runtime.root={tmp_path / 'other'}", "--id", "fails"))
    assert again[0] == 1, "an id that was given is used once"
    assert "was sent before" in again[1]
    assert not (tmp_path / "other").exists()


@pytest.mark.ray
def test_a_job_that_is_stopped_closes_what_it_holds_and_whoever_follows_it_is_told(there, run, tmp_path):
    root = tmp_path / "root"
    longer = ["train.base.steps=100000", "runtime.tracking_uri=none", f"runtime.root={root}"]
    code, printed, complained = told(proseco(there, "submit", str(run), *longer, "--id", "long", "--no-follow"))
    assert (code, printed) == (0, f"long: sent to {there.environment['RAY_API_SERVER_ADDRESS']}\n"), complained
    following = proseco(there, "logs", "long", "--follow")
    until(lambda: list(root.glob("train/*/metrics.jsonl")), 120)
    for number, command in (signal.SIGINT, ["logs", "long", "--follow"]), (signal.SIGTERM, ["submit", str(run), *longer, "--id", "long"]):
        leaving = proseco(there, *command)
        assert leaving.stdout is not None
        until(lambda leaving=leaving: "latin" in leaving.stdout.readline())
        leaving.send_signal(number)
        begun = time.monotonic()
        code, _, complained = told(leaving)
        assert (code, "the job goes on" in complained) == (130, True), complained
        assert "Traceback" not in complained
        assert time.monotonic() - begun < 30
    assert [j["state"] for j in jobs_of(there) if j["id"] == "long"] == ["RUNNING"]
    assert told(proseco(there, "stop", "long"))[:2] == (0, "long: is told to end\n")
    code, printed, complained = told(following)
    assert code != 0
    assert "STOPPED" in complained
    assert "stopped; the same command resumes" in printed
    chains = [path for path in root.glob(".leases/*/*.json") if json.loads(path.read_text())["id"]]
    assert chains == [], "a lease was not given back"


@pytest.mark.ray
def test_nobody_without_the_token_sends_a_job_or_sees_one(there, run, tmp_path):
    (tmp_path / "wrong").write_text("0" * 64)
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}):
        for command in (["submit", str(run), f"runtime.root={tmp_path / 'root'}"], ["status"], ["logs", "x"], ["stop", "x"]):
            code, _, complained = told(proseco(there, *command, **variables))
            assert code == 1
            assert "RAY_AUTH_TOKEN_PATH" in complained, complained
            assert "Traceback" not in complained
    assert not (tmp_path / "root").exists()


@pytest.mark.ray
def test_a_job_that_there_is_not_is_refused_in_words(there):
    for command in (["logs", "nobody"], ["logs", "nobody", "--follow"], ["status", "nobody"], ["stop", "nobody"]):
        code, _, complained = told(proseco(there, *command))
        assert (code, "knows no such job" in complained) == (1, True), complained


@pytest.mark.ray
def test_a_cluster_of_several_nodes_is_closed_to_others_and_ends_when_told(tmp_path):
    with nodes(2, cpus=1) as made:
        assert "2 nodes of 1 CPUs each are ready" in made.printed
        assert made.token.stat().st_mode & 0o777 == 0o600
        started = processes.descendants([made.process.pid])
        open_to = listening({p.pid for p in started})
        assert len(open_to) > 8
        assert {a for a, _ in open_to if not ipaddress.ip_address(a).is_loopback} == set()
        statuses = try_everywhere({p for _, p in open_to}, f"touch {tmp_path / 'without'}")
        assert 401 in statuses
        assert not {s for s in statuses if 200 <= s < 300}
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(timeout=120) == 130
    assert not [p for p in started if p.lives()]
    assert not made.token.exists()
    assert not (tmp_path / "without").exists()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_that_travelled_is_the_run_that_was_sent(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PROSECO_DATA", os.environ.get("PROSECO_DATA", "/nowhere"))
    try:
        run = load_run(path, [])
    except ConfigError as error:
        pytest.skip(f"not all that it names is here: {str(error).splitlines()[1]}")
    (tmp_path / "run.yaml").write_text(json.dumps(plain_of(run) | {"workflow": run.workflow}))
    assert load_run(tmp_path / "run.yaml", []) == run


def test_relative_places_are_refused_because_elsewhere_they_are_others(run, tmp_path):
    (tmp_path / "texts.txt").write_text("a text\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        made = load_run(run, ["corpora.other.source.name=text", "corpora.other.source.path=texts.txt"])
    assert [p.path for p in elsewhere(made)] == ["runtime.root", "corpora.other.source.path"]
    with pytest.raises(ConfigError, match="every machine of the cluster sees"):
        submit(None, made, "", {})


def test_ids_are_of_the_run_and_say_which_try_it_is():
    first, second, *_ = ids("a run/1", "text")
    assert first.startswith("a-run-1-")
    assert second == f"{first}.2"
    assert next(ids("a run/1", "other text")) != first


def test_a_stream_that_begins_again_is_passed_on_once():
    found: list[str] = []
    once = Once(found.append)
    for stream in (["ab", "cd"], ["a", "bc"], ["abcde", "f"], ["abcdef", "g"]):
        once.begin()
        for text in stream:
            once.tell(text)
    assert "".join(found) == "abcdefg"


def test_an_address_where_nobody_answers_is_told():
    with pytest.raises(ClusterError, match="address is that of the cluster's dashboard"):
        Jobs("http://127.0.0.1:9")


def test_an_address_that_takes_a_question_and_gives_no_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(jobs, "ANSWER_S", 0.5)
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ClusterError, match="does not take this: .*timed out"):
            Jobs(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - begun < 5


class Streams:
    """A client whose streams of what a job prints are given; one without an end was left open by a machine that is gone."""

    def __init__(self, *streams):
        self.streams = list(streams)

    async def tail_job_logs(self, id):
        for text in self.streams.pop(0):
            if text is None:
                await asyncio.sleep(60)
            yield text


def test_a_stream_that_says_nothing_more_is_begun_anew_while_the_job_lives(monkeypatch):
    monkeypatch.setattr(jobs, "SILENT_S", 0.5)
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    states = iter(["RUNNING", "RUNNING", "SUCCEEDED"])
    followed = Jobs.__new__(Jobs)
    followed.client = Streams(["one ", None], ["one ", "two"])
    monkeypatch.setattr(Jobs, "get", lambda self, id: Job(id, "run", next(states), "", 0, 1.0, 2.0))
    told: list[str] = []
    begun = time.monotonic()
    assert followed.follow("job", told.append).state == "SUCCEEDED"
    assert told == ["one ", "two"]
    assert 0.5 < time.monotonic() - begun < 10


def test_a_cluster_that_is_gone_is_not_followed_for_ever(monkeypatch):
    monkeypatch.setattr(jobs, "SILENT_S", 0.1)
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.5)
    followed = Jobs.__new__(Jobs)
    followed.address = "http://head:8265"
    followed.client = Streams(*[[None]] * 1000)
    answers = iter([Job("job", "run", "RUNNING", "", None, 1.0, 0.0)])

    def get(self, id):
        for answer in answers:
            return answer
        raise ClusterError("no answer")

    monkeypatch.setattr(Jobs, "get", get)
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=r"did not answer for 0.5 s .* `proseco logs job` follows it again"):
        followed.follow("job", print)
    assert time.monotonic() - begun < 10

"""Tracking as several machines share it: a real MLflow server over a real PostgreSQL, both on loopback, both mortal."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from cluster.nodes import free_port
from pipelines.cli import main
from tests.chaos import harness
from tests.waiting import until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
OPTIONS = [o for o in harness.LOCAL if "tracking" not in o]
OWNER = "postgres" if os.getuid() == 0 else None
"""PostgreSQL does not run as root."""

pytestmark = pytest.mark.skipif(not BINARIES, reason="no PostgreSQL is installed (Debian: apt-get install postgresql)")


@contextlib.contextmanager
def running(command: list[str], **options) -> Iterator[subprocess.Popen[bytes]]:
    """A command with all that it starts; ended as Ctrl-C does, which PostgreSQL takes for a fast shutdown."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Iterator[str]:
    """The URL of an empty database, with a password that only this test knows."""
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    binaries, password, port = BINARIES[-1], secrets.token_hex(16), free_port()
    try:
        (folder / "password").write_text(password)
        if OWNER:
            for path in (folder, folder / "password"):
                shutil.chown(path, OWNER)
        setup = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "proseco", "--pwfile", str(folder / "password")]
        subprocess.run([*setup, "--auth", "scram-sha-256"], user=OWNER, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        serve = [str(binaries / "postgres"), "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        with running(serve, user=OWNER, cwd=folder):
            ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            until(lambda: subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode == 0)
            yield f"postgresql://proseco:{password}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def tracking(database: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server over a database: (its address, its process)."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--artifacts-destination", str(folder),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{url}/health", timeout=2).status == 200
        return False

    # By its environment, so that the password stands on no command line.
    with running(command, env=os.environ | {"MLFLOW_BACKEND_STORE_URI": database}) as process:
        until(lambda: process.poll() is not None or answers(), 120)
        assert process.poll() is None, "the server ended"
        yield url, process


def proseco(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "chaos.yaml"
    path.write_text(harness.RUN)
    return path


def test_stages_are_tracked_and_nights_registered_on_a_server(database, run, tmp_path):
    with tracking(database, tmp_path / "artifacts") as (url, _):
        code, said = proseco("run", str(run), *OPTIONS, f"runtime.tracking_uri={url}", f"runtime.root={tmp_path / 'root'}")
        assert code == 0, said
        client = MlflowClient(url)
        experiment = client.get_experiment_by_name("proseco").experiment_id
        runs = {r.info.run_name: r for r in client.search_runs([experiment])}
        assert {"train/base", "export/proseco", "report"} <= runs.keys()
        assert {r.info.status for r in runs.values()} == {"FINISHED"}
        trained = runs["train/base"]
        assert trained.data.params["train.steps"] == "6"
        assert len(client.get_metric_history(trained.info.run_id, "grad_norm")) == 3
        nights = tmp_path / "nightly.yaml"
        nights.write_text(
            harness.RUN.replace("name: chaos", "workflow: nightly\nname: chaos").replace("num_samples: 12", "num_samples: 30")
            + "gate: {sampler: proseco, better: validity}\n"
        )
        given = [*OPTIONS, f"runtime.tracking_uri={url}", f"runtime.root={tmp_path / 'root'}", "--quiet"]
        code, said = proseco("nightly", str(nights), "--date", "2026-11-26", *given)
        assert code == 0, said
        assert "not brought up to date" not in said
        version = client.get_model_version_by_alias("chaos", "champion")
        assert Path(version.tags["folder"]).is_relative_to(tmp_path / "root" / "export")


def test_a_server_that_dies_costs_a_run_nothing_but_its_curves(database, run, tmp_path):
    longer = ["train.base.steps=600", "train.base.log_every=1"]
    command = [sys.executable, "-m", "pipelines.cli", "run", str(run), *OPTIONS, *longer]
    with tracking(database, tmp_path / "artifacts") as (url, server):
        process = subprocess.Popen(
            [*command, f"runtime.tracking_uri={url}", f"runtime.root={tmp_path / 'root'}"],
            env=os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        until(lambda: list((tmp_path / "root").glob("train/*/metrics.jsonl")), 120)
        kill(server)
        said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said[-3000:]
    assert "MLflow does not answer" in said
    alone = [*command, "runtime.tracking_uri=none", f"runtime.root={tmp_path / 'alone'}", "--quiet"]
    assert subprocess.run(alone, check=False, timeout=300).returncode == 0
    assert harness.samples(tmp_path / "root") == harness.samples(tmp_path / "alone")


def test_a_server_that_is_not_there_is_told_before_the_first_stage_and_the_run_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", str(run), *OPTIONS, f"runtime.tracking_uri={url}", f"runtime.root={tmp_path / 'root'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    before, _, _ = process.stderr.partition("[1/")
    assert f"MLflow at {url} can not be used" in before
    assert process.stderr.count("MLflow") == 1
    assert list((tmp_path / "root").glob("train/*/manifest.json"))

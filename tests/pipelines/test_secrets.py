"""No secret is in what is printed, written or tracked: those of the environment, of addresses, and API keys."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import components.errors
from cluster.environment import Prepared
from cluster.service.errors import ApiError
from cluster.service.keys import read_keys
from components.client import Client
from components.errors import ClusterError, ConfigError, CorruptArtifact, ProsecoError, without_passwords
from pipelines.cli import main
from pipelines.config.load import load_run, over
from pipelines.graph.progress import Screen
from pipelines.graph.runner import flat
from pipelines.graph.stage import in_order
from pipelines.submission import secrets_in
from pipelines.workflows import build
from tests.chaos import harness

WORD = "hunter2-7f3a"
"""The secret of every test."""
VARIABLES = [
    "RAY_AUTH_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "FSSPEC_SFTP_PASSWORD",
]  # fmt: skip


@pytest.fixture
def secrets(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{WORD}-{name.lower()}")


@pytest.fixture
def run(tmp_path) -> Path:
    path = tmp_path / "chaos.yaml"
    path.write_text(harness.RUN)
    return path


def proseco(*arguments: str) -> str:
    """All that a command prints, and the traceback where there is one."""
    result = CliRunner().invoke(main, list(arguments))
    return result.output + repr(result.exception) + str(result.exc_info)


def holding(folder: Path, text: str) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_a_run_writes_and_prints_nothing_of_the_environment(secrets, run, tmp_path):
    """Files of the stages, journals, the report, MLflow's tables and its copies."""
    root = tmp_path / "root"
    where = [str(run), *harness.LOCAL[:-1], f"runtime.root={root}"]  # with MLflow
    said = {"run": proseco("run", *where)}
    assert "stages made" in said["run"]
    for command in (["plan"], ["plan", "--json"], ["show"], ["show", "--json"], ["explain"]):
        said[" ".join(command)] = proseco(*command, *where)
    said["doctor"] = proseco("doctor", "--root", str(root), "--json")
    assert [name for name, text in said.items() if WORD in text] == []
    assert holding(root, WORD) == []
    assert "mlflow.db" in holding(root, "proseco"), "what is written to MLflow is looked at, too"
    assert any(name.endswith("report.html") for name in holding(root, "chaos"))


def test_what_is_tracked_of_a_stage_says_nothing_of_the_machine(run):
    stages = in_order(list(build(load_run(run, ["runtime.tracking_uri=none", f"runtime.root=/{WORD}"])).values()))
    for stage in stages:
        params = flat(stage.identity["config"])
        assert WORD not in json.dumps(params)
        assert not [name for name in params if "runtime" in name or "tracking" in name]
    (report,) = (s for s in stages if s.name == "report")
    assert "run.corpora.latin.source.type" in flat(report.identity["config"])


@pytest.mark.parametrize("field", ["tracking_uri", "root"])
@pytest.mark.parametrize("url", ["http://ann:{}@host:5000/x", "postgresql://ann:{}@host/db", "sftp://ann:p@{}@host/runs"])
@pytest.mark.parametrize("command", ["plan", "run", "show", "explain"])
def test_a_password_in_an_address_is_refused_and_not_repeated(command, url, field, run):
    others = ["runtime.tracking_uri=none"] if field == "root" else []
    said = proseco(command, str(run), *others, f"runtime.{field}={url.format(WORD)}")
    assert f"runtime.{field} = '{url.format('')[: url.index(':')]}://ann:***@host" in said
    assert "without a password" in said
    assert "remedy: leave it out" in said
    assert WORD not in said


def test_addresses_without_a_password_are_taken(run):
    for uri in ("http://host:5000", "https://ann@host/x", "sqlite:////tmp/a@b.db", "databricks://profile", "none"):
        assert load_run(run, [f"runtime.tracking_uri={uri}"]).runtime.tracking_uri == uri


def test_no_error_and_no_line_shows_a_password(run, capsys):
    url = f"http://ann:{WORD}@host/x"
    for kind in (ProsecoError, ConfigError, CorruptArtifact, ClusterError):
        error = kind(f"{url} does not answer")
        assert str(error) == "http://ann:***@host/x does not answer"
        assert WORD not in repr(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error), "it travels between processes"
    Screen().say(f"MLflow does not answer ({url})")
    shown = capsys.readouterr().err
    assert "ann:***@host" in shown
    assert WORD not in shown
    said = proseco("plan", str(run), "name=${nobody}", f"runtime.tracking_uri={url}")
    assert "nobody" in said
    assert WORD not in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://a/b", "s3://a/b"),
        ("http://u:p@h", "http://u:***@h"),
        ("x://u:p@q@h/y, y://:p@h", "x://u:***@h/y, y://:***@h"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("u:p@h", "u:p@h"),
    ],
)
def test_passwords_are_told_from_ports(text, shown):
    assert without_passwords(text) == shown


def test_every_error_is_found_by_its_name_and_nothing_else_is():
    """A training's rank leaves its error in a file; whoever writes to the root could name anything."""
    assert ProsecoError.named("NonFiniteLoss") is components.errors.NonFiniteLoss
    assert [ProsecoError.named(n) for n in ("dataclass", "__loader__", "re", "Problem", "Exception", "")] == [None] * 6


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HF_TOKEN}", "x-${oc.env:HF_TOKEN}", "${oc.decode:${oc.env:HF_TOKEN}}", "${oc.select:model.preset}",
     "${${model.preset}:HF_TOKEN}"],
)  # fmt: skip
def test_a_run_reads_no_environment(value, secrets, run, tmp_path):
    """A run of somebody else could send what stands there to an address of its own."""
    run.write_text(harness.RUN.replace("name: chaos", f'name: "{value}"').replace("nano", "oc.env"))
    with pytest.raises(ConfigError, match="names another value of the run, and nothing else") as caught:
        load_run(run, [])
    assert WORD not in str(caught.value)
    with pytest.raises(ConfigError):
        load_run(tmp_path / run.name, [f"runtime.address={value}"])
    with pytest.raises(ConfigError):
        over({"preset": "mdlm"}, {"steps": value})


def test_a_run_reads_its_own_values(run):
    run.write_text(harness.RUN + 'runtime: {root: "/data/${name}"}\n')
    assert load_run(run, []).runtime.root == "/data/chaos"
    assert over({"a": 1, "b": "${a}"}, {}) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "text",
    [
        f"- name: anna\n  sha256: {WORD}\n",
        f"- name: anna\n  key: {WORD}\n",
        f"- {WORD}\n",
        f"- {WORD}: anna\n",
        f"{WORD}\n",
        f"anna: [{WORD}\n - x: {{",
        f'{{"name": "anna", "key": "{WORD}"}}\n',
        f'{{"name": "anna", "sha256": "{WORD}"\n',
    ],
)
def test_a_key_that_was_written_in_place_of_its_digest_is_not_shown(text, tmp_path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(tmp_path / "keys")
    assert WORD not in str(caught.value)
    assert all(WORD not in str(p) for p in caught.value.problems)


def test_a_key_that_is_not_known_is_not_repeated(tmp_path):
    (tmp_path / "keys").write_text(f"- name: anna\n  sha256: {'a' * 64}\n")
    keys = read_keys(tmp_path / "keys")
    with pytest.raises(ApiError) as caught:
        keys.account(f"Bearer {WORD}")
    assert WORD not in str(caught.value) + str(caught.value.body) + str(caught.value.headers)


def test_what_is_shown_of_objects_holds_no_secret(monkeypatch):
    assert WORD not in repr(Client("http://127.0.0.1:1", key=WORD))
    with pytest.raises(ClusterError) as caught:
        Client("http://127.0.0.1:1", key=WORD, retries=0).models()
    assert WORD not in str(caught.value)
    monkeypatch.setenv("RAY_AUTH_TOKEN", WORD)
    prepared = Prepared()
    prepared.change("RAY_AUTH_TOKEN", None)
    assert WORD not in repr(prepared)
    prepared.close()


def test_who_sends_a_secret_along_with_a_job_is_told(secrets, run, monkeypatch):
    """Ray writes the variables of a job into its logs."""
    assert secrets_in(VARIABLES) == [name for name in VARIABLES if name != "MLFLOW_TRACKING_USERNAME"]
    harmless = ["PROSECO_DATA", "TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "AWS_ENDPOINT_URL", "AWS_REGION", "MONKEY"]
    assert secrets_in(harmless) == []
    monkeypatch.setattr("cluster.jobs.Jobs", lambda address: None)
    monkeypatch.setattr("pipelines.submission.submit", lambda jobs, run, id, variables: (SimpleNamespace(id="x"), True))
    asked = ["submit", str(run), "--address", "http://127.0.0.1:9", "--no-follow", "--env", "AWS_SECRET_ACCESS_KEY"]
    said = proseco(*asked, "--env", "PROSECO_DATA=/data")
    assert "AWS_SECRET_ACCESS_KEY: whoever has the cluster's token" in said
    assert "x: sent" in said
    assert WORD not in said
    assert "logs" not in proseco(*asked[:-2], "--env", "PROSECO_DATA=/data")


MODEL = """
import os, pathlib, sys
from cluster.environment import prepare
prepare()
import mlflow.pyfunc

class Evil(mlflow.pyfunc.PythonModel):
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(sys.argv[1]),)
    def predict(self, context, model_input, params=None):
        return model_input

folder = sys.argv[1] + "-model"
mlflow.pyfunc.save_model(folder, python_model=Evil(), pip_requirements=[])
for allowed in (None, "true"):
    if allowed:
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = allowed
    try:
        mlflow.pyfunc.load_model(folder)
        said = "loaded"
    except Exception as error:
        said = str(error)
    print(os.path.exists(sys.argv[1]), "PICKLE" in said)
"""


def test_mlflow_unpickles_no_model(tmp_path):
    """Nothing here loads a model from MLflow; what another reader of this process loads is no pickle, unless the user says
    so, which is tried last."""
    ran = subprocess.run([sys.executable, "-c", MODEL, str(tmp_path / "marker")], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    first, last = ran.stdout.splitlines()[-2:]
    assert first == "False True"
    assert last.startswith("True")

"""The commands that are deployed are those that there are: in manifests, in the image, and on SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from cluster.environment import DEFAULTS
from cluster.service.keys import read_keys
from components.store.history import FOLDER
from pipelines.cli import main
from pipelines.config.load import load_run
from tests.deploy.manifests import DEPLOY, compose, one, pods, ray_jobs, render, settings

ROOT = DEPLOY.parents[1]
IMAGE = DEPLOY / "image" / "Dockerfile"
SBATCH = DEPLOY / "slurm" / "proseco.sbatch"
PRINT = 'proseco() { printf "%s\\0" "$@"; }; '
STORES = {"s3": "s3://proseco/runs", "volume": "/var/lib/proseco/runs"}


def words_of(command: str, variables: dict[str, str]) -> list[str]:
    """What a shell makes of the arguments of ``proseco``."""
    made = subprocess.run(["sh", "-euc", PRINT + command], env=variables, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout.split("\0")[:-1]


def parsed(words: list[str]) -> dict[str, object]:
    """The command and its arguments, by the project's own command line. Raises click.UsageError where it knows none."""
    name, command, rest = main.resolve_command(click.Context(main), words)
    assert command is not None
    return {"command": name, **command.make_context(name, rest).params}


@pytest.fixture(scope="module", params=[("s3", "large"), ("volume", "small")], ids=" ".join)
def deployed(request, tmp_path_factory):
    store, size = request.param
    units = ("run", "generate", "service", "nightly/cronjob", "image")
    return store, compose(tmp_path_factory.mktemp("deployed"), *units, f"storage/{store}", f"sizes/{size}")


def runs(documents, folder: Path) -> dict[str, Path]:
    """The runs of the ConfigMap as files, by where pods see them."""
    found = {}
    for name, text in one(documents, "ConfigMap", "proseco-runs")["data"].items():
        found[f"/etc/proseco/runs/{name}"] = folder / name
        (folder / name).write_text(text.replace("/opt/proseco/configs", str(ROOT / "configs")))
    return found


def test_commands_of_jobs_are_taken_and_their_runs_hold_together(deployed, tmp_path):
    store, documents = deployed
    variables = settings(documents, "proseco-settings")
    files = runs(documents, tmp_path)
    told = {}
    for name, spec in ray_jobs(documents).items():
        own = yaml.safe_load(spec.get("runtimeEnvYAML", "{}")).get("env_vars", {})
        told[name] = parsed(words_of(spec["entrypoint"], variables | own))
        assert spec["metadata"] == {"proseco_run": name}, "by which `proseco status` knows it"
    assert {name: t["command"] for name, t in told.items()} == {"run": "run", "generate": "generate", "nightly": "nightly"}
    for name, date in (("run", []), ("nightly", ["date=2026-11-26"])):
        made = load_run(files[str(told[name]["run"])], [*date, *told[name]["overrides"]])
        runtime = made.runtime
        assert made.name == name
        assert made.command == name
        assert (runtime.root, runtime.address, runtime.tracking_uri) == (STORES[store], "auto", "none")
        assert runtime.device == ("cuda" if store == "s3" else "cpu")
        assert runtime.workers > 1
    assert (str(told["generate"]["root"]), told["generate"]["sampler"]) == (STORES[store], "proseco")
    assert "runtime.address=auto" in told["generate"]["overrides"]


def test_the_cluster_has_room_for_what_a_run_asks_for(deployed):
    _, documents = deployed
    words = dict(word.split("=") for word in settings(documents, "proseco-settings")["PROSECO_RUNTIME"].split())
    on_gpu = words["runtime.device"] == "cuda"
    kind = "nvidia.com/gpu" if on_gpu else "cpu"
    group = one(documents, "RayCluster")["spec"]["workerGroupSpecs"][1 if on_gpu else 0]
    each = int(group["template"]["spec"]["containers"][0]["resources"]["limits"][kind])
    most = max(int(words[name]) for name in ("runtime.workers", "runtime.replicas", "runtime.max_replicas") if name in words)
    assert most <= each * group["maxReplicas"]


def test_the_service_is_told_what_there_is(deployed):
    _, documents = deployed
    (container,) = pods([one(documents, "Deployment")])[0].containers
    assert container["command"] == ["tini", "--", "proseco"]
    variables = settings(documents, "proseco-settings", "proseco-service")
    words = [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word) for word in container["args"]]
    told = parsed(words)
    assert told["command"] == "serve"
    assert told["given"] == (variables["PROSECO_EXPORT"],)
    gpus = float(container["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert told["gpus"] * 2 == gpus, "a new champion is tried beside the old one"
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert str(told["keys"]).startswith(mounted["keys"] + "/"), "any address but loopback needs keys"
    assert str(told["tables"]) == variables["PROSECO_ROOT"]


def test_a_command_that_there_is_not_is_noticed():
    for wrong in ("proseco runs x.yaml", "proseco run x.yaml --quite", "proseco nightly x.yaml --day 2026-11-26", "proseco generate"):
        with pytest.raises(click.UsageError):
            parsed(words_of(wrong, {}))
    with pytest.raises(AssertionError, match="PROSECO_ROOT"):
        words_of('proseco run x.yaml runtime.root="$PROSECO_ROOT"', {})


def test_keys_are_made_as_the_docs_say(tmp_path):
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (line,) = re.findall(r"^ *(printf .*> keys\.yaml)$", text, re.MULTILINE)
    subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=os.environ | {"KEY": "a key"}, check=True)
    account = read_keys(tmp_path / "keys.yaml").account("Bearer a key")
    assert account.key.name == "anna"


def test_the_image_is_made_of_the_lock_and_runs_as_nobody_in_particular():
    lines = IMAGE.read_text().replace("\\\n", " ").splitlines()
    orders = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert [text for order, text in orders if order == "FROM"] == ["${BASE} AS built", "${BASE}"]
    (base,) = [text.removeprefix("BASE=") for order, text in orders if order == "ARG"]
    assert re.fullmatch(r"python:3\.1[1-9]-slim-\w+", base)
    installs = [text for order, text in orders if order == "RUN" and "pip install" in text]
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in text for text in installs)
    extras = re.search(r"'\.\[([\w,]+)\]'", installs[1])[1].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
    users = [text for order, text in orders if order == "USER"]
    assert users == ["1000:1000"], "by number, and last"
    assert not [order for order, _ in orders[[o for o, _ in orders].index("USER") :] if order in ("RUN", "COPY", "ADD")]
    variables = dict(word.split("=", 1) for order, text in orders if order == "ENV" for word in shlex.split(text))
    assert DEFAULTS.items() <= variables.items(), "for processes that Ray starts before any of ours"
    assert not [name for name in variables if re.search("TOKEN|SECRET|PASSWORD|CREDENTIAL", name)]
    assert "NVIDIA_VISIBLE_DEVICES" not in variables, "or every pod on a machine with GPUs would see them"


def test_what_the_image_takes_is_there_and_nothing_else_is_sent():
    taken = {word.rstrip("/") for line in IMAGE.read_text().splitlines() if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]}
    sent = [line for line in (IMAGE.parent / "Dockerfile.dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert sent[0] == "*"
    assert {line[1:] for line in sent if line.startswith("!")} == taken
    assert all((ROOT / name).exists() for name in taken)


SRUN = """#!/bin/bash
printf '%s\\0' "$@" >> "$RECORD"; printf '\\n' >> "$RECORD"
case "$*" in
  *"hostname -I") echo "10.1.2.3 172.17.0.1 " ;;
  *symmetric-run*)
    stat -c '%a %s' "$RAY_AUTH_TOKEN_PATH" "$(dirname "$RAY_AUTH_TOKEN_PATH")" > "$RECORD.token"
    env | grep -E '^(RAY|MLFLOW)_' > "$RECORD.env"
    exit "${CODE:-0}" ;;
esac
"""


def submitted(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[list[str]]]:
    """Run the batch script where SLURM is a recording. Returns its exit code and the arguments of each srun."""
    (folder / "bin").mkdir()
    slow = "#!/bin/bash\necho node-a; sleep 0.2; echo node-b\n"  # whoever hears the first name only must not end it
    for name, text in (("srun", SRUN), ("scontrol", slow)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_CPUS_ON_NODE": "48"}
    there = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "RECORD": str(folder / "record"), "RAY_AUTH_TOKEN": "old"}
    made = subprocess.run(["bash", str(SBATCH), *arguments], env=there | slurm | variables, capture_output=True, text=True, timeout=60)
    record = folder / "record"
    lines = record.read_text().splitlines() if record.exists() else []
    return made.returncode, [line.split("\0")[:-1] for line in lines]


def test_slurm_starts_ray_once_on_each_machine_closed_by_a_token(tmp_path):
    code, steps = submitted(tmp_path, "run.yaml", "runtime.root=/shared/runs", "runtime.workers=2")
    assert code == 0
    (step,) = [s for s in steps if "symmetric-run" in s]
    at = step.index("ray")
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=48"} <= set(step[:at])
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    split = step.index("--")
    told = symmetric_run.make_context("symmetric-run", step[at + 2 : split], resilient_parsing=True).params
    assert (told["address"], told["min_nodes"]) == ("10.1.2.3:6379", 2)
    options = curate_and_validate_ray_start_args(step[at + 2 : split])
    given = start.make_context("start", options).params
    assert (given["num_cpus"], given["disable_usage_stats"]) == (48, True)
    assert given["include_dashboard"] is None, "only the head may be told, and all are told the same"
    assert step[split + 1] == "proseco"
    assert parsed(step[split + 2 :]) == {
        "command": "run", "run": Path("run.yaml"), "quiet": False, "jobs": None,
        "overrides": ("runtime.address=10.1.2.3:6379", "runtime.root=/shared/runs", "runtime.workers=2"),
    }  # fmt: skip
    token, folder = (tmp_path / "record.token").read_text().splitlines()
    assert (token, folder.split()[0]) == ("600 64", "700"), "while it runs"
    variables = dict(line.split("=", 1) for line in (tmp_path / "record.env").read_text().splitlines())
    assert variables["RAY_AUTH_MODE"] == "token"
    assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS"} & variables.keys()
    assert {k: v for k, v in DEFAULTS.items() if k in variables}.items() <= variables.items()
    assert len(variables["RAY_TMPDIR"] + "/ray/session_2026-11-26_00-00-00_000000_0000000/sockets/plasma_store") < 104, "a socket's path"
    assert list(tmp_path.glob(".proseco-*")) == [], "the token is gone"


def test_slurm_passes_the_code_of_the_run_on_and_leaves_no_token(tmp_path):
    code, steps = submitted(tmp_path, "run.yaml", CODE="3")
    assert code == 3
    assert steps[-1][-4:] == ["rm", "-rf", "--", "/tmp/proseco-77"]
    assert list(tmp_path.glob(".proseco-*")) == []


def test_slurm_makes_nights_too(tmp_path):
    _, steps = submitted(tmp_path, "nightly.yaml", "runtime.root=/shared/runs", PROSECO_COMMAND="nightly")
    (step,) = [s for s in steps if "symmetric-run" in s]
    told = parsed(step[step.index("--") + 2 :])
    assert (told["command"], told["run"], told["date"]) == ("nightly", Path("nightly.yaml"), "")


def test_slurm_says_what_is_missing(tmp_path):
    assert submitted(tmp_path)[0] != 0
    assert not (tmp_path / "record").exists()
    assert subprocess.run(["bash", "-n", str(SBATCH)]).returncode == 0


def test_the_example_serves_the_champion_of_its_nights():
    documents = render(DEPLOY / "kubernetes" / "overlays" / "example")
    variables = settings(documents, "proseco-settings", "proseco-service")
    entry = yaml.safe_load(one(documents, "ConfigMap", "proseco-runs")["data"]["nightly.yaml"])
    assert variables["PROSECO_EXPORT"] == f"champion={variables['PROSECO_ROOT']}/{FOLDER}/{entry['name']}"

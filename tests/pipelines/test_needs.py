"""Every check of the machine and of what a run needs, made true and made false: each names value, rule and remedy."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from cluster.config import RuntimeConfig
from components.errors import ConfigError
from components.models.config import ModelConfig
from components.models.transformer import Transformer
from components.store.artifact import read_manifest
from components.tracking import JsonlTracker
from pipelines import doctor, needs
from pipelines.cli import main
from pipelines.config.load import load_run
from pipelines.doctor import Check
from pipelines.graph.estimate import estimates
from pipelines.graph.plan import plan
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.training_memory import taken
from pipelines.workflows import build
from tests.chaos import harness


def proseco(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    return result.exit_code, result.output


def said(check: Check, ok: bool) -> str:
    """What a check says, which is how it should be, and says what to do where it is not."""
    assert check.ok is ok, check
    assert check.name
    assert check.value
    assert check.rule
    assert ok or check.remedy
    return f"{check.name}: {check.value}, {check.rule}, {check.remedy}"


def mounted(tmp_path: Path, monkeypatch, kind: str) -> None:
    """Say that the test's folder is on such a file system."""
    lines = ["/dev/x / ext4 rw 0 0", f"host:/x {tmp_path.parent} {kind} rw 0 0", f"h:/y {tmp_path.parent}x nfs rw 0 0"]
    table = tmp_path / "mounts"
    table.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(doctor, "MOUNTS", table)


@pytest.fixture
def distributions(monkeypatch) -> dict[str, tuple[str, list[str]]]:
    """What is installed: version and requirements, by name."""
    found = {
        "proseco": ("1", ["a>=2", "b[x]"]),
        "a": ("2.1", ["c<2"]),
        "b": ("1", ["c>=1; extra == 'x'", "d; extra == 'y'"]),
        "c": ("1.5", ["a"]),
    }

    def requirements_of(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
        lines = [Requirement(line) for line in found.get(name, ("", []))[1]]
        return [r for r in lines if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras or {""})]

    monkeypatch.setattr(doctor, "requirements_of", requirements_of)
    monkeypatch.setattr(doctor, "version_of", lambda name: found[name][0] if name in found else None)
    return found


def test_versions_are_held_to_their_ranges_and_to_each_other(distributions):
    assert [said(c, True) for c in doctor.versions()]
    assert "4 agree" in said(doctor.contradictions(), True)
    distributions["c"] = ("2.0", ["a"])
    assert "a needs c<2, and 2.0 is installed" in said(doctor.contradictions(), False)
    distributions["c"] = ("0.5", ["a"])
    assert "b needs c>=1, and 0.5 is installed" in said(doctor.contradictions(), False)
    distributions["a"] = ("1.9", [])
    first, second = doctor.versions()
    assert "-c requirements.lock" in said(first, False)
    said(second, True)
    del distributions["a"]
    assert "not installed" in said(doctor.versions()[0], False)
    del distributions["proseco"]
    (alone,) = doctor.versions()
    assert "proseco: not installed" in said(alone, False)


@pytest.mark.parametrize(("count", "makes", "ok"), [(0, False, True), (2, True, True), (2, False, False)])
def test_a_gpu_wants_what_makes_kernels_for_it(count, makes, ok, monkeypatch):
    monkeypatch.setattr(doctor, "num_devices", lambda: count)
    monkeypatch.setattr(doctor, "makes_kernels", lambda: makes)
    assert str(count) in said(doctor.accelerator(), ok)


def test_what_is_installed_here_goes_together():
    assert said(doctor.contradictions(), True)
    assert "torch" in {c.name for c in doctor.versions()}


def test_the_machine(monkeypatch, tmp_path):
    for number, ok in ((1, False), (2, True)):
        monkeypatch.setattr(doctor, "num_cpus", lambda number=number: number)
        said(doctor.cpus(), ok)
    for size, ok in ((doctor.MIN_MEMORY_BYTES, True), (doctor.MIN_MEMORY_BYTES - 1, False)):
        monkeypatch.setattr(doctor, "memory_bytes", lambda size=size: size)
        said(doctor.memory(), ok)
    for free, ok in ((doctor.MIN_FREE_BYTES, True), (doctor.MIN_FREE_BYTES - 1, False)):
        monkeypatch.setattr(doctor, "free_bytes", lambda root, free=free: free)
        said(doctor.disk(tmp_path), ok)
    for found, ok in ((None, True), ("there", False)):
        monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name, found=found: found)
        said(doctor.hydra(), ok)
    said(doctor.writable(tmp_path), True)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    said(doctor.writable(tmp_path), False)


def test_a_container_has_what_it_may_have(monkeypatch, tmp_path):
    machine = doctor.memory_bytes()
    for text, expected in (("1073741824\n", 1 << 30), ("max\n", machine), (str(1 << 62), machine)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(doctor, "LIMITS", (tmp_path / "nothing", tmp_path / "memory.max"))
        assert doctor.memory_bytes() == expected
    machine = doctor.num_cpus()
    for text, expected in (("max 100000\n", machine), ("50000 100000\n", 1), ("99900000 100000", machine)):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(doctor, "QUOTA", (tmp_path / "nothing", tmp_path / "cpu.max"))
        assert doctor.num_cpus() == expected


@pytest.mark.parametrize(("kind", "ok"), [("ext4", True), ("nfs4", False), ("cifs", False), ("fuse.sshfs", False), ("xfs", True)])
def test_sqlite_is_not_put_on_a_file_system_of_a_network(kind, ok, tmp_path, monkeypatch):
    mounted(tmp_path, monkeypatch, kind)
    root = tmp_path / "not" / "there yet"
    assert doctor.file_system(root) == kind
    said(doctor.network_file_system(root), ok)
    for uri, fine in (("", ok), ("none", True), ("http://host", True)):
        said(needs.tracking(RuntimeConfig(tracking_uri=uri), root), fine)
    monkeypatch.setattr(doctor, "MOUNTS", tmp_path / "nothing")
    assert doctor.file_system(root) == "unknown"


def test_a_mount_with_a_space_is_read(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    (tmp_path / "mounts").write_text(f"h:/x {tmp_path}/a\\040b nfs rw 0 0\nx / ext4 rw 0 0\n")
    monkeypatch.setattr(doctor, "MOUNTS", tmp_path / "mounts")
    assert (doctor.file_system(tmp_path / "a b" / "c"), doctor.file_system(tmp_path)) == ("nfs", "ext4")


@pytest.mark.parametrize(("mode", "ok"), [(0o600, True), (0o400, True), (0o640, False), (0o602, False), (0o644, False)])
def test_files_of_tokens_and_keys_are_private(mode, ok, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert [said(c, True) for c in doctor.tokens()]
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("hunter2")
    path.chmod(mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    (usual, named) = doctor.tokens()
    for check in (usual, named, doctor.private("service keys", path)):
        assert f"{mode:o}" in said(check, ok)
        assert "hunter2" not in said(check, ok)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path))
    assert "is no file" in said([*doctor.tokens()][1], False)
    asked = ["doctor", "--root", str(tmp_path), "--keys", str(path), "--json"]
    (keys,) = [c for c in json.loads(proseco(*asked)[1]) if c["name"] == "service keys"]
    assert keys["ok"] is ok


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A run and the root in which it was made."""
    folder = tmp_path_factory.mktemp("needs")
    run = folder / "chaos.yaml"
    run.write_text(harness.RUN)
    config = load_run(run, [*harness.LOCAL, f"runtime.root={folder / 'root'}"])
    execute("chaos", list(build(config).values()), config.runtime, Screen(quiet=True))
    return run, folder / "root"


def checks(run: Path, root: Path, *overrides: str) -> dict[str, Check]:
    config = load_run(run, [*harness.LOCAL, f"runtime.root={root}", *overrides])
    return {c.name.split(" at ")[0]: c for c in needs.needs(plan(list(build(config).values()), root), config.runtime, root)}


def test_nothing_is_needed_where_nothing_is_to_be_made(made):
    assert checks(*made) == {}


RAY = ["runtime.executor=ray", "runtime.engine=deepspeed", "runtime.jobs=0"]


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [([], 1), ([*RAY, "runtime.workers=2", "runtime.replicas=1"], 2), ([*RAY, "runtime.threads=3", "runtime.replicas=2"], 6)],
)
def test_cpus_for_workers_and_replicas(overrides, asked, made, tmp_path, monkeypatch):
    for there in (asked, asked - 1):
        monkeypatch.setattr(needs, "num_cpus", lambda there=there: there)
        told = said(checks(made[0], tmp_path, *overrides)["cpus for the run"], there >= asked)
        assert f"at least {asked}" in told


def test_disk_for_checkpoints_and_tables(made, tmp_path, monkeypatch):
    """Against the bytes of what was really made, which compression and a vocabulary not known before make smaller."""
    run, root = made
    config = load_run(run, [f"runtime.root={root}"])
    sizes = {}
    for stage in build(config).values():
        if stage.name in needs.BYTES:
            files = [f for f in stage.folder(root).rglob("*") if f.suffix in (".safetensors", ".arrow", ".parquet")]
            sizes[stage.name] = needs.BYTES[stage.name](stage, config.runtime, root), sum(f.stat().st_size for f in files)
    estimated, real = sizes["export"]
    assert real <= estimated * 1.2
    assert real >= estimated * 0.8
    estimated, real = sizes["train"]
    assert estimated * 0.6 <= real * 3 / 2 <= estimated * 1.2, "two checkpoints are kept, and three are there for a moment"
    for there in (10**12, 10**4):
        monkeypatch.setattr(needs, "free_bytes", lambda root, there=there: there)
        assert "MiB" in said(checks(run, tmp_path)["disk for the run"], there == 10**12)
    few, many = (
        needs.BYTES["train"](build(load_run(run, [f"runtime.keep_checkpoints={n}"]))["train/base"], RuntimeConfig(keep_checkpoints=n), root)
        for n in (1, 3)
    )
    assert many == 2 * few


def test_memory_by_stage_of_zero(made, tmp_path, monkeypatch):
    config = load_run(made[0], [])
    stage = build(config)["train/base"]
    size = ModelConfig(**{f.name: getattr(stage.config.model, f.name) for f in dataclasses.fields(ModelConfig)})
    number = sum(p.numel() for p in Transformer(size, 7).parameters())
    assert needs.parameters(stage, made[1]) == number, "7 entries, as the tokenizer that was made says"
    shape = needs.shape_of(stage, RuntimeConfig(workers=4, zero_stage=0), made[1])
    assert (shape.parameters, shape.vocab_size, shape.rows, shape.length, shape.workers) == (number, 7, 2, 9, 4)
    assert needs.shape_of(stage, RuntimeConfig(engine="torch", micro_batch=1), made[1]).zero is None
    assert needs.shape_of(stage, RuntimeConfig(micro_batch=1), made[1]).rows == 1
    for zero in (0, 1, 2, 3):
        asked = RuntimeConfig(workers=4, zero_stage=zero)
        of_one = taken(dataclasses.replace(shape, zero=zero)).most
        assert needs.process_memory(stage, asked, made[1]) == 4 * (needs.PROCESS_BYTES + of_one)
    for there in (10**12, 10**6):
        monkeypatch.setattr(needs, "memory_bytes", lambda there=there: there)
        assert "for train/base" in said(checks(made[0], tmp_path, "model.preset=small")["memory for the run"], there == 10**12)


def test_a_cluster_that_is_joined_is_not_looked_at(made, tmp_path):
    found = checks(made[0], tmp_path, *RAY, "runtime.address=host:6379", "runtime.workers=8")
    assert not {"cpus for the run", "memory for the run"} & found.keys()


def test_the_time_to_stop_on_a_cluster(made, tmp_path, monkeypatch):
    for name in needs.ON_CLUSTER:
        monkeypatch.delenv(name, raising=False)
    assert "time to stop" not in checks(made[0], tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "3 s" in said(checks(made[0], tmp_path)["time to stop"], False), "Ray's own"
    monkeypatch.setenv(needs.STOP, "60")
    said(checks(made[0], tmp_path)["time to stop"], True)
    other = build(load_run(made[0], ["generate.shard_rows=2"]))["generate/mdlm@4"]
    folder = other.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps({"label": other.label, "identity": other.identity}))
    JsonlTracker(folder / "metrics.jsonl").metrics({"queue_age_s": 45.0}, 1)
    told = said(checks(made[0], tmp_path)["time to stop"], False)
    assert "1 min 30 s" in told, "two rows took 45 s, and four are twice as many"
    assert "shard_rows" in told
    said(checks(made[0], tmp_path, "generate.shard_rows=2")["time to stop"], True)
    names = [c["name"] for c in json.loads(proseco("doctor", "--root", str(tmp_path), "--json")[1])]
    assert names[-1] == "time to stop"


def test_a_plan_says_how_long_like_stages_took(made):
    run, root = made
    config = load_run(run, [*harness.LOCAL, f"runtime.root={root}", "train.base.steps=60"])
    findings = plan(list(build(config).values()), root)
    found = estimates(findings, root)
    by_label = {f.stage.label: found.get(f.stage.key) for f in findings}
    assert by_label["tokenizer"] is None, "it is there"
    was = next(m for p in (root / "train").iterdir() if (m := read_manifest(p)).label == "train/base")
    assert by_label["train/base"].of == f"train/base {was.key}"
    assert by_label["train/base"].seconds == pytest.approx(10 * was.seconds)
    assert estimates(findings, root / "nowhere") == {}
    where = [str(run), *harness.LOCAL, f"runtime.root={root}", "train.base.steps=60"]
    rows = {r["stage"]: r for r in json.loads(proseco("plan", *where, "--json")[1])}
    assert rows["train/base"]["estimate_s"] == pytest.approx(10 * was.seconds)
    assert rows["tokenizer"]["estimate_s"] is None
    code, text = proseco("plan", *where)
    assert code == 0
    assert "an estimate: " in text
    assert f"e.g. train/base {was.key}" in text
    fresh = proseco("plan", str(run), *harness.LOCAL, f"runtime.root={root}")[1]
    assert "estimate" not in fresh
    assert "about" not in fresh


def test_plan_and_run_stop_where_sqlite_is_unsafe(made, tmp_path, monkeypatch):
    mounted(tmp_path, monkeypatch, "nfs4")
    where = [str(made[0]), *harness.LOCAL[:-1], f"runtime.root={tmp_path / 'root'}"]
    for command in ("plan", "run"):
        code, text = proseco(command, *where)
        assert code == 1
        assert "file system of a network (nfs4)" in text
        assert "MLflow server, or none" in text
        assert not (tmp_path / "root").exists(), "nothing was taken"
    assert json.loads(proseco("plan", *where, "runtime.tracking_uri=none", "--json")[1])
    config = load_run(made[0], where[1:])
    with pytest.raises(ConfigError):
        execute("x", list(build(config).values()), config.runtime, Screen(quiet=True))


def test_doctor_tells_what_a_run_needs(made, tmp_path, monkeypatch):
    asked = [str(made[0]), *harness.LOCAL, f"runtime.root={tmp_path / 'root'}"]
    monkeypatch.setattr(needs, "free_bytes", lambda root: 10)
    found = {c["name"].split(" at ")[0]: c for c in json.loads(proseco("doctor", *asked, "--json")[1])}
    assert {"runtime.tracking_uri", "cpus for the run", "memory for the run", "free disk", "write access"} <= found.keys()
    assert not found["disk for the run"]["ok"]
    code, text = proseco("doctor", *asked)
    assert code == 1
    assert "bad  disk for the run" in text
    assert "remedy: free space" in text
    assert "disk for the run" in proseco("plan", *asked)[1], "the plan tells what is too little"
    code, text = proseco("doctor", str(made[0]), "runtime.wrokers=1")
    assert code == 1
    assert "did you mean workers?" in text


def test_looking_takes_no_time(made):
    began = time.monotonic()
    checks(made[0], Path(os.devnull).parent / "nowhere")
    assert time.monotonic() - began < 2

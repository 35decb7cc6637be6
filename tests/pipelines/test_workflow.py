"""A whole small run in this process, and what a user does to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.api import load
from components.errors import CorruptArtifact, LeaseHeld, StoreError
from components.store.artifact import read_manifest
from components.store.fingerprint import fingerprint
from components.store.lease import Lease
from pipelines.cli import main
from tests.chaos import harness


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run file, root, what it said)."""
    folder = tmp_path_factory.mktemp("finished")
    run, root = folder / "chaos.yaml", folder / "root"
    run.write_text(harness.RUN + "metric: validity\n")
    options = [*harness.LOCAL[:-1], f"runtime.root={root}"]  # with MLflow
    result = CliRunner().invoke(main, ["run", str(run), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return run, root, options, result.output


def proseco(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


def test_the_second_time_nothing_is_done_and_nothing_heavy_is_imported(finished):
    run, _, options, said = finished
    assert "stages made" in said
    code = (
        "import sys; from click.testing import CliRunner; from pipelines.cli import main; "
        f"r = CliRunner().invoke(main, ['run', {str(run)!r}, *{options!r}]); print(r.output); assert r.exit_code == 0; "
        "assert not {'torch', 'ray', 'mlflow', 'deepspeed'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing to do" in result.stdout


def test_show_gives_results_to_programs(finished):
    run, _, options, _ = finished
    code, said = proseco("show", str(run), *options, "--json")
    shown = json.loads(said)
    assert code == 0
    assert {s["state"] for s in shown["stages"]} == {"fresh"}
    assert all(s["seconds"] is not None and s["key"] for s in shown["stages"])
    wanted = {
        "sampler",
        "calls",
        "call_positions",
        "metric",
        "quality",
        "quality_low",
        "quality_high",
        "unique",
        "entropy",
        "num_samples",
        "seeds",
    }
    assert len(shown["results"]) == 2
    assert all(wanted <= set(r) for r in shown["results"])


def test_list_names_everything(finished):
    found = json.loads(proseco("list", "--json")[1])
    assert {"samplers", "parts", "objectives", "scorers", "schedules"} <= set(found)
    assert {"mdlm", "confidence", "proseco"} <= set(found["samplers"])
    assert "arXiv 2602.11590" in found["objectives"]["proseco"]["paper"]
    assert found["samplers"]["proseco"]["needs"] == ["visible_supervision"]


def test_every_stage_is_a_nested_mlflow_run(finished):
    import mlflow

    _, root, _, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("proseco")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert parent.info.status == "FINISHED"
    assert len(children) == len(list(root.glob("*/*/manifest.json")))
    train = next(r for r in children if r.info.run_name == "train/proseco")
    assert train.data.params["train.objective.type"] == "ProsecoConfig"
    assert train.data.metrics["nll_bound"] > 0
    assert {i.tags[0].value for i in train.inputs.dataset_inputs} >= {"rows_latin", "tokenizer", "init"}
    assert {"stage", "key", "version", "folder"} <= set(train.data.tags)
    assert [a.path for a in client.list_artifacts(train.info.run_id)] == ["manifest.json"]


def test_samples_are_published_once_with_ids_and_cost(finished):
    _, root, _, _ = finished
    rows = harness.samples(root)
    assert len(rows) == len(set(rows)) == 48
    for folder in root.glob("generate/*"):
        tables, receipts = ([p.name for p in (folder / kind).iterdir()] for kind in ("shards", "receipts"))
        names = read_manifest(folder).info["shards"]
        assert sorted(tables) == sorted(f"{n}.parquet" for n in names)
        assert sorted(receipts) == sorted(f"{n}.json" for n in names)
        table = pq.read_table(next((folder / "shards").glob("*.parquet")))
        assert min(table["calls"].to_pylist()) >= 1


def test_the_report_stands_alone(finished):
    _, root, _, _ = finished
    (path,) = root.glob("report/*/report.html")
    text = path.read_text()
    assert "<svg" in text
    assert "Trajectories" in text
    assert "frame" in text
    assert not any(link in text for link in ("http://", "https://", "src="))


def test_a_changed_option_makes_only_what_depends_on_it(finished):
    run, _, options, _ = finished
    _, said = proseco("plan", str(run), *options, "samplers.proseco.sampler.draw.temperature=0.5", "--json")
    states = {s["stage"]: s["state"] for s in json.loads(said)}
    assert {k for k, v in states.items() if v != "fresh"} == {
        "generate/proseco@3",
        "score/proseco@3",
        "evaluate",
        "report",
    }
    _, said = proseco("explain", str(run), *options, "train.base.t_min=0.01", "--stage", "train/base")
    assert "config.train.t_min: 0.0 -> 0.01" in said


def test_a_lost_file_is_made_again(finished, tmp_path):
    run, root, options, _ = finished
    before = harness.samples(root)
    victim = next(root.glob("generate/*/shards/*.parquet"))
    victim.unlink()
    _, said = proseco("plan", str(run), *options, "--json")
    assert "damaged" in {s["state"] for s in json.loads(said)}
    assert proseco("run", str(run), *options)[0] == 0
    assert harness.samples(root) == before


def test_changed_bytes_are_noticed_and_never_built_upon(finished):
    run, root, options, _ = finished
    victim = next(root.glob("tokenize/*/train-*.arrow"))
    whole = victim.read_bytes()
    written_ns = victim.stat().st_mtime_ns
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(victim, ns=(written_ns, written_ns))  # at any other time the plan would see it
    code, said = proseco("run", str(run), *options, "train.base.seed=5")
    assert code == 1
    assert "damaged" in said
    assert "proseco gc --corrupt --delete" in said
    _, said = proseco("gc", "--root", str(root), "--corrupt")
    assert "would delete" in said
    victim.write_bytes(whole)
    assert "nothing to delete" in proseco("gc", "--root", str(root), "--corrupt")[1]


def test_gc_keeps_what_a_run_needs(finished, tmp_path):
    run, root, options, _ = finished
    assert "Say what must stay" in proseco("gc", "--root", str(root))[1]
    folder = next(root.glob("score/*"))
    record = json.loads((folder / "identity.json").read_text())
    record["identity"]["version"] = 99
    stray = root / "score" / fingerprint(record["identity"])
    stray.mkdir()
    (stray / "identity.json").write_text(json.dumps(record))
    _, said = proseco("gc", "--root", str(root), "--keep", str(run))
    assert "would delete" in said
    assert str(stray) in said
    assert proseco("gc", "--root", str(root), "--keep", str(run), "--delete")[0] == 0
    assert not stray.exists()
    assert proseco("run", str(run), *options)[1].startswith("nothing to do")


def test_two_runs_on_one_root(finished):
    run, root, options, _ = finished
    found = json.loads(proseco("plan", str(run), *options, "train.base.seed=6", "--json")[1])
    key = next(s["key"] for s in found if s["stage"] == "train/base")
    with Lease(root, f"train-{key}", "the first run").wait(0):
        code, said = proseco("run", str(run), *options, "train.base.seed=6", "runtime.lease_wait_s=0")
    assert code == 1
    assert "the first run" in said
    assert f"process {os.getpid()}" in said
    assert issubclass(LeaseHeld, StoreError)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("corpora.other.source={name: jsonl, path: /nowhere.jsonl}", "a file, folder or glob that exists"),
        ("corpora.other.source={name: text, path: $PROSECO_DATA/x}", "PROSECO_DATA is not set"),
        ("train.base.stepz=3", "did you mean steps?"),
        ("rows.length=5", "do not fit into a row of 5"),
        ("runtime.executor=cloud", "one of ray, local"),
        ("nonsense", "is no override"),
    ],
)
def test_wrong_input_gives_one_screen(finished, change, part, monkeypatch):
    run, _, options, _ = finished
    monkeypatch.delenv("PROSECO_DATA", raising=False)
    code, said = proseco("run", str(run), *options, change)
    assert code == 1
    assert part in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 24


def test_a_broken_corpus_is_told_with_its_lines_and_kept(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "123123123"}\n{"text": \n' * 20)
    run = tmp_path / "run.yaml"
    run.write_text(
        harness.RUN.replace(
            "{name: latin_square, size: 3, num_documents: 60}", f"{{name: jsonl, path: {data}}}"
        ).replace("validity: {}, ", "")
    )
    code, said = proseco("run", str(run), *harness.LOCAL, f"runtime.root={tmp_path / 'root'}")
    assert code == 1
    assert "20 of 40 documents were quarantined" in said
    assert "broken JSON" in said
    (quarantine,) = (tmp_path / "root").rglob("quarantine-*.parquet")
    assert pq.read_table(quarantine).num_rows == 20
    # Allowed, the rest is used.
    code, said = proseco(
        "run", str(run), *harness.LOCAL, f"runtime.root={tmp_path / 'root'}", "corpora.latin.max_bad_share=0.6"
    )
    assert code == 0, said


def test_tracking_trouble_does_not_fail_the_job(tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def broken(*args, **kwargs):
        raise MlflowException("the server is gone")

    monkeypatch.setattr(MlflowClient, "log_batch", broken)
    run = tmp_path / "chaos.yaml"
    run.write_text(harness.RUN)
    code, said = proseco("run", str(run), *harness.LOCAL[:-1], f"runtime.root={tmp_path / 'root'}")
    assert code == 0, said
    assert said.count("MLflow does not answer") == 1
    assert len(list((tmp_path / "root").rglob("metrics.jsonl"))) >= 2


def test_generate_and_score_by_command(finished, tmp_path):
    _, root, _, _ = finished
    model = next(
        p for p in root.glob("export/*") if json.loads((p / "config.json").read_text())["trained_with"] == "proseco"
    )
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "12"}\n{"prompt": ""}\n')
    where = ["--root", str(tmp_path / "out"), "runtime.executor=local", "runtime.tracking_uri=none"]
    common = ["generate", str(model), "--sampler", "proseco", "--prompts", str(prompts), "--num-samples", "3", *where]
    code, said = proseco(*common, "steps=4")
    assert code == 0, said
    assert "6 samples" in said
    assert "made before" in proseco(*common, "steps=4")[1]
    assert "made before" not in proseco(*common, "steps=5")[1], "another job is another folder"
    folders = list((tmp_path / "out").glob("generate/*"))
    assert len(folders) == 2
    code, said = proseco("score", str(folders[0]), *where)
    assert code == 1
    assert "Give --model" in said, "they lie in another root than their model"
    where += ["--model", str(model)]
    code, said = proseco("score", str(folders[0]), *where, "--json", "nelbo.draws=2")
    assert code == 0, said
    assert {"nelbo", "entropy", "distinct_2"} <= set(json.loads(said[said.index("{") :]))
    code, said = proseco("score", str(folders[0]), *where, "nelbo.drwas=2")
    assert code == 1
    assert "did you mean draws?" in said
    plain = next(
        p for p in root.glob("export/*") if json.loads((p / "config.json").read_text())["trained_with"] == "mdlm"
    )
    code, said = proseco("generate", str(plain), "--sampler", "proseco", *where[:-2])
    assert code == 1
    assert "allow_untrained=true" in said
    prompts.write_text('{"prompt": "12"\n')
    code, said = proseco(*common)
    assert code == 1
    assert "line 1" in said


def test_doctor_examines_this_machine(tmp_path):
    _, said = proseco("doctor", "--root", str(tmp_path), "--json")
    checks = {c["name"]: c for c in json.loads(said)}
    assert checks["python"]["ok"]
    assert checks["torch"]["ok"]
    assert all(c["ok"] or c["remedy"] for c in checks.values())


@pytest.mark.parametrize(
    "command", ["plan", "run", "explain", "show", "list", "generate", "score", "serve", "doctor", "gc"]
)
def test_every_command_explains_itself(command):
    code, said = proseco(command, "--help")
    assert code == 0
    assert "Usage" in said


def test_the_packages_are_this_projects_own():
    import cluster
    import components
    import pipelines

    root = Path(__file__).parents[2]
    assert all(Path(m.__file__).parents[1] == root for m in (cluster, components, pipelines))


def flip_a_weight(model: Path) -> None:
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-3] ^= 0x40
    (model / "model.safetensors").write_bytes(data)


def swap_two_tokens(model: Path) -> None:
    text = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(
        text.replace('"1": 4', '"1": 9').replace('"2": 5', '"2": 4').replace('"1": 9', '"1": 5')
    )


def change_the_heads(model: Path) -> None:
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace('"heads": 2', '"heads": 4'))


@pytest.mark.parametrize("change", [flip_a_weight, swap_two_tokens, change_the_heads])
@pytest.mark.parametrize("copied", [False, True])
def test_a_model_that_was_changed_since_its_export_is_used_by_nobody(copied, change, finished, tmp_path):
    """All three changes load without a word and give other samples."""
    _, root, _, _ = finished
    exported = next(iter(root.glob("export/*")))
    model = tmp_path / "copy" if copied else tmp_path / "root" / "export" / exported.name
    shutil.copytree(exported, model)
    (samples,) = list(root.glob("generate/*"))[:1]
    (rows,) = list(root.glob("tokenize/*"))[:1]
    where = ["--root", str(tmp_path / "out"), "runtime.executor=local", "runtime.tracking_uri=none"]
    assert load(model).info["heads"] == 2
    change(model)
    for command in (
        ["generate", str(model), *where],
        ["score", str(samples), "--model", str(model), *where],
        ["serve", str(model)],
        ["diagnose", str(model), str(rows)],
    ):
        code, said = proseco(*command)
        assert code == 1, command
        assert "was changed since it was made" in said
    with pytest.raises(CorruptArtifact):
        load(model)

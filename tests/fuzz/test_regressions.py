"""What ended in a traceback, for ever, or in the wrong result, when it was found: now a sentence."""

from __future__ import annotations

import json

import pytest

from components.errors import ClusterError, ProsecoError
from components.outside import MAX_RUN_BYTES, MAX_RUN_DEPTH
from components.shards.account import Account
from components.store.artifact import MANIFEST, read_manifest
from pipelines.config.load import dotted, from_yaml, load_run
from pipelines.lineage import lineage
from tests.fuzz import commands
from tests.fuzz.outcome import HangError, Seen, within
from tests.hostile import manifest, refused

RUNS = {
    "deep lists": ("a: " + "[" * 50_000 + "]" * 50_000, "32 levels"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(300)), "32 levels"),
    "a long hexadecimal number": ("generate: {num_samples: 0x" + "f" * 6000 + "}", "256 bits"),
    "a list": ("- a", "no mapping"),
    "a workflow that is a list": ("workflow: []", "one of main_job, compare, nightly"),
    "a workflow that is a mapping": ("workflow: {a: 1}", "one of main_job, compare, nightly"),
    "a task that is a list": ("workflow: compare\ntasks: {a: [1]}", "tasks.a = [1]"),
    "a task that is a number": ("workflow: compare\ntasks: {a: 3}", "tasks.a = 3"),
    "a nightly run that is a number": ("workflow: nightly\nrun: 3", "run = 3"),
    "a warm section that is a list": ("workflow: nightly\nwarm: [1]", "warm = [1]"),
    "a long file": ("a: " + "x" * MAX_RUN_BYTES, "256 KiB"),
    "aliases of aliases": ("a: &a [x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 8)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)), "limit"),
    "an alias of itself": ("a: &a [*a]", "recursive"),
    "bytes": ("name: \u00e9".encode("latin-1"), "not UTF-8"),
    "extends itself": ("extends: run.yaml", "extends itself"),
    "extends a folder": ("extends: ''", "no file"),
    "extends what no file is named": ("extends: " + "x" * 5000, "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run(name, tmp_path):
    text, part = RUNS[name]
    (tmp_path / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert part in refused(lambda: load_run(tmp_path / "run.yaml", []))


def test_depth_in_yaml_is_counted_exactly():
    assert from_yaml(b"a: " + b"[" * (MAX_RUN_DEPTH - 1) + b"]" * (MAX_RUN_DEPTH - 1))
    with pytest.raises(ValueError, match="32 levels"):
        from_yaml(b"a: " + b"[" * MAX_RUN_DEPTH + b"]" * MAX_RUN_DEPTH)


@pytest.mark.parametrize(
    "override", ["", "=", "=1", ".=1", "a.=1", "a={", "a=[1", "a=!!python/object:x.Y {}", "[=1", "a[=1", "a=*x", "a=0x" + "f" * 6000, "a=\0", "a.b" * 40 + "=1", "\ud800=1", "a=" + "[" * 99, "a=@", "a=${"]
)  # fmt: skip
def test_an_override(override):
    assert "no override" in refused(lambda: dotted([override]))


def test_overrides_that_fit_are_read():
    assert dotted(["a.b=1", "a.c=[1, x]", "d={e: null}", "f=x=y"]) == {"a": {"b": 1, "c": [1, "x"]}, "d": {"e": None}, "f": "x=y"}


LINES = {
    "no samples": ["generate", "model", "--num-samples", "0"],
    "a seed that is too large": ["generate", "model", "--seed", str(2**63)],
    "a row without end": ["generate", "model", "--length", "1000000000"],
    "prompts that are a folder": ["generate", "model", "--prompts", "root"],
    "prompts that are not there": ["generate", "model", "--prompts", "nowhere"],
    "a misspelt field": ["generate", "model", "prompts.promt_field=x", "--prompts", "prompts.jsonl"],
    "a value in a tag": ["generate", "model", "steps=!!python/name:os.system"],
    "no replicas": ["serve", "model", "--replicas", "0"],
    "no errors": ["diagnose", "model", "root", "--errors", "-1"],
    "a name that is too long": ["replay", "0-0", "--root", "x" * 300],
    "a name with NUL": ["plan", "a\0b"],
    "a run of a long name": ["rollback", "x" * 300, "--reason", "a"],
    "a file in the place of a stage": ["lineage", "latin.txt"],
    "a file system that is not installed": ["lineage", "nosuch://x"],
    "a length of nothing": ["import", "source", "--out", "out", "--length", "0"],
    "samplers that are a list": ["plan", "run.yaml", "samplers=[]"],
    "pages in the place of a file": ["list", "--markdown", "run.yaml"],
    "faults in the place of a file": ["chaos", "run.yaml", "--folder", "run.yaml"],
    "a device that is none": ["plan", "/dev/zero"],
}


@pytest.mark.parametrize("name", LINES)
def test_a_command_line(name):
    """Refused in words, and not by what is put in the place of starting it."""
    with pytest.raises(ClusterError) as refusal:
        commands.example(LINES[name])
    assert commands.STARTED not in str(refusal.value)


def test_command_lines_that_fit_are_started():
    for line in (["generate", "model", "steps=2"], ["run", "run.yaml"], ["serve", "model"]):
        with pytest.raises(ClusterError, match=commands.STARTED):
            commands.example(line)
    commands.example(["plan", "run.yaml"])
    commands.example(["import", "source", "--out", "out", "--length", "9"])


def test_stages_that_name_each_other_have_no_lineage(tmp_path):
    for key, other in (("a" * 16, "b" * 16), ("b" * 16, "a" * 16)):
        manifest(tmp_path / "generate" / key, key=key, inputs={"model": other})
    assert "one of them was changed" in refused(lambda: lineage(tmp_path / "generate" / ("a" * 16)))


@pytest.mark.parametrize(
    "changes",
    [{"inputs": []}, {"inputs": {"a": ["b"]}}, {"seconds": "1"}, {"version": True}, {"info": []}, {"key": 1},
     {"files": [{"path": "a", "size_bytes": "1", "sha256": "0"}]}, {"files": {}}, {"stage": None}],
)  # fmt: skip
def test_a_sealed_manifest_of_other_types(changes, tmp_path):
    assert "is damaged" in refused(lambda: read_manifest(manifest(tmp_path / "m", **changes)))
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / MANIFEST).write_text(json.dumps({"x": [[[[[1]]]]]}) + " " * (65 << 20))
    assert "longer than 64 MiB" in refused(lambda: read_manifest(tmp_path / "n"))


@pytest.mark.parametrize("plain", [1, None, {"rows": "1"}, {"rows": -1}, {"rows": True}, {"corrections_by_position": [None]}, {"corrections_by_position": 2.0}, {"rows": float("nan")}])
def test_an_account_of_what_is_no_number(plain):
    assert "was changed" in refused(lambda: Account.read(plain))


def test_the_judge_lets_nothing_pass():
    def forever() -> None:
        while True:
            pass

    def fails(error: BaseException) -> None:
        raise error

    seen = Seen()
    for error in (ValueError("x" * 30), RecursionError(), KeyError("a"), MemoryError(), ProsecoError("short")):
        with pytest.raises((AssertionError, type(error))):
            seen.judge(lambda error=error: fails(error))
    with pytest.raises(HangError), within(1):
        forever()
    seen.judge(lambda: fails(ProsecoError("a sentence of more than twenty letters")))
    assert seen.counts == {"refused": 1}

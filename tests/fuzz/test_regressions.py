"""What ended in a traceback, for ever, or in the wrong result, when it was found: now a sentence."""

from __future__ import annotations

import gzip
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
    "samples in floating point": ["generate", "model", "--num-samples", "1e10"],
    "more samples than ids": ["generate", "model", "--num-samples", "10000000000"],
    "more shards than a manifest names": ["generate", "model", "--num-samples", "1000000000"],
    "a seed that is too large": ["generate", "model", "--seed", str(2**63)],
    "seeds that are too large": ["generate", "model", f"generate.seeds=[{2**63}]"],
    "a seed twice": ["generate", "model", "generate.seeds=[0, 0]"],
    "steps in floating point": ["generate", "model", "steps=1e9"],
    "steps without end": ["generate", "model", "steps=1000000000"],
    "fewer than no steps": ["generate", "model", "steps=-1"],
    "a row without end": ["generate", "model", "--length", "1000000000"],
    "a row in floating point": ["generate", "model", "--length", "1e9"],
    "a sampler that is a list": ["generate", "model", "corrector=[]"],
    "a prompt as null": ["generate", "model", "prompts=null", "--prompts", "prompts.jsonl", "prompts.prompt_field=null"],
    "prompts that are a folder": ["generate", "model", "--prompts", "root"],
    "prompts that are not there": ["generate", "model", "--prompts", "nowhere"],
    "a misspelt field": ["generate", "model", "prompts.promt_field=x", "--prompts", "prompts.jsonl"],
    "a value in a tag": ["generate", "model", "steps=!!python/name:os.system"],
    "no replicas": ["serve", "model", "--replicas", "0"],
    "no errors": ["diagnose", "model", "root", "--errors", "-1"],
    "tasks that are a number": ["plan", "tasks.yaml"],
    "a run that extends itself": ["plan", "itself.yaml"],
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


PROMPTS = {
    "nothing": ("p.jsonl", b"", "holds nothing that can be used; 0 records"),
    "blank lines": ("p.txt", b"\n\n \n", "holds nothing that can be used; 0 records"),
    "null": ("p.jsonl", b'{"prompt": null}', "no field 'prompt' or 'template' (it has prompt)"),
    "a number": ("p.jsonl", b'{"prompt": 12}', "prompt = 12: it must be a text"),
    "a list of texts": ("p.jsonl", b'{"prompt": ["1"]}', "it must be a text"),
    "a template that is a text": ("p.jsonl", b'{"template": "123"}', "template = '123': it must be a list, not a text"),
    "a template that is no list of pieces": ("p.jsonl", b'{"template": [1.5]}', "template"),
    "a template of nothing": ("p.jsonl", b'{"template": []}', "template = []: it must be at least 1 of them"),
    "a template without a gap": ("p.jsonl", b'{"template": ["12"]}', "leaves nothing to write"),
    "a template with a gap without end": ("p.jsonl", b'{"template": [1000000000000]}', "no row has more than 1048576"),
    "a template beside a prompt": ("p.jsonl", b'{"template": ["1", 2], "prompt": "1"}', "both a prompt and a template"),
    "a misspelt field": ("p.jsonl", b'{"promt": "1"}', "no field 'prompt' or 'template' (it has promt)"),
    "unknown symbols": ("p.jsonl", b'{"prompt": "xyz"}', "symbols that the vocabulary has not"),
    "a name of a special token": ("p.jsonl", b'{"prompt": "[MASK]"}', "symbols that the vocabulary has not"),
    "a label without classes": ("p.jsonl", b'{"prompt": "1", "label": 0}', "the model knows neither classes nor values"),
    "an id that is a list": ("p.jsonl", b'{"prompt": "1", "id": []}', "id = []: it must be a text"),
    "a prompt as long as the row": ("p.jsonl", b'{"prompt": "123123123"}', "leaves none to write"),
    "half a character": ("p.jsonl", b'{"prompt": "1", "x": "\\ud800"}', "no Unicode text"),
    "latin-1": ("p.txt", b"\xe9", "not UTF-8"),
    "latin-1 in JSON": ("p.jsonl", b'{"prompt": "\xe9"}', "not UTF-8"),
    "gz that is none": ("p.jsonl.gz", b"x", "Not a gzipped file"),
    "gz that was cut": ("p.jsonl.gz", gzip.compress(b'{"prompt": "1"}')[:-4], "the file cannot be read"),
    "gz without its name": ("p.jsonl", gzip.compress(b'{"prompt": "1"}'), "not UTF-8"),
    "Parquet that is none": ("p.parquet", b"PAR1", "the file cannot be read"),
    "JSON that is deep": ("p.jsonl", b"[" * 5000, "64 levels"),
    "a list of records": ("p.json", b'[{"prompt": "1"}]', "not an object"),
}
HERE = ["runtime.executor=local", "runtime.tracking_uri=none", "runtime.jobs=1", "steps=2", "--root", "root", "--num-samples", "1"]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_file_of_prompts_of_which_none_can_be_used(name, tmp_path):
    """Nothing is sampled, and what is wrong is told."""
    file, raw, part = PROMPTS[name]
    commands.set_up(tmp_path)
    (tmp_path / file).write_bytes(raw)
    with pytest.raises(ClusterError) as refusal:
        commands.run_command(tmp_path, ["generate", "model", *HERE, "--prompts", file], starts=[])
    assert part in str(refusal.value)
    assert not list(tmp_path.glob("root/generate/*/shards/*"))


def test_files_of_prompts_that_fit_are_continued(tmp_path):
    commands.set_up(tmp_path)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "12"}\n{"template": ["1", 2, "3"]}'))
    assert "2 samples in root/generate" in commands.run_command(tmp_path, ["generate", "model", *HERE, "--prompts", "p.jsonl.gz"], [])


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

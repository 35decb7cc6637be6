"""Values that no run means: each is refused by `proseco plan` with its path, the rule and a remedy, before anything starts."""

from __future__ import annotations

import json

import pytest

from components.api import load, sample
from components.data.tokenizer import load_tokenizer
from components.errors import ConfigError
from components.models import device
from components.models.weights import row_length
from components.options import MAX_WHOLE
from components.outside import MAX_BYTES, MAX_LENGTH, MAX_ROWS, MAX_SHARDS
from components.samplers import preset
from components.store.artifact import MANIFEST, write_manifest
from components.store.samples import receipt_file, shard_file
from pipelines import commands as made_by
from pipelines import needs
from pipelines.config.load import load_run
from pipelines.config.schema import GenerateConfig
from pipelines.diagnose import diagnose_model, require_tokenizer
from pipelines.graph import runner
from pipelines.graph.progress import Screen
from pipelines.workflows import build, one_stage
from tests.chaos.harness import RUN
from tests.components.test_export import MODELS, exported
from tests.fuzz import commands
from tests.hostile import manifest, refused

TOO_LARGE = 2**31
WRONG = {
    "model.dim": [-8, 2**20 + 1],
    "model.depth": [-1, 2**20 + 1],
    "model.heads": [-2, 3, 2**20 + 1],
    "model.mlp_dim": [-1, 2**22 + 1],
    "model.num_positions": [-1, 3, TOO_LARGE],
    "model.num_classes": [-1, TOO_LARGE],
    "model.dropout": [-0.1, 1, 1e300],
    "model.rope_theta": [0, -1, 1e300],
    "model.norm_eps": [0, 2, 1e300],
    "train.base.steps": [0, -1, TOO_LARGE, 10**21],
    "train.base.batch_rows": [0, -1, 2**24 + 1],
    "train.base.seed": [-1, 10**23, 2**63],
    "train.base.optimizer.lr": [0, -1, 2e38, 1e300],
    "train.base.optimizer.eps": [0, 1e300],
    "train.base.optimizer.weight_decay": [-1, 1e300, 4000],
    "train.base.optimizer.clip": [-1],
    "train.base.ema_decay": [-0.5, 1],
    "train.base.log_every": [0, -1],
    "train.base.checkpoint_every": [0, TOO_LARGE],
    "train.base.validation_rows": [0, TOO_LARGE],
    "corpora.latin.source.num_documents": [0, -1, TOO_LARGE],
    "corpora.latin.source.size": [1, 10],
    "corpora.latin.max_bad_share": [-1, 1.5],
    "corpora.latin.validation_share": [-1, 1],
    "corpora.latin.weight": [0, -1, 1e308],
    "tokenizer.vocab_size": [-1, 0, 2**24 + 1],
    "rows.length": [0, -1, 2**20 + 1, 10**9],
    "rows.pieces": [0, 2**16 + 1],
    "generate.num_samples": [0, -1, 10**9 + 1, 10**10],
    "generate.num_traced": [-5, TOO_LARGE],
    "generate.shard_rows": [0, TOO_LARGE],
    "generate.lanes": [0, 2**16 + 1],
    "samplers.mdlm.sampler.steps": [-1, 2**20 + 1, 10**9],
    "runtime.replicas": [0, -1, 100_001],
    "runtime.workers": [0, -1, 100_001],
    "runtime.threads": [0, -1, 1025],
}  # fmt: skip
"""By path: values on the far side of each bound."""
LISTS = {
    "generate.seeds": ["[-1]", "[100000000000000000000000]", "[1e23]", f"[{2**63}]", "[0, 0]", "[]"],
    "samplers.mdlm.steps": ["[-1]", "[1e9]", f"[{2**20 + 1}]"],
}
CASES = [(path, str(v)) for path, values in WRONG.items() for v in values] + [(p, v) for p, values in LISTS.items() for v in values]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path / "run.yaml"


def problems(run, *overrides):
    with pytest.raises(ConfigError) as found:
        load_run(run, list(overrides))
    return found.value.problems


@pytest.mark.parametrize(("path", "value"), CASES)
def test_a_value_that_no_run_means_is_refused_by_its_path(path, value, run):
    told = problems(run, f"{path}={value}")
    assert path in {p.path.split("[")[0] for p in told}
    assert all(p.rule and p.remedy for p in told)


BOUNDS = [
    "train.base.optimizer.lr=1e38", "train.base.optimizer.weight_decay=3000", "train.base.steps=2147483647",
    "corpora.latin.source.num_documents=1", "corpora.latin.max_bad_share=0", "corpora.latin.max_bad_share=1", "generate.seeds=[9223372036854775807]",
    "generate.num_traced=0", "generate.lanes=65536", "samplers.mdlm.steps=[1048576]", "samplers.mdlm.steps=[0]", "rows.pieces=65536",
    "tokenizer.vocab_size=16777216", "model.norm_eps=1", "model.rope_theta=1e12", "corpora.latin.weight=1e9",
]  # fmt: skip


@pytest.mark.parametrize("override", BOUNDS)
def test_the_bounds_themselves_are_taken(override, run):
    load_run(run, [override])


def test_a_network_that_no_cluster_trains_is_refused_although_each_size_is_one(run):
    sizes = ["model.dim=65536", "model.heads=512", "model.mlp_dim=196608", "model.num_positions=0"]
    load_run(run, [*sizes, "model.depth=16"])
    (told,) = problems(run, *sizes, "model.depth=64")
    assert (told.path, told.value) == ("model.dim", 65536)
    assert "3.57e+12" in told.rule, "weights: 64 blocks of 4 x dim x dim and 3 x dim x mlp_dim"


def test_six_mistakes_of_both_kinds_are_told_at_once(run):
    """Of type, of bounds and of rules between options: none hides another."""
    wrong = {
        "train.base.steps": "many", "rows.layout": "no", "train.base.seed": "-1", "model.heads": "3", "train.proseco.init_from": "nobody",
        "generate.seeds": "[0, 0]",
    }  # fmt: skip
    told = problems(run, *(f"{path}={value}" for path, value in wrong.items()))
    assert sorted(p.path for p in told) == sorted(wrong)


def test_one_wrong_entry_of_a_list_is_one_problem(run):
    (told,) = problems(run, "generate.seeds=[-1]")
    assert told.path == "generate.seeds[0]"


def test_a_bound_is_shown_to_its_last_digit(run):
    (told,) = problems(run, f"model.num_classes={MAX_WHOLE + 1}")
    assert told.rule == f"in [0, {MAX_WHOLE}]"
    (told,) = problems(run, "model.num_classes=-1")
    assert told.rule == "at least 0", "what all whole numbers have in common is said where it is broken"


def test_steps_of_zero_are_as_many_as_the_row_has_positions(run):
    sampling = load_run(run, ["samplers.mdlm.steps=[0]"]).samplers["mdlm"]
    assert sampling.sampler.with_steps(sampling.steps[0]).ticks(9) == 9


@pytest.mark.parametrize("override", ["runtime.gpus=8", "runtime.device=cuda"])
def test_gpus_that_are_not_here_are_refused_before_anything_starts(override, monkeypatch):
    monkeypatch.setattr(device, "num_gpus", lambda: 0)
    for command in ("plan", "run"):
        said = refused(lambda command=command: commands.example([command, "run.yaml", override], starts=[]))
        assert "a GPU that torch sees; here it sees none" in said
        assert override.split("=")[0] in said
    assert "here it sees none" in refused(lambda: commands.example(["generate", "model", "--device", "cuda"], starts=[]))


def test_more_gpus_than_there_are_are_refused_here_and_not_on_a_cluster(run, monkeypatch):
    monkeypatch.setattr(device, "num_gpus", lambda: 2)
    monkeypatch.setattr(needs, "num_gpus", lambda: 2)
    runtime = load_run(run, ["runtime.gpus=8"]).runtime
    (told,) = needs.refusals(runtime, run.parent)
    assert (told.path, told.value, told.rule) == ("runtime.gpus", 8, "at most the 2 GPUs of this machine")
    assert not needs.refusals(load_run(run, ["runtime.gpus=2"]).runtime, run.parent)
    for elsewhere in ("runtime.address=auto", "runtime.device=cpu"):
        assert not needs.refusals(load_run(run, ["runtime.gpus=8", elsewhere]).runtime, run.parent)


def test_gpus_of_which_nothing_is_said_are_told(run, monkeypatch):
    """Where they are used, not wanted, or a cluster's, there is nothing to tell."""
    monkeypatch.setattr(needs, "num_gpus", lambda: 2)
    (told,) = needs.idle_gpus(load_run(run, []).runtime)
    assert (told.name, told.ok, told.remedy) == ("runtime.gpus", False, "set runtime.gpus=2, or say runtime.device=cpu")
    assert "torch sees 2" in told.rule
    for said in ("runtime.gpus=1", "runtime.device=cpu", "runtime.device=cuda", "runtime.address=auto"):
        assert not list(needs.idle_gpus(load_run(run, [said]).runtime)), said
    monkeypatch.setattr(needs, "num_gpus", lambda: 0)
    assert not list(needs.idle_gpus(load_run(run, []).runtime))


def test_a_run_tells_of_gpus_that_it_leaves_idle_before_it_makes_anything(run, tmp_path, monkeypatch):
    said, config = [], load_run(run, [f"runtime.root={tmp_path / 'root'}"])
    monkeypatch.setattr(needs, "num_gpus", lambda: 2)
    monkeypatch.setattr(Screen, "say", lambda screen, message: said.append(message))
    monkeypatch.setenv("PROSECO_DRIVER_PID", "")

    def stopped(root):
        raise InterruptedError

    monkeypatch.setattr(runner, "mark_root", stopped)
    with pytest.raises(InterruptedError):
        runner.execute("x", list(build(config).values()), config.runtime, Screen(quiet=True))
    assert [m for m in said if m.startswith("runtime.gpus = 0") and "set runtime.gpus=2" in m]


@pytest.mark.parametrize(
    ("rows", "seeds", "shard_rows", "path"),
    [(10**9, (0,), 10_000, ""), (5 * 10**8, (0, 1), 10_000, ""), (5 * 10**8 + 1, (0, 1), 10_000, "num_samples"),
     (10**9, (0,), 9_999, "shard_rows"), (100_000, (0,), 1, ""), (100_001, (0,), 1, "shard_rows")],
)  # fmt: skip
def test_a_table_has_a_number_of_rows_and_of_shards(rows, seeds, shard_rows, path):
    found = list(GenerateConfig(num_samples=1, seeds=seeds, shard_rows=shard_rows).too_many(rows))
    assert [p.path for p in found] == ([path] if path else [])
    if path == "shard_rows":
        assert f"raise it to {shard_rows + 1}" in found[0].remedy


def test_the_command_holds_its_options_to_the_same_rules():
    with pytest.raises(ConfigError, match=r"generate\.seeds"):
        made_by.generate_of({"seeds": [0, 0]})
    with pytest.raises(ConfigError, match=r"generate\.shard_rows = 512(.|\n)*raise it to 10000"):
        made_by.generate_of({"num_samples": MAX_ROWS, "shard_rows": 512})


def test_a_manifest_of_so_many_shards_can_be_read_again(tmp_path):
    """Its size is that of one shard of the longest name times their number."""
    name = f"seed-{2**63 - 1}-{MAX_SHARDS:05d}"
    files = [shard_file(tmp_path / "shards", name), receipt_file(tmp_path / "shards", name)]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"x")
    sizes = []
    for number in (1, 2):
        folder = tmp_path if number == 1 else tmp_path / "none"
        folder.mkdir(exist_ok=True)
        write_manifest(folder, "generate", "generate/mdlm@4", 1, {}, 1.0, {"shards": [name] * (number == 1)}, files * (number == 1))
        sizes.append((folder / MANIFEST).stat().st_size)
    assert (sizes[0] - sizes[1]) * MAX_SHARDS < MAX_BYTES * 0.9
    assert MAX_LENGTH == 2**20
    assert json.loads((tmp_path / MANIFEST).read_text())["info"]["shards"] == [name]


@pytest.mark.parametrize(
    ("override", "path", "rule"),
    [("samplers=[]", "samplers", "a section with options, not a list"), ("train.base.optimizer=[1]", "train.base.optimizer", "not a list"),
     ("generate.seeds={a: 1}", "generate.seeds", "a list, not a section")],
)  # fmt: skip
def test_a_list_in_the_place_of_a_section_is_told_with_its_path(override, path, rule, run):
    (told,) = problems(run, override)
    assert told.path == path
    assert rule in told.rule


def test_rows_of_another_tokenizer_are_not_diagnosed(tmp_path):
    """Although all their ids are among those of the model."""
    exported(tmp_path / "model")
    rows = manifest(tmp_path / "tokenize" / "0", "tokenize", inputs={"tokenizer": "1" * 16})
    file = tmp_path / "tokenizer" / ("1" * 16) / "tokenizer.json"
    file.parent.mkdir(parents=True)
    raw = (tmp_path / "model" / "tokenizer.json").read_bytes()
    words = load_tokenizer(tmp_path / "model" / "tokenizer.json")
    file.write_bytes(raw)
    require_tokenizer(rows, words)
    file.write_bytes(raw.replace(b'"1": 4', b'"1": 5').replace(b'"2": 5', b'"2": 4'))
    assert "is of the tokenizer 1111111111111111" in refused(lambda: diagnose_model(tmp_path / "model", rows, 1, 8, ""))


@pytest.mark.parametrize(("shape", "most"), [("grid", 9), ("plain", MAX_LENGTH)])
def test_a_row_has_no_more_positions_than_the_model(shape, most, tmp_path):
    folder = tmp_path / "model"
    exported(folder, MODELS[shape])
    model = load(folder)
    assert [len(s.sample.tokens) for n in (0, 3, 9) for s in sample(model, length=n, steps=2)] == [9, 3, 9]
    assert row_length(model.info, most) == most
    for length in (most + 1, -1):
        for use in (
            lambda length=length: sample(model, length=length),
            lambda length=length: one_stage.sampling(folder, preset("mdlm"), GenerateConfig(), length=length),
        ):
            with pytest.raises(ConfigError, match=f"length = {length}(.|\n)*in \\[1, {most}\\], the positions"):
                use()

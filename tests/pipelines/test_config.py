from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigError
from pipelines.config.load import load_run
from pipelines.config.schema import total_passes
from pipelines.graph.plan import plan
from pipelines.workflows import build

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/runs/*.yaml"))
DEMO = Path(__file__).parents[2] / "configs/runs/demo.yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_plans(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PROSECO_DATA", str(tmp_path))
    corpus = tmp_path / "wiki_good_featured/train-0.jsonl.gz"  # of the one run whose corpus lies there
    corpus.parent.mkdir()
    corpus.touch()
    run = load_run(path, [f"runtime.root={tmp_path}"])
    findings = plan(list(build(run).values()), tmp_path)
    assert {f.state for f in findings} == {"missing"}


def test_both_sides_of_the_demo_get_equal_work():
    run = load_run(DEMO, [])
    assert total_passes(run, "mdlm") == total_passes(run, "proseco")


def test_all_problems_are_told_at_once_with_a_remedy():
    overrides = [
        "train.base.steps=-1",
        "train.base.optimizer.lr=.nan",
        "train.base.optimiser.lr=1",
        "model.preset=nanoo",
        "samplers.mdlm_ancestral.model=nobody",
        "samplers.proseco_ancestral.sampler.corrector.every=50",
        "runtime.workers=0",
        "generate.seeds=[0,0]",
        "corpora.latin.source.size=true",
        "rows.layout=no",
    ]
    with pytest.raises(ConfigError) as found:
        load_run(DEMO, overrides)
    told = str(found.value)
    for part in (
        "train.base.optimiser",
        "did you mean optimizer?",
        "a finite number",
        "corpora.latin.source.size",
        "rows.layout",
    ):
        assert part in told
    with pytest.raises(ConfigError) as found:
        load_run(DEMO, [o for o in overrides if "optim" not in o and "latin" not in o and "layout" not in o])
    told = str(found.value)
    for part in (
        "train.base.steps",
        "model.preset",
        "samplers.mdlm_ancestral.model",
        "the corrector would never run",
        "runtime.workers",
        "generate.seeds",
    ):
        assert part in told, part
    assert told.count("remedy:") >= 6


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.base.objective.name=prosecco", "did you mean proseco?"),
        ("samplers.mdlm_ancestral.sampler.preset=mdlmm", "did you mean mdlm?"),
        ("samplers.mdlm_ancestral.sampler.corrector=proseco", "allow_untrained=true"),
        ("train.base.objective={name: dsc, scope: visible}", "set objective.fill_from=extra, or scope=artifact"),
        ("samplers.mdlm_ancestral.sampler.unmask=confidence", "the schedule ancestral names the positions itself"),
        ("train.proseco.init_from=nobody", "another training"),
        ("train.base.init_from=mdlm", "break the circle"),
        ("train.proseco.objective.every=3", "divides the micro-batch"),
        ("train.proseco.objective.corrector_weight=-1", "at least 0"),
        ("model.num_positions=3", "at least rows.length"),
        ("tokenizer.kind=file", "a tokenizer.json that exists"),
        ("scorers.judgee={}", "did you mean judge?"),
        ("runtime.zero_stage=4", "one of 0, 1, 2, 3"),
        ("name=../x", "letters, digits"),
    ],
)
def test_a_wrong_value_says_what_to_do(override, part):
    with pytest.raises(ConfigError) as found:
        load_run(DEMO, [override])
    assert part in str(found.value)


def test_a_missing_file_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean .*demo\.yaml"):
        load_run(DEMO.with_name("demmo.yaml"), [])


def test_broken_yaml_is_told_with_its_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\ntrain: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_run(path, [])


def test_yaml_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError):
        load_run(path, [])


def test_a_file_may_extend_another(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: {DEMO}\ntrain: {{base: {{steps: 7}}}}\n")
    run = load_run(path, ["train.base.batch_rows=16"])
    assert (run.train["base"].steps, run.train["base"].batch_rows, run.train["mdlm"].steps) == (7, 16, 800)


def test_the_runtime_never_reaches_a_key():
    one = build(load_run(DEMO, []))
    two = build(
        load_run(DEMO, ["runtime.workers=1", "runtime.root=/elsewhere", "runtime.zero_stage=0", "runtime.threads=2"])
    )
    assert {k: s.key for k, s in one.items()} == {k: s.key for k, s in two.items()}


def test_a_change_reaches_what_depends_on_it_and_nothing_else():
    one = build(load_run(DEMO, []))
    two = build(load_run(DEMO, ["train.proseco.t_min=0.2"]))
    changed = {k for k in one if one[k].key != two[k].key}
    assert "train/proseco" in changed
    assert "report" in changed
    assert not {"tokenizer", "tokenize/latin", "train/base", "train/mdlm", "generate/mdlm_ancestral@6"} & changed
    assert all("mdlm" not in label for label in changed)


def test_an_empty_run_lists_what_it_lacks():
    from pipelines.config.rules import problems
    from pipelines.config.schema import RunConfig

    assert {p.path for p in problems(RunConfig())} == {"corpora"}


SAMPLER_FILES = sorted(Path(__file__).parents[2].glob("configs/samplers/*.yaml"))


@pytest.mark.parametrize("path", SAMPLER_FILES, ids=lambda p: p.stem)
def test_every_sampler_file_is_a_valid_sampler_that_its_preset_is_not(path):
    """A file holds published settings that differ from the preset's own, or it would repeat it."""
    from components.samplers import preset
    from pipelines.commands import named_sampler

    published = named_sampler(str(path), {})
    assert published != preset(published.preset)
    assert named_sampler(str(path), {"draw": {"top_k": 5}}).draw.top_k == 5


def test_a_run_may_name_a_sampler_by_its_file(tmp_path):
    run = tmp_path / "run.yaml"
    (tmp_path / "mine.yaml").write_text("preset: remdm_cap\nsteps: 77\ncorrector: {eta: 0.5}\n")
    run.write_text(DEMO.read_text() + "\n")
    loaded = load_run(run, ["samplers.mdlm_ancestral.sampler=mine.yaml", "samplers.mdlm_ancestral.steps=[]"])
    sampler = loaded.samplers["mdlm_ancestral"].sampler
    assert (sampler.preset, sampler.steps, sampler.corrector.eta) == ("remdm_cap", 77, 0.5)


OBJECTIVE_FILES = sorted(Path(__file__).parents[2].glob("configs/objectives/*.yaml"))


def test_every_objective_has_a_file_of_settings():
    from components.objectives import OBJECTIVES
    from pipelines.config.load import read_yaml

    assert {read_yaml(path)["objective"]["name"] for path in OBJECTIVE_FILES} == set(OBJECTIVES)


@pytest.mark.parametrize("path", OBJECTIVE_FILES, ids=lambda p: p.stem)
def test_every_objective_file_is_a_training_that_plans(path, tmp_path):
    run = load_run(
        DEMO,
        [
            f"train.more.file={path}",
            "train.more.init_from=mdlm",
            "train.more.steps=40",
            "train.more.checkpoint_every=40",
        ],
    )
    train = run.train["more"]
    assert (train.steps, train.init_from) == (40, "mdlm")
    findings = plan(list(build(run).values()), tmp_path)
    assert "train/more" in {f.stage.label for f in findings}


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["train.more.objective=dsc"], "needs a trained one"),
        (["train.more.objective=dsc", "train.more.init_from=base", "train.more.optimizer.weight_decay=0.1"], "would decay"),
        (["train.more.objective={name: prism, frozen: true}", "train.more.init_from=base"], "0 where the network is frozen"),
        (["train.more.objective=policy_grpo", "train.more.init_from=base", "train.more.steps=41"], "multiples of"),
        (["train.more.init_from=base", "train.more.init_folder=/nowhere"], "one start, not two"),
        (["train.more.init_folder=/nowhere"], "proseco import"),
        (["train.more.label_dropout=1.5"], "in [0, 1)"),
        (["samplers.mdlm_ancestral.sampler=prism"], "asks a quality head"),
        (["samplers.mdlm_ancestral.sampler=dsl_sde"], "noisy embeddings"),
        (["samplers.mdlm_ancestral.sampler={preset: fk_steering, search: {reward: taste}}"], "name a scorer"),
    ],
)  # fmt: skip
def test_what_a_training_or_a_sampler_lacks_is_told_before_anything_starts(overrides, part):
    with pytest.raises(ConfigError, match=part.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")):
        load_run(DEMO, overrides)


def test_heads_come_with_the_objective_and_stay_with_what_starts_from_it():
    from pipelines.config.schema import model_of, taught_visible

    run = load_run(
        DEMO,
        ["train.head.objective={name: prism, head_layers: 1}", "train.head.init_from=mdlm", "train.policy.objective=policy_imitation",
         "train.policy.init_from=proseco"],
    )  # fmt: skip
    assert model_of(run, "head").quality_layers == 1
    assert model_of(run, "mdlm").quality_layers == -1
    assert model_of(run, "policy").policy
    assert taught_visible(run, "policy"), "the trunk is ProSeCo's"
    assert not taught_visible(run, "head")


def test_a_comparison_shares_what_seeds_have_in_common():
    path = DEMO.parent / "compare_objectives.yaml"
    comparison = load_run(path, [])
    stages = build(comparison)
    assert len({s.key for s in stages.values()}) == len(stages)
    assert sum(s.name == "tokenize" for s in stages.values()) == len(comparison.tasks)
    trained = [label for label, s in stages.items() if s.name == "train"]
    assert sum(label.endswith("/train/proseco") for label in trained) == 2 * 3
    assert sum(label.endswith("/train/dsl") for label in trained) == 2
    for run in comparison.tasks.values():
        work = {n: total_passes(run, n) for n, t in run.train.items() if t.init_from == "base"}
        assert max(work.values()) - min(work.values()) <= 2, work
    with pytest.raises(ConfigError, match="tasks.sudoku"):
        load_run(path, ["tasks.sudoku.rows.length=0"])


def test_the_schema_for_editors_takes_the_shipped_runs_and_no_misspelt_ones():
    import jsonschema

    from components.options import json_schema
    from pipelines.config.load import read_yaml
    from pipelines.config.schema import RunConfig

    schema = json_schema(RunConfig)
    for path in CONFIGS:
        plain = read_yaml(path)
        if plain.get("workflow", "main_job") == "main_job":
            jsonschema.validate(plain, schema)
    plain["samplers"]["mdlm_ancestral"] = {"model": "mdlm", "sampler": {"preset": "mdlm", "draw": {"top_pp": 1.0}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema)


JUNK = [None, True, 0, -1, 3.5, 1e308, float("nan"), "", "x", [], [1], {}, {"name": None}, {1: 2}, 10**30, [[[]]]]


def places(plain, place=()):
    """Where values stand in nested ones."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from places(value, (*place, key))


@pytest.mark.parametrize("seed", range(4))
def test_junk_anywhere_in_a_run_is_a_problem_with_a_remedy_and_never_a_crash(seed):
    import copy
    import random

    from pipelines.config.load import one_run, read_yaml

    chance, demo = random.Random(seed), read_yaml(DEMO)
    everywhere, refused = list(places(demo)), 0
    for _ in range(100):
        plain = copy.deepcopy(demo)
        *above, last = chance.choice(everywhere)
        holder = plain
        for key in above:
            holder = holder[key]
        holder[last] = chance.choice(JUNK)
        problems: list = []
        one_run({"name": "demo", **plain}, DEMO, problems)
        assert all(p.path and p.rule and p.remedy for p in problems)
        refused += bool(problems)
    assert refused > 50


@pytest.mark.parametrize(
    ("run", "overrides", "path"),
    [
        (DEMO, ["rows.buckets=[5,10]", "train.proseco.objective={name: proseco, every: 2}"], "train.proseco.objective"),
        (DEMO, ["rows.buckets=[10,5]"], "rows.buckets"),
        (DEMO, ["rows.buckets=[30]"], "rows.buckets"),
        (DEMO, ["rows.layout=packed", "rows.buckets=[5]"], "rows.buckets"),
        (DEMO, ["rows.layout=packed", "rows.too_long=cut"], "rows.too_long"),
        (DEMO.with_name("sudoku.yaml"), ["rows.too_long=split"], "rows.too_long"),
    ],
)
def test_rules_of_long_and_short_documents(run, overrides, path):
    with pytest.raises(ConfigError) as found:
        load_run(run, overrides)
    assert path in {p.path for p in found.value.problems}


def test_long_and_short_documents_are_taken_where_they_fit():
    assert load_run(DEMO, ["rows.buckets=[5,10]"]).rows.buckets == (5, 10)
    assert load_run(DEMO, ["rows.too_long=split"]).rows.too_long == "split"
    assert load_run(DEMO.with_name("sudoku.yaml"), ["rows.too_long=cut"]).rows.too_long == "cut"

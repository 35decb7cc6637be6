"""Batch jobs: files of prompts in any format, one table with every row once, and any row made again."""

from __future__ import annotations

import json
import math
import pickle
import random
import re
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.api import load, sample
from components.api import score as score_rows
from components.errors import ConfigError, DataError, SamplingError
from components.models.config import ModelConfig
from components.outside import MAX_FIELDS_BYTES
from components.samplers import preset
from components.scorers import nelbo
from components.shards.account import Account, useful
from components.shards.model import Sampling, running
from components.shards.model import engine_of as engine_around
from components.shards.prompt import FilePrompts
from components.shards.sample import SampleShard
from components.store.artifact import read_manifest
from components.store.samples import KEYS, SAMPLES, SCHEMA_VERSION
from pipelines import job
from pipelines.commands import generate, score
from pipelines.replay import replay
from tests.components.test_export import MODELS, exported

WHERE = ["runtime.executor=local", "runtime.tracking_uri=none", "runtime.jobs=1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("batch") / "model"
    exported(folder)
    return folder


def made(model: Path, root: Path, *overrides: str, sampler: str = "proseco", prompts: Path | None = None, **options) -> Path:
    """Run the command; returns the folder of the table."""
    given = {"num_samples": 2, "seed": 0, "length": 0, "num_shown": 0} | options
    said = list(generate(model, ["steps=3", *WHERE, *overrides], sampler, str(root), prompts=prompts, **given))
    return Path(re.search(r" in (\S+),", said[0])[1])


def table(folder: Path) -> pa.Table:
    names = read_manifest(folder).info["shards"]
    return pa.concat_tables([pq.read_table(folder / "shards" / f"{n}.parquet") for n in names])


def rows(folder: Path) -> dict[str, tuple]:
    """What a row says, by its id, without what says by which run it was made."""
    found = [(r["row_id"], r["prompt_id"], r["sample_index"], tuple(r["tokens"]), r["calls"]) for r in table(folder).to_pylist()]
    assert len({r[0] for r in found}) == len(found), "two rows have one id"
    return {r[0]: r[1:] for r in found}


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_prompts_of_every_format_give_the_same_rows(model, tmp_path):
    import datasets

    records = [{"prompt": p, "id": f"u{i}"} for i, p in enumerate(["12", "3", "123", "2"])]
    columns = {"prompt": [r["prompt"] for r in records], "id": [r["id"] for r in records]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (tmp_path / "p.txt").write_text("12\n\n3\r\n123\n2")
    saved = datasets.Dataset.from_dict(columns)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "many").mkdir()
    for i, record in enumerate(records):
        write_jsonl(tmp_path / "many" / f"{i}.jsonl", [record])
    expected = rows(made(model, tmp_path / "r", prompts=write_jsonl(tmp_path / "p.jsonl", records)))
    assert len(expected) == 8
    assert {r[0] for r in expected.values()} == {"u0", "u1", "u2", "u3"}
    for name, changes in (("p.parquet", []), ("saved", []), ("splits", ["prompts.split=train"]), ("many", [])):
        assert rows(made(model, tmp_path / "r", *changes, prompts=tmp_path / name)) == expected, name
    text = rows(made(model, tmp_path / "r", prompts=tmp_path / "p.txt"))
    assert {k: v[1:] for k, v in text.items()} == {k: v[1:] for k, v in expected.items()}, "only names of prompts differ"
    with pytest.raises(DataError, match=r"splits train, test, not ''\. Set prompts.split"):
        made(model, tmp_path / "r", prompts=tmp_path / "splits")


def test_fields_are_named_by_options(model, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": "12", "key": 5}, {"question": "1", "key": 6}])
    folder = made(model, tmp_path / "r", "prompts.prompt_field=question", "prompts.id_field=key", prompts=path)
    assert {r[0] for r in rows(folder).values()} == {"5", "6"}
    with pytest.raises(DataError, match="no field 'prompt' or 'template' \\(it has question, key\\)"):
        made(model, tmp_path / "r", prompts=path)
    with pytest.raises(ConfigError, match="did you mean prompt_field"):
        made(model, tmp_path / "r", "prompts.promt_field=question", prompts=path)


BAD = {
    "{": "broken JSON",
    "[1]": "not an object",
    '{"promt": "1"}': "no field 'prompt' or 'template' (it has promt)",
    '{"prompt": 5}': "prompt = 5",
    '{"prompt": "1", "label": -1}': "label = -1",
    '{"prompt": "1", "label": 0}': "label = 0: the model knows neither classes nor values",
    '{"prompt": "1", "template": ["2"]}': "both a prompt and a template",
    '{"template": [0]}': "template",
    '{"prompt": "9"}': "symbols that the vocabulary has not",
    '{"prompt": "123123123"}': "leaves none to write",
    '{"template": [10]}': "leaves none to write",
    '{"prompt": "\\ud800"}': "surrogate",
}


def test_what_goes_in_comes_out_or_is_quarantined_with_a_reason(model, tmp_path):
    path = tmp_path / "p.jsonl"
    good = ['{"prompt": "12"}', '{"template": [2, "3", 1, "1"]}', '{"prompt": ""}']
    path.write_bytes(b"\n".join([*map(str.encode, [*good, *BAD]), b'{"prompt": "\xff"}', b"  ", b""]))
    folder = made(model, tmp_path / "r", prompts=path, num_samples=3)
    (stage,) = (tmp_path / "r" / "prompts").glob("*")
    info = read_manifest(stage).info
    assert (info["documents"], info["prompts"], info["quarantined"]) == (len(BAD) + 4, 3, len(BAD) + 1)
    found = [r for f in stage.glob("quarantine-*.parquet") for r in pq.read_table(f).to_pylist()]
    reasons = {int(r["id"].split(":")[1]): r["reason"] for r in found}
    for line, reason in enumerate([*BAD.values(), "not UTF-8"], len(good) + 1):
        assert reason in reasons[line]
    assert len(rows(folder)) == 9


def test_what_a_record_says_comes_back_with_each_of_its_samples(model, tmp_path):
    import datetime

    own = [{"answer": "321", "source": {"page": 7, "tags": ["a", None]}}, {"template": [2, "3"], "weight": 0.5}, {}, {"note": "\u00e9"}]
    records = [{"prompt": "12", "id": "a"}, {"id": 7}, {"prompt": "3"}, {"prompt": "3", "label": None, "text": "x", "empty": None}]
    path = write_jsonl(tmp_path / "p.jsonl", [r | more for r, more in zip(records, own, strict=True)])
    found = table(made(model, tmp_path / "r", prompts=path)).to_pylist()
    assert len(found) == 8
    carried = [json.loads(r["fields"]) if r["fields"] is not None else {} for r in found]
    assert carried == [one for one in own for _ in range(2)]
    assert [r["prompt_id"] for r in found[:4]] == ["a", "a", "7", "7"]
    assert {r["fields"] for r in table(made(model, tmp_path / "r", "prompts.carried=none", prompts=path)).to_pylist()} == {None}
    columns = {"prompt": ["1"], "day": [datetime.date(2026, 11, 26)], "picture": [b"\xff"], "score": [float("nan")], "answer": ["2"]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (row, _) = table(made(model, tmp_path / "r", prompts=tmp_path / "p.parquet")).to_pylist()
    assert json.loads(row["fields"]) == {"day": "2026-11-26", "picture": None, "score": None, "answer": "2"}


def test_what_a_record_says_has_a_limit(model, tmp_path):
    fits = "x" * (MAX_FIELDS_BYTES - len('{"a": ""}'))
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "1", "a": fits}, {"prompt": "2", "a": fits + "x"}])
    (row,) = table(made(model, tmp_path / "r", prompts=path, num_samples=1)).to_pylist()
    assert (row["prompt"], json.loads(row["fields"])) == ("1", {"a": fits})
    (bad,) = [r for f in tmp_path.glob("r/prompts/*/quarantine-*.parquet") for r in pq.read_table(f).to_pylist()]
    assert "prompts.carried=none" in bad["reason"]


def test_a_row_ends_where_its_template_ends(model, tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"template": ["12", 2, "3"], "id": "t"}, {"prompt": "12", "id": "p"}, {"template": ["12"]}])
    root = tmp_path / "r"
    folder = made(model, root, prompts=path, num_samples=4)
    loaded = load(model)
    pad = loaded.tokenizer.pad_id
    by_id: dict[str, list] = {}
    for row in table(folder).to_pylist():
        by_id.setdefault(row["prompt_id"], []).append(row)
    for row in by_id["t"]:
        written = loaded.tokenizer.decode([t for t in row["tokens"][2:5] if t != loaded.tokenizer.end_id])
        assert (row["prompt"], row["text"]) == ("12", written)
        assert written.endswith("3"), "what a template fixes is in the text"
        assert row["tokens"][5:] == [pad] * 4
        assert row["given"] == [4, 5, 6, 7, 8]
        assert replay(row["row_id"], folder, root, model, "cpu").equal
    ended = [row for row in by_id["t"] if loaded.tokenizer.end_id in row["tokens"][2:4]]
    assert ended, "an end token in a gap leaves the text behind it in place"
    assert any(set(row["tokens"][5:]) != {pad} for row in by_id["p"]), "a prompt is continued to the end of the row"
    (bad,) = [r for f in root.glob("prompts/*/quarantine-*.parquet") for r in pq.read_table(f).to_pylist()]
    assert "leaves nothing to write" in bad["reason"]
    texts = sample(loaded, "proseco", 4, template=("12", 2, "3"), steps=3)
    in_table = [(tuple(row["tokens"]), row["text"]) for row in by_id["t"]]
    assert [(t.sample.tokens, t.text) for t in texts] == in_table, "in Python they are the same rows"


def test_nothing_usable_stops_with_the_first_reason(model, tmp_path):
    with pytest.raises(DataError, match="holds nothing that can be used; 1 records were quarantined.*p.jsonl:1"):
        made(model, tmp_path / "r", prompts=write_jsonl(tmp_path / "p.jsonl", [{"prompt": "9"}]))


def test_two_thousand_prompts_of_which_many_are_equal_give_as_many_rows_in_any_order(model, tmp_path):
    texts = ["".join(np.random.default_rng(i % 700).choice(list("123"), 7)) for i in range(2000)]
    shuffled = random.Random(0).sample(texts, len(texts))
    tables = []
    for name, given in (("a", texts), ("b", shuffled)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": t} for t in given])
        tables.append(rows(made(model, tmp_path / "r", "generate.corrections=none", prompts=path, num_samples=1, sampler="mdlm")))
    assert len(tables[0]) == 2000
    assert tables[0] == tables[1]
    assert len({r[2] for r in tables[0].values()}) > 1000, "equal prompts have samples of their own"


def test_rows_of_equal_prompts_stay_with_their_owners_ids_in_any_order(model, tmp_path):
    records = [{"prompt": "123"[: 1 + i % 3], "id": f"p{i}"} for i in range(60)]
    tables = []
    for name, given in (("a", records), ("b", random.Random(1).sample(records, len(records)))):
        tables.append(rows(made(model, tmp_path / "r", prompts=write_jsonl(tmp_path / f"{name}.jsonl", given))))
    assert tables[0] == tables[1]
    assert len({r[0] for r in tables[0].values()}) == 60
    assert len(tables[0]) == 120


def test_equal_prompts_in_python_have_samples_of_their_own(model):
    given = load(model)
    found = sample(given, "mdlm", num_samples=2, prompts=["1", "2", "1", "1"], steps=3, seed=5)
    ids = [r.sample.id for r in found]
    assert len(set(ids)) == 8
    assert [r.sample.id for r in sample(given, "mdlm", num_samples=6, prompts=["1"], steps=3, seed=5)] == ids[:2] + ids[4:]
    with pytest.raises(DataError, match="symbols that the vocabulary has not"):
        sample(given, "mdlm", prompts=["1[MASK]"], steps=3)


def test_neither_the_size_of_shards_nor_who_makes_them_changes_a_row(model, tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": p} for p in ("1", "12", "3")])
    expected = rows(made(model, tmp_path / "r", prompts=path, num_samples=5))
    assert len(expected) == 15
    for number, changes in enumerate((["generate.shard_rows=1"], ["generate.shard_rows=4"], ["runtime.jobs=0", "runtime.replicas=2"])):
        assert rows(made(model, tmp_path / f"r{number}", *changes, prompts=path, num_samples=5)) == expected


def test_a_finished_job_changes_nothing_when_it_is_run_again(model, tmp_path):
    folder = made(model, tmp_path / "r", num_samples=6)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
    assert made(model, tmp_path / "r", num_samples=6) == folder
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()} == before


def test_two_drivers_at_once_make_one_table(model, tmp_path):
    expected = rows(made(model, tmp_path / "alone", "generate.shard_rows=4", num_samples=24))
    folders: list[Path] = []
    both = [
        threading.Thread(target=lambda: folders.append(made(model, tmp_path / "r", "generate.shard_rows=4", num_samples=24)))
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert folders[0] == folders[1]
    assert rows(folders[0]) == expected
    assert len(list((folders[0] / "shards").glob("*.parquet"))) == 6


def test_a_shard_names_its_prompts_and_does_not_carry_them(model, tmp_path):
    parts = tuple((f"prompts-00000-{i:05d}", 8192) for i in range(3))
    shard = SampleShard(
        "s", tmp_path, model, Sampling(preset("mdlm")), 5000, 9000, 9, FilePrompts(tmp_path, parts, 1, True)
    )
    assert len(pickle.dumps(shard)) < 4000


def test_a_row_that_cannot_be_made_is_quarantined_and_its_neighbours_are_kept(model, tmp_path):
    sampling = Sampling(preset("mdlm", steps=3))
    from components.models.weights import HOME
    from components.shards.model import loaded

    alone = running(engine_around(loaded(model, HOME), sampling))

    def failing(sampler, given):
        return alone(sampler, given) | {given[1].id: SamplingError("it never ends")}

    shard = SampleShard("s", tmp_path, model, sampling, 0, 4, 9)
    receipt = shard.work(failing)
    assert (receipt["rows"], receipt["account"]["quarantined"]) == (3, 1)
    kept = pq.read_table(tmp_path / "shards" / "s.parquet").to_pylist()
    assert [r["sample_index"] for r in kept] == [0, 2, 3]
    (lost,) = pq.read_table(tmp_path / "quarantine" / "s.parquet").to_pylist()
    assert (lost["sample_index"], lost["reason"]) == (1, "it never ends")
    assert lost["row_id"] not in {r["row_id"] for r in kept}
    with pytest.raises(SamplingError, match="it never ends"):
        shard.work(lambda sampler, given: {row.id: SamplingError("it never ends") for row in given})


def test_the_table_opens_as_it_is_everywhere(model, tmp_path):
    import datasets
    import duckdb
    import pandas
    import polars

    folder = made(model, tmp_path / "r", "generate.shard_rows=4", num_samples=10)
    files = f"{folder}/shards/*.parquet"
    for place in (folder, folder / "shards"):
        opened = datasets.load_dataset(str(place), split="train", cache_dir=str(tmp_path / "cache"))
        assert (len(opened), set(opened.column_names)) == (10, set(SAMPLES.names))
    assert duckdb.sql(f"select count(distinct row_id), sum(calls) from '{files}'").fetchall()[0][0] == 10
    assert polars.read_parquet(files)["row_id"].n_unique() == 10
    assert pandas.read_parquet(folder / "shards")["row_id"].nunique() == 10
    schema = pq.read_schema(folder / "shards" / "seed-0-00000.parquet")
    assert schema.metadata[b"proseco.schema"] == str(SCHEMA_VERSION).encode()
    assert schema.equals(SAMPLES)


def test_every_column_is_explained_in_the_documentation():
    said = (Path(__file__).parents[2] / "docs" / "table.md").read_text()
    explained = re.findall(r"^\| `(\w+)` \|", said, re.M)
    assert explained == SAMPLES.names
    assert f"version {SCHEMA_VERSION}" in said


def test_scores_that_are_made_along_are_those_of_the_scoring_stage(model, tmp_path):
    folder = made(model, tmp_path / "r", num_samples=6, scorers="nelbo,entropy")
    along = table(folder)
    means = score(folder, model, "nelbo,entropy", tuple(WHERE), str(tmp_path / "r"))
    (scores,) = (tmp_path / "r" / "score").glob("*")
    apart = table(scores)
    for column in (*KEYS, "nelbo", "nelbo_se", "entropy"):
        assert along[column].to_pylist() == apart[column].to_pylist(), column
    assert means["nelbo"] == pytest.approx(np.mean(along["nelbo"].to_pylist()))


def test_rows_that_a_scorer_has_no_number_for_are_told(model, tmp_path, monkeypatch, capsys):
    """The mean is of the others, and says so; a standard error that one draw has not is nothing to tell."""
    folder = made(model, tmp_path / "r", num_samples=6)
    build = nelbo.build

    def broken(config, setting):
        def without_third(rows):
            columns = build(config, setting)(rows)
            return columns | {"nelbo": [math.nan if i == 2 else x for i, x in enumerate(columns["nelbo"])]}

        return without_third

    monkeypatch.setattr(nelbo, "build", broken)
    means = score(folder, model, "nelbo", (*WHERE, "nelbo.draws=1"), str(tmp_path / "r"))
    said = " ".join("".join(capsys.readouterr()).split())
    assert "1 of 6 rows have no number as nelbo" in said
    assert "nelbo_se" not in said
    (stage,) = (tmp_path / "r" / "score").glob("*")
    known = [x for x in table(stage)["nelbo"].to_pylist() if not math.isnan(x)]
    assert len(known) == 5
    assert means["nelbo"] == pytest.approx(np.mean(known))


def test_texts_of_a_file_are_scored_as_in_python(model, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": t, "id": t} for t in ("123", "3123", "9", "1231231231")])
    score(path, model, "nelbo,entropy", tuple(WHERE), str(tmp_path / "r"))
    (stage,) = (tmp_path / "r" / "score").glob("*")
    found = {r["prompt_id"]: r for r in table(stage).to_pylist()}
    assert set(found) == {"123", "3123"}
    expected = score_rows(load(model), ["123", "3123"], ["entropy"])["entropy"]
    assert [found[t]["entropy"] for t in ("123", "3123")] == expected
    (read,) = (tmp_path / "r" / "prompts").glob("*")
    assert read_manifest(read).info["quarantined"] == 2
    with pytest.raises(ConfigError, match="Which model should score the texts"):
        score(path, None, "entropy", tuple(WHERE), str(tmp_path / "r"))


def test_any_row_is_made_again_and_a_changed_one_is_noticed(tmp_path):
    exported(tmp_path / "model", MODELS["conditioned"])
    path = write_jsonl(
        tmp_path / "p.jsonl",
        [{"prompt": "12", "label": 1}, {"prompt": "12", "label": 1}, {"template": [2, "3", 1, "1"]}, {"prompt": ""}],
    )
    folder = made(tmp_path / "model", tmp_path / "r", "schedule=fixed_count", "unmask=margin", "generate.lanes=5", prompts=path, seed=3)
    stored = table(folder).to_pylist()
    for row in stored:
        again = replay(row["row_id"], None, tmp_path / "r", tmp_path / "model", "cpu")
        assert again.equal
        assert [*again.frames[-1].tokens] == row["tokens"]
        assert again.frames[0].tokens.count(again.tokenizer.mask_id) == 9 - row["num_prompt"] - len(row["given"] or ())
    (file,) = (folder / "shards").glob("*.parquet")
    changed = pq.read_table(file)
    tokens = changed["tokens"].to_pylist()
    tokens[0][-1] = 4 if tokens[0][-1] != 4 else 5
    place = changed.schema.get_field_index("tokens")
    pq.write_table(changed.set_column(place, changed.schema.field(place), pa.array(tokens, pa.list_(pa.int32()))), file)
    assert not replay(stored[0]["row_id"], folder, tmp_path / "r", tmp_path / "model", "cpu").equal
    assert replay(stored[1]["row_id"], folder, tmp_path / "r", tmp_path / "model", "cpu").equal
    with pytest.raises(DataError, match="No finished table in .* has the row '0-0'"):
        replay("0-0", None, tmp_path / "r", None, "cpu")


def test_useful_tokens_end_with_the_text():
    end, pad = 2, 1
    tokens = np.array([[5, 5, 5, 5], [5, 5, 2, 5], [5, 1, 5, 1], [2, 5, 5, 5]])
    fixed = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
    number, stopped = useful(tokens, fixed, end, pad)
    assert number.tolist() == [3, 2, 2, 3], "an end token of the prompt ends nothing"
    assert stopped.tolist() == [False, True, True, False]


def test_accounts_add_up():
    one = Account(rows=2, calls=10, edits=3, useful_tokens=5, forwards=20, corrections_by_position=(1, 2))
    both = one + Account.read({"rows": 1, "calls": 2, "older": 9, "corrections_by_position": [1, 0, 4]})
    assert (both.rows, both.calls, both.corrections_by_position) == (3, 12, (2, 2, 4))
    rates = one.rates()
    assert (rates["calls"], rates["calls_per_useful_token"], rates["padding_waste"]) == (5.0, 2.0, 0.5)
    assert Account.read(json.loads(json.dumps(both.plain()))) == both


def test_the_account_of_a_job_is_that_of_its_table(model, tmp_path):
    folder = made(model, tmp_path / "r", "generate.shard_rows=5", num_samples=12)
    info, found = read_manifest(folder).info, table(folder)
    assert info["samples"] == 12
    assert info["calls"] == pytest.approx(np.mean(found["calls"].to_pylist()))
    assert info["edits"] == pytest.approx(np.mean(found["edits"].to_pylist()))
    assert info["corrected"] == sum(e > 0 for e in found["edits"].to_pylist())
    written = [[t for t in (*r["tokens"], 2)[: [*r["tokens"], 2].index(2)] if t != 1] for r in found.to_pylist()]
    assert info["useful_tokens"] == sum(map(len, written)), "the end is token 2, the padding 1"
    said = job.describe(folder)
    assert (said["state"], said["samples"], said["shards_done"]) == ("made", 12, 3)


def test_corrections_say_what_was_there_before_and_where_they_fell(model, tmp_path):
    folder = made(model, tmp_path / "r", "corrector.passes=3", num_samples=20)
    found, info = table(folder).to_pylist(), read_manifest(folder).info
    assert info["edits"] > 0
    places = [c["position"] for row in found for c in row["corrections"]]
    assert info["corrections_by_position"] == np.bincount(places, minlength=9).tolist()
    for row in found:
        again = replay(row["row_id"], folder, tmp_path / "r", model, "cpu").sample
        changes = [e for e in again.trace if e.reason != "reveal"]
        assert [(e.call, e.position, e.old, e.new) for e in changes] == [
            (c["call"], c["position"], c["old"], c["new"]) for c in row["corrections"]
        ]
        assert len(row["corrections"]) == row["edits"]
    without = table(made(model, tmp_path / "r", "corrector.passes=3", "generate.corrections=none", num_samples=20))
    assert without["corrections"].null_count == 20
    assert without["tokens"].to_pylist() == [row["tokens"] for row in found]


def test_lanes_that_no_row_was_in_are_told_as_waste(model, tmp_path):
    folder = made(model, tmp_path / "r", "generate.lanes=8", "generate.shard_rows=6", num_samples=6, sampler="mdlm")
    info = read_manifest(folder).info
    assert info["padding_waste"] == pytest.approx(1 - info["calls"] * 6 / info["forwards"])
    assert info["padding_waste"] >= 0.25 - 1e-9, "two of eight lanes are never taken"


def test_a_cache_says_whether_it_is_exact_and_then_changes_no_row(model, tmp_path):
    shape = ModelConfig(dim=16, depth=2, heads=2, num_positions=9, attention_block=4)
    exported(tmp_path / "m", shape)
    asked = {"sampler": "llada_block", "num_samples": 6}

    def both(model):
        folders = [made(model, tmp_path / "r", "blocks.length=4", f"blocks.cache={cache}", "steps=9", **asked) for cache in ("true", "false")]
        with_one, without = (read_manifest(folder).info for folder in folders)
        assert without["cache_exact"] is None
        assert with_one["call_positions"] < without["call_positions"]
        said = "\n".join(job.in_words(job.describe(folders[0])))
        assert f"{with_one['call_positions'] / 6:.2f} rows computed a row" in said
        assert "rows computed" not in "\n".join(job.in_words(job.describe(folders[1])))
        tokens = [table(folder)["tokens"].to_pylist() for folder in folders]
        return with_one["cache_exact"], "that is not exact" in said, tokens[0] == tokens[1]

    assert both(tmp_path / "m") == (True, False, True)
    assert both(model)[:2] == (False, True)


def test_a_job_that_was_killed_is_told_as_silent(model, tmp_path, monkeypatch):
    folder = made(model, tmp_path / "r", num_samples=4)
    (folder / "manifest.json").unlink()
    monkeypatch.setattr(job, "SILENT_S", 1e9)
    assert job.describe(folder)["state"] == "running"
    monkeypatch.setattr(job, "SILENT_S", 0.0)
    found = job.describe(folder)
    assert found["state"] == "silent"
    assert "the same command goes on" in "\n".join(job.in_words(found))

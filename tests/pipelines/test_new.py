"""``proseco new``: what it finds in data, and runs that plan without a problem."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from omegaconf import OmegaConf

from pipelines.cli import main
from pipelines.config.load import load_run
from pipelines.new.look import look
from pipelines.new.propose import Line, Words, found, samplers
from pipelines.new.write import text_of

RNG = random.Random(0)
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "no", "dog"]
LONG = [" ".join(RNG.choice(WORDS) for _ in range(400)) for _ in range(30)]


def sentence() -> str:
    return " ".join(RNG.choice(WORDS) for _ in range(6))


def said(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["new", *map(str, arguments), "--minutes", "0.1", "--size", "nano"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def made(folder: Path, *arguments: object) -> dict:
    """The file that is written for data, as plain values; it has no problem."""
    path = folder / "mine.yaml"
    said(path, *arguments)
    load_run(path, [])
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def molecules(folder: Path, rows: int = 300) -> Path:
    path = folder / "molecules.csv.gz"
    chains = ["C" * RNG.randint(1, 6) + RNG.choice("NOF") for _ in range(rows)]
    text = "smiles,QED,name\n" + "".join(f"{c},{len(c) / 10},m{i}\n" for i, c in enumerate(chains))
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_molecules_with_a_property(tmp_path):
    run = made(tmp_path, molecules(tmp_path), "--value-field", "QED")
    source = run["corpora"]["mine"]["source"]
    assert (source["name"], source["text_field"], source["value_field"]) == ("csv", "smiles", "QED")
    assert run["tokenizer"] == {"kind": "smiles"}
    assert run["rows"]["length"] == 8  # seven atoms and an end
    assert run["model"]["value_range"] == [0.2, 0.7]
    assert len(run["generate"]["labels"]) == 3
    assert run["train"]["base"]["label_dropout"] == run["train"]["proseco"]["label_dropout"] == 0.1
    assert run["samplers"]["corrected"]["sampler"]["guidance"]["without"] == "label"
    assert run["scorers"]["molecule"] == {"measured": "qed"}


def test_prompts_and_responses(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"id": i, "question": f"{i} plus one?", "answer": sentence(), "class": i % 3} for i in range(200)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = made(tmp_path, path, "--label-field", "class")
    assert run["corpora"]["mine"]["source"] | {"path": ""} == {
        "name": "jsonl", "path": "", "text_field": "answer", "prompt_field": "question", "label_field": "class",
    }  # fmt: skip
    assert run["generate"]["prompts"] == "validation"
    asked, replicas = run["generate"], run["runtime"]["replicas"]
    assert asked["shard_rows"] * replicas == asked["num_samples"], "each replica has a share"
    assert asked["lanes"] == asked["shard_rows"], "and no forward is mostly empty"
    assert run["model"]["num_classes"] == 3
    assert run["rows"]["too_long"] == "cut"


def test_text_of_every_kind(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(sentence() for _ in range(300)))
    run = made(tmp_path, tmp_path / "lines.txt")
    assert run["corpora"]["mine"]["source"]["document"] == "line"
    assert run["tokenizer"] == {"kind": "characters"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "book.txt").write_text("\n\n".join(f"{sentence()}\n{sentence()}" for _ in range(300)))
    run = made(tmp_path / "a", tmp_path / "a" / "book.txt")
    assert run["corpora"]["mine"]["source"]["document"] == "paragraph"
    (tmp_path / "many").mkdir()
    for number in range(60):
        (tmp_path / "many" / f"{number}.md").write_text(LONG[number % 30] + str(number))
    run = made(tmp_path / "many", tmp_path / "many")
    assert run["corpora"]["mine"]["source"]["document"] == "file"
    assert run["rows"] == {"length": 128, "layout": "packed"}, "documents of 400 words have no rows of their own"
    assert run["tokenizer"]["kind"] == "bpe"
    pq.write_table(pa.table({"body": LONG, "n": list(range(30))}), tmp_path / "many" / "t.parquet")
    (tmp_path / "table").mkdir()
    run = made(tmp_path / "table", tmp_path / "many" / "t.parquet")
    assert run["corpora"]["mine"]["source"]["text_field"] == "body"


def test_corpora_that_are_made_here(tmp_path):
    run = made(tmp_path, "sudoku")
    assert run["model"]["num_positions"] == run["rows"]["length"] == 32
    assert run["metric"] == "validity"


def test_lengths_are_of_the_whole_file_and_not_of_its_beginning(tmp_path):
    """Files are often sorted."""
    path = tmp_path / "sorted.txt"
    path.write_text("\n".join("a" * (1 + n // 500) for n in range(10_000)))
    looked = look(str(path), {})
    assert max(len(d.text) for d in looked.documents) == 20
    assert looked.total == 10_000
    assert 2000 <= len(looked.documents) < 4000
    assert found(looked) == "10,000 documents."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.txt"], "no such file"),
        (["sudoko"], "did you mean sudoku?"),
        (["m.csv.gz", "--value-field", "quality"], "There is no field 'quality' for value_field; there are smiles (text of"),
        (["empty.jsonl"], "No record can be read"),
        (["broken.jsonl"], "No record can be read. The first: not an object"),
        (["plain.txt", "--text-field", "x"], "is plain text, which has no fields"),
    ],
)
def test_what_can_not_be_used_is_told(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    molecules(tmp_path).rename("m.csv.gz")
    Path("empty.jsonl").write_text("")
    Path("broken.jsonl").write_text("1\n")
    Path("plain.txt").write_text("a\nb\n")
    assert sentence in said("mine.yaml", *arguments, code=1)
    assert not Path("mine.yaml").exists()


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: precious\n")
    assert "is there already" in said(path, "sudoku", code=1)
    assert path.read_text() == "name: precious\n"


@pytest.mark.parametrize("name", ["${a}", "\\${", "a\\\\${b}", "1e9", "yes", "null", "", "a: b", "#x", "*a", "\u2028a", "\x85", "é"])
def test_names_of_fields_are_read_as_what_they_are(name):
    told = text_of([Line("corpora", [Line("mine", {"text_field": name}, f"Fields: {name}")])], "Made here.")
    read = OmegaConf.to_container(OmegaConf.load(io.StringIO(told)), resolve=True)
    assert read == {"corpora": {"mine": {"text_field": name}}}


@pytest.mark.parametrize(("length", "calls"), [(4, 4), (24, 12), (128, 64), (256, 64)])
def test_first_samples_take_half_as_many_calls_as_a_row_has_positions_and_at_most_64(length, calls, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(sentence() for _ in range(50)))
    looked = look(str(tmp_path / "a.txt"), {})
    plain, corrected = samplers(looked, Words("bpe", 300, length, False, True, length, length)).value
    assert [plain.value["steps"], corrected.value["steps"]] == [[calls], [calls // 2]]

"""From somebody's data to a first sample in two commands: each kind of data at the smallest size."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.store.samples import read_shard
from pipelines.cli import main

RNG = random.Random(0)
HERE = ["executor=local", "engine=torch", "workers=1", "replicas=1", "jobs=1", "tracking_uri=none"]


def sentence() -> str:
    return " ".join(RNG.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(3))


def text(folder: Path) -> list[object]:
    (folder / "lines.txt").write_text("\n".join(sentence() for _ in range(400)))
    return [folder / "lines.txt"]


def pairs(folder: Path) -> list[object]:
    lines = [{"id": i, "question": str(i % 50), "answer": str(i % 50 + 1)} for i in range(400)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [folder / "pairs.jsonl"]


def molecules(folder: Path) -> list[object]:
    chains = ["C" * RNG.randint(1, 6) + RNG.choice("NOF") for _ in range(400)]
    (folder / "m.csv").write_text("smiles,qed\n" + "".join(f"{c},{len(c) / 10}\n" for c in chains))
    return [folder / "m.csv", "--value-field", "qed"]


def parquet(folder: Path) -> list[object]:
    pq.write_table(pa.table({"body": [sentence() for _ in range(400)], "year": list(range(400))}), folder / "t.parquet")
    return [folder / "t.parquet"]


def files(folder: Path) -> list[object]:
    (folder / "many").mkdir()
    for number in range(60):
        (folder / "many" / f"{number}.md").write_text(f"{number} " + " ".join(sentence() for _ in range(20)))
    return [folder / "many"]


@pytest.mark.parametrize("data", [text, pairs, molecules, parquet, files])
def test_a_first_sample_in_one_try(data, tmp_path):
    def proseco(*arguments: object) -> str:
        result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run = tmp_path / "mine.yaml"
    proseco("new", run, *data(tmp_path), "--minutes", "0.1", "--size", "nano")
    smaller = ["generate.num_samples=8", "train.base.steps=40", "train.proseco.steps=20"]
    options = [*(f"runtime.{o}" for o in HERE), f"runtime.root={tmp_path / 'root'}"]
    proseco("run", run, "--quiet", *smaller, *options)
    shown = json.loads(proseco("show", run, "--json", *smaller, *options))
    assert {s["state"] for s in shown["stages"]} == {"fresh"}
    for stage in (s for s in shown["stages"] if s["stage"].startswith("generate/")):
        table = read_shard(next(Path(stage["folder"]).glob("shards/*.parquet")), ["text", "calls"])
        assert table.num_rows == 8
        assert not any("[MASK]" in text for text in table["text"].to_pylist())
    calls = [r["calls"] for r in shown["results"]]
    assert max(calls) <= 1.25 * min(calls), "ticks of random order without a reveal cost nothing, all else is equal"
    assert (tmp_path / "root/latest/mine/report.html").exists()

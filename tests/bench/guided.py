"""Does guidance by a value move the property? Means over valid samples by the value that was asked for, with intervals.

    proseco run tests/bench/guided.yaml
    python -m tests.bench.guided tests/bench/guided.yaml qed [KEY=VALUE ...]

Of any run that has been made, whose samples were asked for by ``generate.labels`` and scored by ``molecule`` with the property measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from components.evaluation.frontier import interval
from components.store.samples import read_shard
from pipelines.cli import main


def table(folder: Path, columns: list[str]) -> dict[str, np.ndarray]:
    """Columns of all shards of a stage, in their order."""
    shards = [read_shard(path, columns) for path in sorted((folder / "shards").glob("*.parquet"))]
    return {name: np.concatenate([np.asarray(shard[name].to_pylist(), dtype=object) for shard in shards]) for name in columns}


def report(run: str, measured: str, overrides: list[str]) -> None:
    result = CliRunner().invoke(main, ["show", run, "--json", *overrides], catch_exceptions=False)
    places = {s["stage"]: Path(s["folder"]) for s in json.loads(result.output)["stages"]}
    print(f"| sampler | asked for | samples | valid | {measured} of the valid | 95% interval | different |")
    print("|---|---|---|---|---|---|---|")
    for stage, folder in places.items():
        if not stage.startswith("generate/"):
            continue
        samples = table(folder, ["row_id", "label", "text"])
        scores = table(places[stage.replace("generate/", "score/")], ["row_id", "molecule", measured])
        assert (samples["row_id"] == scores["row_id"]).all()
        for label in sorted(set(samples["label"])):
            here = samples["label"] == label
            valid = scores["molecule"][here].astype(float)
            values = scores[measured][here].astype(float)[valid == 1]
            low, high = interval(values)
            different = len(set(samples["text"][here])) / here.sum()
            print(f"| {stage[9:]} | {label:g} | {here.sum()} | {valid.mean():.3f} | {values.mean():.4f} | {low:.4f} to {high:.4f} | {different:.2f} |")


if __name__ == "__main__":
    report(sys.argv[1], sys.argv[2], sys.argv[3:])

"""Ours against the plain published way, side by side in one process.

    proseco bench [NAME ...] [--vocab V] [--length L] [--rows B] [--steps T] [--device cpu] [--json OUT] [--compare OLD.json] [--plot OUT.svg]

Each is gated: both sides have to come to the same, or to draws of one law. Ratios on a CPU are of CPU seconds, which
others on the machine disturb less, but where a side works in processes of its own; on a GPU of wall time. Ends with 1
where something became worse than in OLD.json.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from components.errors import ProsecoError
from components.models.cpu import use_threads
from components.models.weights import read_info, row_length
from tests.bench import blocks, data, paired, picture, plans, resume, sampling, search, serving, threshold, training

BENCHES: dict[str, paired.Build] = {
    **dict.fromkeys(sampling.PASSES, sampling.build),
    "sample_block": blocks.build,
    "threshold": threshold.build,
    "search": search.build,
    **dict.fromkeys(training.NAMES, training.build),
    "tokenize": data.tokenize,
    "read_rows": data.read_rows,
    "plan": plans.plan,
    "serve_overhead": serving.overhead,
    "resume": resume.build,
    "checkpoint_stall": resume.build,
    "start": resume.start,
}
"""By name."""
DEFAULTS: dict[str, Any] = {
    "vocab": 4096, "length": 128, "rows": 8, "steps": 128, "size": "small", "export": "", "corpus": "", "device": "cpu",
    "dtype": "float32", "plain_dtype": "", "deterministic": True, "compile": False, "million": 13.0, "stage": 3,
}  # fmt: skip


OWN: dict[str, dict[str, Any]] = {"sample_block": blocks.OWN}
"""What a benchmark takes in place of that."""


def main() -> None:
    parser = argparse.ArgumentParser("proseco bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; all where none is named")
    for name, value in DEFAULTS.items():
        kind = (lambda text: text == "true") if isinstance(value, bool) else type(value)
        own = "".join(f", of {bench} {o[name]}" for bench, o in OWN.items() if name in o)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"default: {value}{own}" if value != "" else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="say what became worse since")
    parser.add_argument("--plot", type=Path, metavar="OUT.svg", help="file for a picture")
    asked = parser.parse_args()
    if wrong := [n for n in asked.names if n not in BENCHES]:
        parser.error(f"there is no benchmark {wrong[0]!r}; there are {', '.join(BENCHES)}")
    if asked.compare and not asked.compare.is_file():
        parser.error(f"there is no file {asked.compare} to compare with")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a benchmark started ends with it
    use_threads(asked.threads)
    said, results = {name: value for name, value in vars(asked).items() if name in DEFAULTS and value is not None}, []
    for name in asked.names or BENCHES:
        try:
            own = {"length": row_length(read_info(Path(asked.export)), 0)} if asked.export else {}
            given = DEFAULTS | OWN.get(name, {}) | own | said
            found = paired.measure(BENCHES[name](name, given), asked.rounds, torch.device(given["device"]))
        except ProsecoError as error:
            parser.error(str(error))
        print(paired.line(found), flush=True)
        results.append(found)
    if asked.json:
        paired.write(asked.json, results)
    if asked.plot:
        asked.plot.write_text(picture.drawn(results), encoding="utf-8")
    for sentence in (lost := paired.worse(asked.compare, results) if asked.compare else []):
        print(sentence)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()

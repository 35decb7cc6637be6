"""Ours against the plain published loop, side by side in one process.

    python -m tests.bench [NAME ...] [--vocab V] [--length L] [--rows B] [--steps T] [--device cpu] [--json OUT] [--compare OLD.json]

Each is gated: both sides have to come to the same, or to draws of one law. Ratios on a CPU are of CPU seconds, which
others on the machine disturb less; on a GPU of wall time. Ends with 1 where something became slower than in OLD.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from components.models.cpu import use_threads
from tests.bench import paired, sampling, training

BENCHES = dict.fromkeys(sampling.PASSES, sampling.build) | dict.fromkeys(training.NAMES, training.build)
DEFAULTS: dict[str, Any] = {"vocab": 4096, "length": 128, "rows": 8, "steps": 128, "size": "small", "export": "", "device": "cpu", "deterministic": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; all where none is named")
    for name, value in DEFAULTS.items():
        kind = (lambda text: text == "true") if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name}", type=kind, default=value, help=f"default: {value}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="say what became slower since")
    asked = parser.parse_args()
    if wrong := [n for n in asked.names if n not in BENCHES]:
        parser.error(f"there is no benchmark {wrong[0]!r}; there are {', '.join(BENCHES)}")
    if asked.compare and not asked.compare.is_file():
        parser.error(f"there is no file {asked.compare} to compare with")
    use_threads(asked.threads)
    given, results = {name: getattr(asked, name) for name in DEFAULTS}, []
    for name in asked.names or BENCHES:
        found = paired.measure(BENCHES[name](name, given), asked.rounds, torch.device(asked.device))
        print(paired.line(found), flush=True)
        results.append(found)
    if asked.json:
        paired.write(asked.json, results)
    for sentence in (lost := paired.slower(asked.compare, results) if asked.compare else []):
        print(sentence)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()

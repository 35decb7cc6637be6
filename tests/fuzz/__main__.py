"""The long form of the fuzz: every target with its number of cases, from fixed seeds.

python -m tests.fuzz [TARGET ...] [--share 1.0]

Ends with 1 where a case ended in an error that is no sentence, or hung, where the process took more memory than
`outcome.PEAK_BYTES`, and where a target has fewer results than it asks for.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"})

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.commands import TARGETS as COMMANDS
from tests.fuzz.outcome import PEAK_BYTES, HangError, Seen, peak_bytes
from tests.fuzz.targets import TARGETS as READERS
from tests.fuzz.targets import Target, in_folder

ROUND = 200
LONG = settings(
    max_examples=ROUND, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
TARGETS = READERS | COMMANDS


def fuzz(target: Target, cases: int) -> tuple[Seen, dict[str, tuple[Any, str]]]:
    """A target with so many cases: what was seen, and of each kind of failure one case."""
    seen, failures = Seen(), dict[str, tuple[Any, str]]()

    def one(case: Any) -> None:
        if seen.cases >= cases:
            return
        try:
            seen.judge(lambda: in_folder(target, case))
        except (Exception, HangError, SystemExit) as error:
            seen.counts["failures"] += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            failures.setdefault(f"{type(error).__name__} in {last.filename}:{last.lineno}", (case, traceback.format_exc(limit=-6)))

    number = 0
    while seen.cases < cases:
        seed(number)(LONG(given(case=target.cases)(one)))()
        number += 1
    return seen, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="; ".join(TARGETS))
    parser.add_argument("--share", type=float, default=1.0, help="Of the cases.")
    asked = parser.parse_args()
    started, whole, failed = time.monotonic(), Seen(), 0
    print(f"{'target':18}{'cases':>8}{'results':>9}{'share':>7}{'refused':>9}{'failures':>9}{'slowest':>9}{'seconds':>9}")
    for name in asked.targets or TARGETS:
        begun = time.monotonic()
        seen, failures = fuzz(TARGETS[name], round(TARGETS[name].long * asked.share))
        counts, seconds = seen.counts, time.monotonic() - begun
        share = counts["results"] / max(1, seen.cases)
        numbers = f"{seen.cases:8}{counts['results']:9}{share:7.0%}{counts['refused']:9}{counts['failures']:9}"
        print(f"{name:18}{numbers}{seen.slowest:8.2f}s{seconds:8.0f}s", flush=True)
        for what, (case, told) in failures.items():
            print(f"  {what}\n    case: {case!r:.2000}\n    {told}")
        whole.counts.update(counts)
        whole.slowest = max(whole.slowest, seen.slowest)
        failed += len(failures)
        if share < TARGETS[name].results:
            failed += 1
            print(f"  fewer than {TARGETS[name].results:.0%} of the cases ended in a result, so refusals are pressed on and little else")
    peak = peak_bytes()
    print(f"{whole.cases} cases in {time.monotonic() - started:.0f} s; {failed} kinds of failure; the slowest took {whole.slowest:.2f} s; "
          f"peak memory {peak / 1e9:.2f} GB, {PEAK_BYTES / 1e9:.2f} allowed")  # fmt: skip
    sys.exit(1 if failed or peak > PEAK_BYTES else 0)


if __name__ == "__main__":
    main()

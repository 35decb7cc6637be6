"""Whatever comes from outside: a result or a sentence. The short form; the long one is `make fuzz`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.commands import TARGETS as COMMANDS
from tests.fuzz.outcome import PEAK_BYTES, Seen, peak_bytes
from tests.fuzz.targets import TARGETS as READERS
from tests.fuzz.targets import in_folder

TARGETS = READERS | COMMANDS
CASES = 40
SHORT = settings(
    max_examples=CASES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_result_or_a_sentence(name):
    target, seen = TARGETS[name], Seen()

    @given(case=target.cases)
    @SHORT
    def check(case):
        seen.judge(lambda: in_folder(target, case))

    check()
    assert seen.cases >= CASES // 2
    assert seen.counts["results"] >= target.results * seen.cases / 2  # a few cases are more alike than many
    assert peak_bytes() < PEAK_BYTES

"""Suspended past its lease and taken over, a run publishes nothing (``tests.chaos.sleeper`` tries it twenty times)."""

from __future__ import annotations

import pytest

from tests.chaos import sleeper


@pytest.mark.parametrize("awake_while_the_other_works", [True, False])
def test_who_slept_and_was_taken_over_ends_with_a_sentence(awake_while_the_other_works, tmp_path):
    assert sleeper.attempt(tmp_path / "try", awake_while_the_other_works) == []

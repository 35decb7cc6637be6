"""The report in a window as wide as a telephone, and on a desk."""

from __future__ import annotations

import pytest

from components.evaluation import trajectory
from components.evaluation.best import best_pairs
from components.evaluation.chart import Point, Series, line_chart
from components.evaluation.page import Section, best_table, edits_table, folded, page, results_table
from tests.browser import DESK, PHONE, look, overflowing
from tests.components.test_evaluation import event, row

EDITED = {"edits": 0.3, "edited": 0.2, "quality_edited": 0.5, "quality_unedited": 0.625}


def written() -> str:
    """A page with everything that a report may hold, and long names."""
    plain, best = row("a_sampler_of_a_long_name", "mdlm", 12.0, 0.3), row("b", "proseco", 12.0, 0.6, **EDITED)
    curves = [Series(f"curve_of_a_long_name_{i}", (Point(0, 0), Point(1200, i + 1.5))) for i in range(9)]
    pictures = []
    for length, show in ((25, str), (64, lambda t: "x"), (200, lambda t: "a word "), (200, lambda t: "longword")):
        trace = [event(i, 0, 1, "reveal") for i in range(length)]
        pictures.append(trajectory.draw(trajectory.frames([1] * length, trace), show, 0))
    return page(
        "a_title_" * 12,
        "under it",
        [
            Section("Chart", line_chart(curves, "mean network calls per sample", "bound, nats per token")),
            Section("Tables", results_table([plain, best]) + edits_table([plain, best])),
            Section("Best against best", best_table(best_pairs([plain, best]))),
            Section("Trajectories", "".join(pictures)),
            Section("What was run", folded("configuration", {"a": "x" * 300})),
        ],
    )


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(written())
    return path


def test_nothing_is_wider_than_a_telephone(report, chromium):
    driver = look(chromium, report, PHONE)
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
    assert overflowing(driver) == []


def test_every_table_scrolls_in_its_own_box(report, chromium):
    driver = look(chromium, report, PHONE)
    moved = driver.execute_script(
        "return [...document.querySelectorAll('table')].map(t => {"
        "  const box = t.parentElement; box.scrollLeft = 40; return box.scrollLeft; })"
    )
    assert moved == [40, 40, 40]


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_letters_of_a_chart_are_large_enough_to_read_and_none_is_cut_off(size, report, chromium):
    driver = look(chromium, report, size)
    letters = driver.execute_script(
        "const svg = document.querySelector('svg').getBoundingClientRect();"
        "return [...document.querySelectorAll('svg text')].map(t => {"
        "  const box = t.getBoundingClientRect();"
        "  const inside = box.left >= svg.left - 1 && box.right <= svg.right + 1"
        "    && box.top >= svg.top - 2 && box.bottom <= svg.bottom + 2;"
        "  return [t.textContent, inside]; })"
    )
    assert len(letters) > 10
    assert [text for text, inside in letters if not inside] == []
    small = driver.execute_script(
        "const svg = document.querySelector('svg'), scale = svg.getBoundingClientRect().width / 640;"
        "return [...svg.querySelectorAll('text')].map(t => scale * parseFloat(getComputedStyle(t).fontSize))"
    )
    assert min(small) >= 10

"""The page of a batch job says the numbers of its manifest, and marks what was corrected."""

from __future__ import annotations

import re

from components.evaluation.batch_page import batch_page, example_of
from components.shards.account import Account
from tests.browser import PHONE, look, overflowing

SUMS = Account(
    rows=10, quarantined=2, calls=80, edits=25, corrected=4, useful_tokens=160, forwards=100,
    corrections_by_position=(0, 5, 20),
)  # fmt: skip
INFO = SUMS.plain() | {"samples": 10} | SUMS.rates() | {"retries": 3, "reissued": 0, "seconds": 4.0}
ROW = {
    "row_id": "ab-0",
    "tokens": [1, 2, 3],
    "corrections": [
        {"call": 2, "position": 1, "old": 7, "new": 8, "confidence": 0.25},
        {"call": 4, "position": 1, "old": 8, "new": 2, "confidence": None},
    ],
}


def cells(text: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", text)


def test_numbers_are_those_of_the_manifest():
    found = dict(zip(*[iter(cells(batch_page(INFO, [])))] * 2, strict=True))
    assert (found["samples"], found["could not be made"], found["samples a second"]) == ("10", "2", "2.50")
    assert (found["network calls a sample"], found["calls a useful token"]) == ("8.00", "0.500")
    assert (found["corrections a sample"], found["samples with a correction"]) == ("2.50", "40.0%")
    assert (found["padding waste"], found["shards tried again"]) == ("20.0%", "3")


def test_a_row_is_shown_before_and_after_its_corrections():
    example = example_of(ROW, lambda t: f"<{t}>")
    assert (example.before, example.after) == (("<1>", "<7>", "<3>"), ("<1>", "<2>", "<3>"))
    text = batch_page(INFO, [example])
    assert "<pre>&lt;1&gt;<b class='remasked'>&lt;7&gt;</b>&lt;3&gt;</pre>" in text
    assert "<pre>&lt;1&gt;<b class='replaced'>&lt;2&gt;</b>&lt;3&gt;</pre>" in text
    assert cells(text)[-10:] == ["2", "1", "&lt;7&gt;", "&lt;8&gt;", "0.250", "4", "1", "&lt;8&gt;", "&lt;2&gt;", "-"]


def test_positions_are_drawn_by_the_row_and_their_absence_is_said():
    heights = [
        float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", re.search(r'points="(.*?)"', batch_page(INFO, []))[1])
    ]
    assert heights[0] > heights[1] > heights[2], "the last position is corrected most"
    assert "they were not kept" in batch_page(INFO | {"corrections_by_position": []}, [])


def test_it_fits_a_telephone(tmp_path, chromium):
    path = tmp_path / "batch.html"
    long = ROW | {"tokens": [1] * 200, "corrections": ROW["corrections"] * 30}
    path.write_text(batch_page(INFO, [example_of(ROW, str), example_of(long, lambda t: f"word{t} ")]))
    driver = look(chromium, path, PHONE)
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert overflowing(driver) == []

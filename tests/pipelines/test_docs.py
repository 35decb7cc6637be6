"""The documentation says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.tables import pages

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_pages_are_current(name):
    """Make them again by `proseco list --markdown docs`."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:components|cluster|pipelines|configs|tests|docs)/[\w./-]*\w)`", text))
    named |= {
        str((page.parent / link).resolve().relative_to(ROOT)) for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    }
    for name in named - {n for n in named if "NAME" in n}:
        path = ROOT / name
        # A file, a folder, or, as in Python, a module or what is in one.
        module = path.with_name(path.name.split(".")[0] + ".py")
        assert path.exists() or module.exists(), name


def test_the_readme_names_every_command():
    text = PAGES[0].read_text(encoding="utf-8")
    assert all(f"proseco {name} " in re.sub(r" +", " ", text) for name in main.commands)


def test_the_readme_is_a_front_door():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 130


def test_every_fault_has_a_test_that_there_is():
    rows = [line for line in (ROOT / "docs/faults.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 13
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"

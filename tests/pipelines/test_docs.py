"""The documentation says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.meaning import all_options
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


def test_every_option_has_a_meaning_and_stands_in_the_reference():
    """Of every class that a run, a night, a comparison or a file of prompts reads, plug-ins included."""
    places = all_options()
    assert len(places) > 300
    lacking = [f"{p.path} of {p.holder.__name__}" for p in places if not p.option.text.strip()]
    assert not lacking
    written = "\n".join(pages().values())
    for place in places:
        row = f"| `{place.option.name}` | {place.option.kind} | `{place.option.default}` | {' '.join(place.option.text.split())} |"
        assert row in written.replace("\\|", "|"), place.path


def test_an_option_is_explained_by_its_path_or_the_end_of_it():
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["options", *arguments])
        return result.output if result.exit_code == 0 else f"exit {result.exit_code}: {result.output}"

    assert said("train.base.optimizer.lr") == said("optimizer.lr") == (
        "train.NAME.optimizer.lr\n    number in (0, 1e+38]; default 0.0003\n    Learning rate after the warm-up.\n\n"
    )
    several = said("corpora.mine.source.path")
    assert all(f"    of {name}" in several for name in ("text", "jsonl", "csv", "parquet"))
    assert "arXiv 2602.11590" in said("draft_token")
    assert "\nrows.too_long: quarantine, cut, split, default" in said("rows")
    assert "gate" in said()
    assert "did you mean draft_token?" in said("draft_tokn")
    assert said("draft_tokn").startswith("exit 1")


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

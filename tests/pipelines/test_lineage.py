"""Lineage is read from the results themselves: no tracking server is needed, and what is lost is said."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.lineage import ABROAD, lineage
from tests.chaos import harness


def proseco(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(root, folders of all stages by label) of a small run."""
    folder = tmp_path_factory.mktemp("lineage")
    run = folder / "chaos.yaml"
    run.write_text(harness.RUN)
    options = [*harness.LOCAL, f"runtime.root={folder / 'root'}"]
    assert proseco("run", str(run), *options)[0] == 0
    shown = json.loads(proseco("show", str(run), *options, "--json")[1])
    return folder / "root", {s["stage"]: folder / "root" / s["folder"] for s in shown["stages"]}


def test_a_result_tells_all_that_it_was_made_of_inputs_first(made):
    _, folders = made
    found = lineage(folders["score/proseco@3"])
    labels = [m.label for m in found]
    assert labels[-1] == "score/proseco@3"
    assert set(labels) == {
        "tokenizer", "tokenize/latin", "train/base", "train/proseco", "export/proseco", "generate/proseco@3", "score/proseco@3",
    }  # fmt: skip
    for place, one in enumerate(found):
        assert set(one.inputs.values()) <= {m.key for m in found[:place]}
        assert one.seal
        assert one.files
    trained = next(m for m in found if m.label == "train/base")
    assert trained.config["train"]["steps"] == 6


def test_it_is_printed_for_people_and_programs_and_drawn(made, tmp_path):
    _, folders = made
    export = str(folders["export/proseco"])
    code, said = proseco("lineage", export)
    assert code == 0
    assert said.index("train/base") < said.index("train/proseco") < said.index("export/proseco")
    plain = json.loads(proseco("lineage", export, "--json")[1])
    assert (plain["format"], plain["version"], plain["of"]) == ("proseco-lineage", 1, f"export/{folders['export/proseco'].name}")
    assert proseco("lineage", export, "--html", str(tmp_path / "page.html"))[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<rect") == len(plain["stages"])
    assert page.count("<path") == sum(len(set(s["inputs"].values())) for s in plain["stages"])
    assert "http" not in page.replace("http-equiv", "")


def test_what_is_lost_is_said_and_the_rest_is_told(made, tmp_path):
    root, folders = made
    shutil.copytree(root, tmp_path / "root")
    shutil.rmtree(tmp_path / "root" / "train" / folders["train/base"].name)
    found = lineage(tmp_path / "root" / "export" / folders["export/proseco"].name)
    lost = [m for m in found if m.stage == ABROAD]
    assert [m.key for m in lost] == [folders["train/base"].name]
    assert "train/proseco" in [m.label for m in found]


def test_a_folder_that_is_no_finished_stage_is_refused(made, tmp_path):
    root, _ = made
    for folder in (tmp_path, root / "train", root / "train" / "nobody"):
        code, said = proseco("lineage", str(folder))
        assert code == 1
        assert "no finished stage" in said

"""Molecules by RDKit."""

from __future__ import annotations

import math

import pytest

from components.data.config import TokenizerConfig
from components.data.tokenizer import build_tokenizer
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.config import MoleculeConfig

pytest.importorskip("rdkit", reason="rdkit is not installed: pip install 'proseco[molecules]'")


def scored(texts, prompt="", **options):
    config = MoleculeConfig(**options)
    score = config.load()(config, ScorerSetting(build_tokenizer(TokenizerConfig(), [], "C")))
    return score([ScoredRow(i, prompt, text, (), 0) for i, text in enumerate(texts)])


def test_what_is_no_molecule_has_no_property():
    """An open ring, a carbon of five bonds, a bracket, nothing: no molecules."""
    found = scored(["CCO", "C1CC", "C(C)(C)(C)(C)C", "C(", "", "c1ccccc1"], measured="heavy_atoms")
    assert found["molecule"] == [1, 0, 0, 0, 0, 1]
    assert [n for n in found["heavy_atoms"] if not math.isnan(n)] == [3, 6]


@pytest.mark.parametrize(("name", "expected"), [("rings", 1), ("heavy_atoms", 13), ("weight", 180.159), ("qed", 0.5501), ("logp", 1.3101)])
def test_properties_are_those_of_aspirin(name, expected):
    """As published for RDKit: QED 0.55, Crippen's logP 1.31."""
    found = scored(["CC(=O)Oc1ccccc1C(=O)O"], measured=name)
    assert found[name][0] == pytest.approx(expected, abs=1e-3)
    assert set(found) == {"molecule", name}


def test_the_prompt_is_a_part_of_the_molecule():
    assert scored(["CC1"], prompt="C1C") == {"molecule": [1.0]}

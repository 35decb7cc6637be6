"""Is a row a molecule, and what is a property of it? By RDKit (``pip install 'proseco[molecules]'``).

A row is valid where RDKit reads it as SMILES of one molecule that is chemically possible; a property of others is no number.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting
from components.scorers.config import MoleculeConfig

MODULES = ("QED", "Crippen", "Descriptors", "rdMolDescriptors")


def build(config: MoleculeConfig, setting: ScorerSetting) -> Scorer:
    Chem, log = (importlib.import_module(f"rdkit.{name}") for name in ("Chem", "RDLogger"))
    log.DisableLog("rdApp.*")  # or every row that is no molecule is told of
    measure = properties().get(config.measured)

    def score(rows: list[ScoredRow]) -> Columns:
        read = [Chem.MolFromSmiles(text) if text else None for text in (row.prompt + row.text for row in rows)]
        columns = {config.column: [float(molecule is not None) for molecule in read]}
        if measure is not None:
            columns[config.measured] = [math.nan if m is None else float(measure(m)) for m in read]
        return columns

    return score


def properties() -> Mapping[str, Callable[[Any], float]]:
    """What can be measured, by name."""
    # What these modules hold is written in C++ and known to no type checker.
    scores, lipids, weights, counts = (importlib.import_module(f"rdkit.Chem.{name}") for name in MODULES)
    return {
        "qed": scores.qed,
        "logp": lipids.MolLogP,
        "weight": weights.MolWt,
        "rings": counts.CalcNumRings,
        "heavy_atoms": lambda molecule: molecule.GetNumHeavyAtoms(),
    }

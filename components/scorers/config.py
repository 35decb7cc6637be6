"""Options of the scorers, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components import papers
from components.options import Count, options
from components.plugins import Card

HERE = "components.scorers"


@options
class ScorerOptions(Card):
    """Numbers for every row."""

    larger_is_better: ClassVar[bool] = True
    """Of its main column."""
    reads_model: ClassVar[bool] = False
    """It asks the model that made the samples."""
    reads_rules: ClassVar[bool] = False
    """It asks the corpus whether a text obeys its rules."""
    trains: ClassVar[str] = ""
    """Where the code is that trains what it scores with, from the rows of all corpora: ``"module:function"``, called
    as ``components.scorers.base.Train``. Empty for a scorer that needs nothing trained."""

    requires: ClassVar[str] = ""
    """A package that it needs besides ours, by the name of its module."""

    @property
    def column(self) -> str:
        """Its main column."""
        return self.name


@options
class ValidityConfig(ScorerOptions):
    """Does the row obey the rules of its corpus? 1 or 0."""

    name: ClassVar[str] = "validity"
    code: ClassVar[str] = f"{HERE}.validity:build"
    reads_rules: ClassVar[bool] = True

    @property
    def column(self) -> str:
        return "valid"


@options
class NelboConfig(ScorerOptions):
    """Likelihood bound under the model itself, nats per written token, with standard error."""

    name: ClassVar[str] = "nelbo"
    code: ClassVar[str] = f"{HERE}.nelbo:build"
    paper: ClassVar[str] = papers.MDLM
    larger_is_better: ClassVar[bool] = False
    reads_model: ClassVar[bool] = True

    draws: Count = 4
    """Stratified times, or numbers of masks, per row; two or more give a standard error."""
    estimator: Literal["time", "count"] = "time"
    """Two independent estimators of one bound: over times with weight 1/t, or over numbers n of masks with 1/n."""


@options
class LocalizationConfig(ScorerOptions):
    """Likelihood bound of a network on noisy embeddings, nats per written token."""

    name: ClassVar[str] = "localization"
    code: ClassVar[str] = f"{HERE}.localization:build"
    paper: ClassVar[str] = papers.DSL
    larger_is_better: ClassVar[bool] = False
    reads_model: ClassVar[bool] = True

    draws: Count = 16
    """Stratified signal-to-noise ratios per row; two or more give a standard error."""


@options
class NgramConfig(ScorerOptions):
    """Nats per token under an n-gram model of the training rows: a judge that is trained apart."""

    name: ClassVar[str] = "judge"
    code: ClassVar[str] = f"{HERE}.ngram:build"
    paper: ClassVar[str] = papers.NGRAM
    larger_is_better: ClassVar[bool] = False
    trains: ClassVar[str] = f"{HERE}.ngram:train"

    order: Count = 3
    """n: tokens of a gram."""
    discount: Annotated[float, Field(ge=0, le=1)] = 0.75
    """What every count gives to the lower orders."""

    @property
    def column(self) -> str:
        return "judge_nll"


@options
class MoleculeConfig(ScorerOptions):
    """Is the row, with its prompt, SMILES of a molecule that is possible? 1 or 0; and a property of those that are."""

    name: ClassVar[str] = "molecule"
    code: ClassVar[str] = f"{HERE}.molecule:build"
    requires: ClassVar[str] = "rdkit"

    measured: Literal["none", "qed", "logp", "weight", "rings", "heavy_atoms"] = "none"
    """A property, in a column of its name; no number where there is no molecule."""


@options
class EntropyConfig(ScorerOptions):
    """Unigram entropy of the row's tokens, in nats."""

    name: ClassVar[str] = "entropy"
    code: ClassVar[str] = f"{HERE}.text:build_entropy"


@options
class DistinctConfig(ScorerOptions):
    """Share of distinct n-grams in the row."""

    name: ClassVar[str] = "distinct"
    code: ClassVar[str] = f"{HERE}.text:build_distinct"
    paper: ClassVar[str] = papers.DISTINCT

    n: Count = 2
    """Tokens of a gram."""

    @property
    def column(self) -> str:
        return f"distinct_{self.n}"


def reads_model(scorers: Mapping[str, ScorerOptions]) -> bool:
    """Does any of them ask the model?"""
    return any(options.reads_model for options in scorers.values())

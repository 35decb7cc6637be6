"""Does a row obey the rules of its corpus?"""

from __future__ import annotations

from components.data.corpora import CORPORA
from components.data.documents import RuledCorpus
from components.errors import SamplingError
from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting
from components.scorers.config import ValidityConfig


def build(config: ValidityConfig, setting: ScorerSetting) -> Scorer:
    """Raises SamplingError for a corpus without rules."""
    source = setting.source
    if source is None or not source.has_rules:
        ruled = ", ".join(name for name, card in CORPORA.items() if card.has_rules)
        raise SamplingError(
            f"The corpus {source.name if source else 'that was given, none,'} has no notion of validity. Drop the "
            f"scorer {config.name!r}, or use one of: {ruled}."
        )
    corpus: RuledCorpus = source.load()(source)

    def score(rows: list[ScoredRow]) -> Columns:
        return {config.column: [float(corpus.obeys(row.prompt, row.text)) for row in rows]}

    return score

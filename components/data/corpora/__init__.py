"""Sources of documents. This list names them all."""

from components.data.corpora import config as c
from components.data.documents import Corpus
from components.plugins import Family

CORPORA: Family[c.SourceOptions] = Family(
    "corpus",
    c.SourceOptions,
    c.LatinSquareConfig,
    c.SudokuConfig,
    c.CodingConfig,
    c.AdditionConfig,
    c.PatchesConfig,
    c.StdlibConfig,
    c.TextConfig,
    c.JsonlConfig,
    c.CsvConfig,
    c.ParquetConfig,
    c.HubConfig,
)


def open_corpus(source: c.SourceOptions) -> Corpus:
    """The corpus of these options."""
    corpus: Corpus = source.load()(source)
    return corpus


__all__ = ["CORPORA", "open_corpus"]

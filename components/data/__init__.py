"""From documents to rows of tokens: corpora, tokenizers, packing, order."""

from __future__ import annotations

from components.data.config import (
    AdditionConfig,
    CodingConfig,
    HubConfig,
    JsonlConfig,
    LatinSquareConfig,
    ParquetConfig,
    PatchesConfig,
    StdlibConfig,
    SudokuConfig,
    TextConfig,
)
from components.plugins import Plugin

CORPORA: dict[str, Plugin] = {
    "latin_square": Plugin(LatinSquareConfig, "components.data.puzzles:LatinSquares", "Latin squares, generated"),
    "sudoku": Plugin(SudokuConfig, "components.data.puzzles:Sudokus", "Sudoku of size 4, 6 or 9, generated"),
    "coding": Plugin(
        CodingConfig, "components.data.puzzles:Coding", "groups of permuted copies of a symbol, generated"
    ),
    "addition": Plugin(AdditionConfig, "components.data.puzzles:Addition", "long addition, generated"),
    "patches": Plugin(PatchesConfig, "components.data.images:Patches", "images of blobs as visual tokens, generated"),
    "stdlib": Plugin(
        StdlibConfig, "components.data.files:Stdlib", "source and documentation of the Python standard library"
    ),
    "text": Plugin(TextConfig, "components.data.files:TextFiles", "text files or a folder of them"),
    "jsonl": Plugin(JsonlConfig, "components.data.files:JsonLines", "JSON lines"),
    "parquet": Plugin(ParquetConfig, "components.data.files:ParquetFiles", "Parquet files"),
    "hub": Plugin(HubConfig, "components.data.files:HubDataset", "a dataset of the Hugging Face hub, streamed"),
}

__all__ = ["CORPORA"]

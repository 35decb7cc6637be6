"""Does a row obey the rules of its corpus?"""

from __future__ import annotations

from collections.abc import Callable

from components.data.config import AdditionConfig, CodingConfig, LatinSquareConfig, SudokuConfig
from components.data.puzzles import BOXES, SYMBOLS, coding_permutations
from components.errors import SamplingError
from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting
from components.scorers.config import ValidityConfig


def build(config: ValidityConfig, setting: ScorerSetting) -> Scorer:
    """Raises SamplingError for a corpus without rules."""
    rule = RULES.get(type(setting.source))
    if rule is None:
        raise SamplingError(
            f"The corpus {type(setting.source).__name__} has no notion of validity. Drop the scorer 'validity', "
            f"or use one of: {', '.join(sorted(t.__name__ for t in RULES))}."
        )

    def score(rows: list[ScoredRow]) -> Columns:
        return {"valid": [float(rule(setting.source, row.prompt, row.text)) for row in rows]}

    return score


def latin_square(source: LatinSquareConfig, prompt: str, text: str) -> bool:
    """Each row and column holds every symbol once."""
    n = source.size
    return len(text) == n * n and all(set(line) == set(SYMBOLS[:n]) for line in lines(text, n))


def lines(text: str, n: int) -> list[str]:
    return [text[i * n : i * n + n] for i in range(n)] + [text[i::n] for i in range(n)]


def sudoku(source: SudokuConfig, prompt: str, text: str) -> bool:
    """Rows, columns and boxes hold every symbol once, and the givens are kept."""
    n = source.size
    if len(text) != n * n or any(given not in ("0", cell) for given, cell in zip(prompt, text, strict=False)):
        return False
    box_rows, box_columns = BOXES[n]
    boxes = [
        "".join(text[(r + i) * n + c + j] for i in range(box_rows) for j in range(box_columns))
        for r in range(0, n, box_rows)
        for c in range(0, n, box_columns)
    ]
    return all(set(line) == set(SYMBOLS[:n]) for line in lines(text, n) + boxes)


def coding(source: CodingConfig, prompt: str, text: str) -> bool:
    """The copies of every group agree on one symbol."""
    table = coding_permutations(source.symbols, source.copies)
    words = {"".join(SYMBOLS[table[c][s]] for c in range(source.copies)) for s in range(source.symbols)}
    width = source.copies
    return len(text) == source.groups * width and all(text[i : i + width] in words for i in range(0, len(text), width))


def addition(source: AdditionConfig, prompt: str, text: str) -> bool:
    """The text is the sum that the prompt asks for."""
    left, _, right = prompt.removesuffix("=").partition("+")
    return left.isdigit() and right.isdigit() and text == str(int(left) + int(right))


RULES: dict[type, Callable[..., bool]] = {
    LatinSquareConfig: latin_square,
    SudokuConfig: sudoku,
    CodingConfig: coding,
    AdditionConfig: addition,
}

"""Generated corpora with a known notion of validity. Deterministic by seed.

The coding toy: a string is groups of copies; copy c of symbol s is ``permutation[c][s]``. Copies that
are revealed in one step by independent draws disagree, which is the pure parallel-decoding error.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator

from components.data.corpora.config import AdditionConfig, CodingConfig, LatinSquareConfig, SudokuConfig
from components.data.documents import Document

SYMBOLS = "123456789"


class Generated(ABC):
    """Pieces of a corpus that numbers its documents: piece i of n holds i, i + n, ..."""

    name = ""
    symbols = ""

    def __init__(self, num_documents: int, seed: int):
        self.num_documents = num_documents
        self.seed = seed

    def pieces(self, count: int) -> list[str]:
        return [f"{i}/{count}" for i in range(min(count, self.num_documents))]

    def read(self, piece: str) -> Iterator[Document]:
        first, step = map(int, piece.split("/"))
        for number in range(first, self.num_documents, step):
            rng = random.Random(f"{self.name}:{self.seed}:{number}")
            yield self.make(f"{self.name}-{number}", rng)

    @abstractmethod
    def make(self, id: str, rng: random.Random) -> Document:
        """One document; ``rng`` is its own."""


class LatinSquares(Generated):
    """Uniform over completions found by randomised backtracking, then shuffled by all symmetries."""

    name = "latin_square"

    def __init__(self, config: LatinSquareConfig):
        super().__init__(config.num_documents, config.seed)
        self.size = config.size
        self.symbols = SYMBOLS[: config.size]

    def make(self, id: str, rng: random.Random) -> Document:
        n = self.size
        grid = [[0] * n for _ in range(n)]
        fill_latin(grid, 0, rng)
        rows, columns, symbols = (rng.sample(range(n), n) for _ in range(3))
        return Document(id, "".join(self.symbols[symbols[grid[r][c]]] for r in rows for c in columns))

    def obeys(self, prompt: str, text: str) -> bool:
        """Each row and column holds every symbol once."""
        n = self.size
        return len(text) == n * n and all(set(line) == set(self.symbols) for line in lines(text, n))


def lines(text: str, n: int) -> list[str]:
    """The rows and the columns of a grid."""
    return [text[i * n : i * n + n] for i in range(n)] + [text[i::n] for i in range(n)]


def fill_latin(grid: list[list[int]], cell: int, rng: random.Random) -> bool:
    """Backtracking in random symbol order; every square can come out."""
    n = len(grid)
    if cell == n * n:
        return True
    r, c = divmod(cell, n)
    used = set(grid[r][:c]) | {grid[i][c] for i in range(r)}
    for symbol in rng.sample(range(n), n):
        if symbol not in used:
            grid[r][c] = symbol
            if fill_latin(grid, cell + 1, rng):
                return True
    grid[r][c] = 0
    return False


BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


class Sudokus(Generated):
    """A pattern grid under all of Sudoku's symmetries; with givens, a random subset of cells is the prompt."""

    name = "sudoku"

    def __init__(self, config: SudokuConfig):
        super().__init__(config.num_documents, config.seed)
        self.size, self.givens = config.size, config.givens
        self.symbols = ("0" if config.givens else "") + SYMBOLS[: config.size]

    def make(self, id: str, rng: random.Random) -> Document:
        n = self.size
        box_rows, box_columns = BOXES[n]

        def shuffled(band: int) -> list[int]:
            bands = rng.sample(range(n // band), n // band)
            return [b * band + i for b in bands for i in rng.sample(range(band), band)]

        rows, columns, symbols = shuffled(box_rows), shuffled(box_columns), rng.sample(SYMBOLS[:n], n)
        cells = [symbols[(box_columns * (r % box_rows) + r // box_rows + c) % n] for r in rows for c in columns]
        if not self.givens:
            return Document(id, "".join(cells))
        shown = set(rng.sample(range(n * n), self.givens))
        return Document(id, "".join(cells), "".join(x if i in shown else "0" for i, x in enumerate(cells)))

    def obeys(self, prompt: str, text: str) -> bool:
        """Rows, columns and boxes hold every symbol once, and the givens are kept."""
        n = self.size
        if len(text) != n * n or any(given not in ("0", cell) for given, cell in zip(prompt, text, strict=False)):
            return False
        box_rows, box_columns = BOXES[n]
        boxes = [
            "".join(text[(r + i) * n + c + j] for i in range(box_rows) for j in range(box_columns))
            for r in range(0, n, box_rows)
            for c in range(0, n, box_columns)
        ]
        return all(set(line) == set(SYMBOLS[:n]) for line in lines(text, n) + boxes)


class Coding(Generated):
    """See the module's second paragraph."""

    name = "coding"

    def __init__(self, config: CodingConfig):
        super().__init__(config.num_documents, config.seed)
        self.groups, self.copies = config.groups, config.copies
        self.symbols = SYMBOLS[: config.symbols]

    def make(self, id: str, rng: random.Random) -> Document:
        table = coding_permutations(len(self.symbols), self.copies)
        parts = []
        for _ in range(self.groups):
            s = rng.randrange(len(self.symbols))
            parts += [self.symbols[table[c][s]] for c in range(self.copies)]
        return Document(id, "".join(parts))

    def obeys(self, prompt: str, text: str) -> bool:
        """The copies of every group agree on one symbol."""
        table, width = coding_permutations(len(self.symbols), self.copies), self.copies
        words = {"".join(SYMBOLS[table[c][s]] for c in range(width)) for s in range(len(self.symbols))}
        whole = len(text) == self.groups * width
        return whole and all(text[i : i + width] in words for i in range(0, len(text), width))


def coding_permutations(symbols: int, copies: int) -> list[list[int]]:
    """The fixed permutation of each copy; the first is the identity."""
    rng = random.Random("coding permutations")
    return [list(range(symbols))] + [rng.sample(range(symbols), symbols) for _ in range(copies - 1)]


class Addition(Generated):
    """``a+b=`` and the sum."""

    name = "addition"
    symbols = "0123456789+="

    def __init__(self, config: AdditionConfig):
        super().__init__(config.num_documents, config.seed)
        self.low, self.high = config.min_digits, config.max_digits

    def make(self, id: str, rng: random.Random) -> Document:
        a, b = (rng.randrange(10 ** (d - 1), 10**d) for d in (rng.randint(self.low, self.high) for _ in range(2)))
        return Document(id, str(a + b), f"{a}+{b}=")

    def obeys(self, prompt: str, text: str) -> bool:
        """The text is the sum that the prompt asks for."""
        left, _, right = prompt.removesuffix("=").partition("+")
        return left.isdigit() and right.isdigit() and text == str(int(left) + int(right))

"""Images as rows of visual tokens, generated: bright blobs on a dark ground, quantised to grey levels.

Each patch is one token, so a row is an image read line by line, and everything that models rows models
images. Neighbouring patches agree, far ones hardly do: a task with spatial and no symbolic structure.
"""

from __future__ import annotations

import math
import random

from components.data.corpora.config import PatchesConfig
from components.data.corpora.puzzles import SYMBOLS, Generated
from components.data.documents import Document
from components.errors import DataError


def patch_tokens(side: int, levels: int, seed: int | float) -> list[int]:
    """One image: side x side levels 0..levels - 1, line by line."""
    rng = random.Random(seed)
    blobs = [
        (rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.15, 0.4) * side) for _ in range(rng.randint(1, 2))
    ]
    found = []
    for row in range(side):
        for column in range(side):
            light = max(math.exp(-((row - r) ** 2 + (column - c) ** 2) / (2 * s * s)) for r, c, s in blobs)
            found.append(min(levels - 1, int(light * levels)))
    return found


class Patches(Generated):
    """See the module's first paragraph."""

    name = "patches"

    def __init__(self, config: PatchesConfig):
        super().__init__(config.num_documents, config.seed)
        if not 2 <= config.levels <= len(SYMBOLS):
            raise DataError(f"patches.levels = {config.levels}: symbols are the digits 1 to 9, so use 2 to 9.")
        self.side, self.levels = config.side, config.levels
        self.symbols = SYMBOLS[: config.levels]

    def make(self, id: str, rng: random.Random) -> Document:
        tokens = patch_tokens(self.side, self.levels, rng.random())
        return Document(id, "".join(self.symbols[t] for t in tokens))

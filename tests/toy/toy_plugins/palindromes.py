"""A corpus with a rule."""

from __future__ import annotations

import random

from components.data.corpora.puzzles import Generated
from components.data.documents import Document
from toy_plugins.options import PalindromesConfig


class Palindromes(Generated):
    name = "toy_palindromes"
    symbols = "0123456789"

    def __init__(self, config: PalindromesConfig):
        super().__init__(config.num_documents, config.seed)
        self.length = config.length

    def make(self, id: str, rng: random.Random) -> Document:
        half = [rng.choice(self.symbols) for _ in range((self.length + 1) // 2)]
        return Document(id, "".join(half + half[::-1][self.length % 2 :]))

    def obeys(self, prompt: str, text: str) -> bool:
        return len(text) == self.length and text == text[::-1]

"""Tokenizers. Every kind is one ``tokenizers`` file, so an export needs nothing of ours to read it.

Special tokens come first and have ids of their own: the mask is never the padding (in the released
ProSeCo code both are 50257).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer

from components.data.config import TokenizerConfig
from components.errors import DataError
from components.outside import from_json
from components.store.files import is_file, read_text

MASK, PAD, END, UNKNOWN = "[MASK]", "[PAD]", "[EOS]", "[UNK]"
SPECIAL = [MASK, PAD, END, UNKNOWN]
Ids = NDArray[np.uint32]
"""Of a text, as an array [n]: a list of them takes nine times the memory, and the most of the time of a fast encoder."""
ALIASES = {
    MASK: ("<|mdm_mask|>", "<|mask|>", "<mask>"),
    PAD: ("<pad>", "<|pad|>", "[PAD]"),
    END: ("<|endoftext|>", "</s>", "<|end_of_text|>", "[SEP]"),
    UNKNOWN: ("<unk>",),
}
"""Names that other projects have for them. The end is never the padding here, whatever it was there."""

# One token an atom, bond, ring closure or branch (Schwaller et al., arXiv 1811.02633).
SMILES = r"\[[^\]]+\]|Br|Cl|%\d{2}|[BCNOSPFIbcnosp]|[=#$/\\\-+().:~@?>*]|\d"


class Tokenizer:
    """Text to ids and back, with the four special ids by name."""

    def __init__(self, inner: HfTokenizer, fast: bool = False):
        self.inner = inner
        self.mask_id, self.pad_id, self.end_id, self.unknown_id = (self._special(t) for t in SPECIAL)
        self._fast = fast_encoder(inner) if fast else None

    @cached_property
    def _literal(self) -> HfTokenizer:
        """The same, but to it names of special tokens are text."""
        found = HfTokenizer.from_str(self.inner.to_str())
        found.encode_special_tokens = True
        return found

    def _special(self, token: str) -> int:
        known = (token, *ALIASES[token])
        found = next((i for i in map(self.inner.token_to_id, known) if i is not None), None)
        if found is None:
            self.inner.add_special_tokens([token])
            found = self.inner.token_to_id(token)
        assert found is not None
        return int(found)

    @cached_property
    def vocab_size(self) -> int:
        """Ids that it may give: some files leave ids out, so these may be more than its tokens."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def _special_ids(self) -> NDArray[np.bool_]:
        """Which ids are special [V]."""
        found = np.zeros(self.vocab_size, dtype=np.bool_)
        found[[self.mask_id, self.pad_id, self.end_id, self.unknown_id]] = True
        return found

    def encode_arrays(self, texts: list[str]) -> list[Ids]:
        """Ids of texts. No text comes to the mask, the padding or the end: a name such as ``[MASK]`` is spelled like any
        other text, and is unknown where the vocabulary cannot spell it."""
        found = [self._fast(text) for text in texts] if self._fast is not None else self._ids(self.inner, texts)
        highest = max(self.mask_id, self.pad_id, self.end_id, self.unknown_id)  # they come first where the vocabulary is ours
        named = [i for i, ids in enumerate(found) if ids.min(initial=highest + 1) <= highest and self._special_ids[ids].any()]
        spelled = self._ids(self._literal, [texts[i] for i in named]) if named else []
        for i, ids in zip(named, spelled, strict=True):
            found[i] = np.where(self._special_ids[ids], np.uint32(self.unknown_id), ids)
        return found

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same as lists."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    @staticmethod
    def _ids(inner: HfTokenizer, texts: list[str]) -> list[Ids]:
        return [np.array(e.ids, dtype=np.uint32) for e in inner.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int], stop_at_end: bool = True) -> str:
        """Text up to the first end token; padding is dropped and a mask is shown as such."""
        return self.inner.decode(self._kept(ids, stop_at_end), skip_special_tokens=False)

    def decode_batch(self, rows: Iterable[Iterable[int]], stop_at_end: bool = True) -> list[str]:
        """The same for many rows at once."""
        return self.inner.decode_batch([self._kept(ids, stop_at_end) for ids in rows], skip_special_tokens=False)

    def _kept(self, ids: Iterable[int], stop_at_end: bool) -> list[int]:
        kept = list(ids)
        if stop_at_end and self.end_id in kept:
            del kept[kept.index(self.end_id) :]
        return [i for i in kept if i != self.pad_id] if self.pad_id in kept else kept

    def show(self, token_id: int) -> str:
        """One token as a person would want to see it."""
        if token_id == self.mask_id:
            return "\u00b7"
        return self.inner.decode([token_id], skip_special_tokens=False)

    def save(self, path: Path) -> None:
        """Raises OSError where the disk does not take it."""
        try:
            self.inner.save(str(path))
        except Exception as error:  # it raises nothing more exact; what the operating system said comes as a text
            raise OSError(str(error)) from error


def load_tokenizer(path: Path, fast: bool = False) -> Tokenizer:
    """Read a tokenizer.json.

    Raises:
        DataError: it is missing or is not one.
    """
    if not is_file(path):
        raise DataError(f"{path} does not exist. Set tokenizer.path to a tokenizer.json.")
    try:
        text = read_text(path)
        from_json(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a tokenizer.json: {error}. Get it again from where it was made.") from error
    try:
        inner = HfTokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{path} is not a tokenizer.json of the `tokenizers` library: {error}") from error
    inner.no_truncation()
    inner.no_padding()
    return Tokenizer(inner, fast)


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str], symbols: str = "") -> Tokenizer:
    """Train or load the configured tokenizer.

    Args:
        texts: documents to learn the vocabulary from.
        symbols: characters that are known to occur even if ``texts`` lacks them.
    """
    if config.kind == "file":
        return load_tokenizer(Path(config.path))
    if config.kind == "bpe":
        return Tokenizer(train_bpe(texts, config.vocab_size))
    found = words(config.kind, {})
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, vocab_size=1 << 16, show_progress=False)
    found.train_from_iterator([symbols, *texts], trainer)
    # Ids in sorted order: the trainer breaks ties between equally frequent symbols arbitrarily. And in a tokenizer of
    # their own: the trainer's takes a name of a special token in a text for another token.
    alphabet = sorted(set(found.get_vocab()) - set(SPECIAL))
    inner = words(config.kind, {token: number for number, token in enumerate(SPECIAL + alphabet)})
    inner.add_special_tokens(SPECIAL)
    return Tokenizer(inner)


SPLITS = {"characters": r"[\s\S]", "symbols": r"\S", "smiles": SMILES}


def words(kind: str, vocabulary: dict[str, int]) -> HfTokenizer:
    """A tokenizer to which what a pattern matches is a token."""
    inner = HfTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    # Everything that the pattern does not match is a token of its own, so nothing is lost silently.
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(SPLITS[kind]), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return inner


def train_bpe(texts: Iterable[str], vocab_size: int) -> HfTokenizer:
    """Byte-level BPE; no text is unknown to it."""
    inner = HfTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def fast_encoder(inner: HfTokenizer) -> Callable[[str], Ids] | None:
    """gigatoken's encoder for a BPE tokenizer; None for other kinds and where it is not installed."""
    if not isinstance(inner.model, models.BPE) or importlib.util.find_spec("gigatoken") is None:
        return None
    import gigatoken

    encode: Callable[[str], Ids] = gigatoken.Tokenizer(inner).encode
    return encode


def agrees(tokenizer: Tokenizer, texts: list[str]) -> bool:
    """Does the fast encoder give exactly the ids of ``tokenizers`` on these texts?"""
    return tokenizer.encode_batch(texts) == Tokenizer(tokenizer.inner).encode_batch(texts)

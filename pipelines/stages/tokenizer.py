"""Train or load the tokenizer that all corpora of the run share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from components.data.corpora import open_corpus
from components.data.documents import Corpus, Document
from components.data.tokenizer import build_tokenizer
from components.store.files import publishing
from pipelines.graph.stage import Context
from pipelines.stages.spec import TokenizerSpec
from pipelines.stages.unchanged import Read, require_unchanged


def run(config: TokenizerSpec, context: Context) -> Mapping[str, Any]:
    read: list[Read] = [(config.tokenizer, config.file)]
    read += [(config.corpora[name].source, content) for name, content in config.contents.items()]
    require_unchanged(read)
    corpora = [open_corpus(c.source) for c in config.corpora.values()]
    symbols = "".join(sorted(set("".join(c.symbols for c in corpora))))
    # Where every symbol is known ahead, no document needs to be read.
    texts = (
        []
        if all(c.symbols for c in corpora) and config.tokenizer.kind in ("characters", "symbols")
        else sample(corpora, config)
    )
    tokenizer = build_tokenizer(config.tokenizer, texts, symbols)
    with publishing(context.folder / "tokenizer.json") as private:
        tokenizer.save(private)
    require_unchanged(read)
    return {"vocab_size": tokenizer.vocab_size}


def sample(corpora: list[Corpus], config: TokenizerSpec) -> Iterator[str]:
    """Documents from all pieces of all corpora, evenly."""
    for corpus in corpora:
        pieces = corpus.pieces(config.pieces)
        share = -(-config.tokenizer.train_documents // len(pieces))
        for piece in pieces:
            good = (d for d in corpus.read(piece) if isinstance(d, Document))
            for document in islice(good, share):
                yield document.prompt + document.text

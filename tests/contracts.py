"""What holds for every plug-in of a family, whoever wrote it: tests of ours and of other distributions' ones call these."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import numpy as np
import torch

from components.data.config import TokenizerConfig
from components.data.corpora import open_corpus
from components.data.documents import Document
from components.data.tokenizer import build_tokenizer
from components.plugins import locate
from components.scorers.base import ScoredRow, ScorerSetting
from components.training.loop import build_objective
from tests.decoding import rows_of, run, sampler_of
from tests.learning import LENGTH, batch, gradients, network, setting
from tests.oracle import Oracle


def objective_counts_its_terms_and_has_finite_gradients(config: Any, device: str = "cpu") -> None:
    """Terms are those that were counted, the batch stays as it was, and something is learned."""
    given = batch(rows=6, prompt=2, pads=1, device=device)
    kept = given.tokens.clone()
    objective = build_objective(config, setting())
    corrupted = objective.corrupt(given)
    names = [t.name for t in objective.terms(network(config, device=device), corrupted)]
    assert sorted(names) == sorted(objective.counts(corrupted))
    assert torch.equal(given.tokens, kept)
    slopes = gradients(config, [given], network(config, device=device))
    assert all(torch.isfinite(g).all() for g in slopes.values())
    assert sum(float(g.abs().sum()) for g in slopes.values()) > 0


def objective_is_a_sum_over_rows(config: Any, device: str = "cpu") -> None:
    """Micro-batches and ranks: the same gradient, whatever the cut."""
    whole = gradients(config, [batch(rows=6, total=6, device=device)], network(config, device=device))
    parts = [
        batch(rows=2, first=0, total=6, device=device),
        batch(rows=3, first=2, total=6, device=device),
        batch(rows=1, first=5, total=6, device=device),
    ]
    split = gradients(config, parts, network(config, device=device))
    for name, value in whole.items():
        assert torch.allclose(value, split[name], atol=1e-9), name


def objective_leaves_prompts_and_pads_alone(config: Any, device: str = "cpu") -> None:
    """A row of prompt alone counts nothing and costs nothing."""
    objective = build_objective(config, setting())
    none = dataclasses.replace(
        batch(rows=4, device=device), maskable=torch.zeros(4, LENGTH, dtype=torch.bool, device=device)
    )
    none = dataclasses.replace(none, target=none.maskable)
    corrupted = objective.corrupt(none)
    assert all(float(n) == 0 for n in objective.counts(corrupted).values())
    assert all(float(t.loss_sum.detach()) == 0 for t in objective.terms(network(config, device=device), corrupted))


def corpus_reads_the_same_documents_from_any_pieces(source: Any, num_pieces: int = 3) -> list[Document]:
    """Every document is in one piece, in the same order each time; a corpus with rules obeys them. Returns some."""
    corpus = open_corpus(source)
    documents = {}
    for piece in corpus.pieces(num_pieces):
        first, again = (list(islice(corpus.read(piece), 50)) for _ in range(2))
        assert first == again
        for document in first:
            assert isinstance(document, Document)
            assert document.id not in documents, "two pieces hold one document"
            documents[document.id] = document
    assert documents
    if source.has_rules:
        assert all(corpus.obeys(d.prompt, d.text) for d in documents.values())
        assert not corpus.obeys("", "x")
    return list(documents.values())


def scorer_gives_one_number_a_row_whatever_the_company(options: Any, folder: Any) -> None:
    """Its main column has a value for each row, the same alone; a trained one is trained first."""
    tokenizer = build_tokenizer(TokenizerConfig(), [], "0123456789")
    texts = ["012210", "999999", "012345", "1"]
    ids = [tokenizer.encode_batch([t])[0] for t in texts]
    padded = [x + [tokenizer.pad_id] * (6 - len(x)) for x in ids]
    trained = {}
    if options.trains:
        locate(options.trains)(options, np.array(padded * 3, dtype=np.int64), tokenizer, folder)
        trained = {options.name: folder}
    score = options.load()(options, ScorerSetting(tokenizer, trained=trained))
    rows = [ScoredRow(i, "", t, tuple(p), 0) for i, (t, p) in enumerate(zip(texts, padded, strict=True))]
    values = score(rows)[options.column]
    assert len(values) == len(rows)
    assert np.isfinite(values).all()
    assert len(set(values)) > 1, "it tells no rows apart"
    assert [score([row])[options.column][0] for row in rows] == values


ORACLE = Oracle(num_tokens=3, length=6, seed=3)


def sampler_keeps_the_contract(config: Any, oracle: Oracle = ORACLE) -> None:
    """Prompts kept, no mask left, alone as in a crowd, calls counted = forwards made, calls bounded."""
    oracle.calls = 0
    sampler = sampler_of(oracle, config)
    rows = rows_of(oracle, 5, prompt=1)
    crowd = run(oracle, config, rows, lanes=6, deterministic=False)
    assert sum(s.calls for s in crowd.values()) == oracle.calls, config
    for sample in crowd.values():
        assert sample.tokens[0] == 1, config
        assert oracle.mask_id not in sample.tokens, config
        assert 0 < sample.calls <= sampler.max_calls(oracle.length), config
    assert run(oracle, config, rows[2:3], lanes=1) == {rows[2].id: crowd[rows[2].id]}, config

"""Values that fit, near their bounds and between them: cases that should end in a result, so that the fuzz presses on what is
done with what was read, and not on refusals alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Values = Mapping[str, st.SearchStrategy[Any]]


def few(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


RUN: Values = {
    "name": st.from_regex(r"[A-Za-z0-9_.-]{1,100}", fullmatch=True),
    "corpora.latin.source.num_documents": st.integers(1, 2**31 - 1),
    "corpora.latin.source.seed": st.integers(0, 2**63 - 1),
    "corpora.latin.source.size": st.integers(2, 9),
    "corpora.latin.validation_share": st.floats(0, 0.9),
    "corpora.latin.test_share": st.floats(0, 0.09),
    "corpora.latin.max_bad_share": st.floats(0, 1),
    "corpora.latin.weight": st.floats(1e-300, 1e9),
    "tokenizer.kind": few("characters", "symbols", "smiles", "bpe"),
    "tokenizer.vocab_size": st.integers(1, 2**24),
    "rows.length": st.integers(1, 9),
    "rows.layout": few("packed", "document"),
    "rows.pieces": st.integers(1, 2**16),
    "model.dim": st.integers(1, 500).map(lambda n: 4 * n),
    "model.depth": st.integers(1, 100),
    "model.num_positions": st.integers(9, 10_000),
    "model.dropout": st.floats(0, 0.999),
    "model.rope_theta": st.floats(1e-6, 1e12),
    "model.time_conditioning": st.booleans(),
    "train.base.steps": st.integers(1, 2**31 - 1),
    "train.base.seed": st.integers(0, 2**63 - 1),
    "train.base.optimizer": st.fixed_dictionaries({}, optional={"lr": st.floats(1e-12, 1), "weight_decay": st.floats(0, 0.99), "clip": st.floats(0, 1e9)}),
    "train.base.ema_decay": st.floats(0, 0.9999),
    "train.base.t_min": st.floats(1e-6, 0.999),
    "train.base.checkpoint_every": st.integers(1, 2**31 - 1),
    "train.proseco.objective": few({"name": "proseco"}, "mdlm", "cmlm", {"name": "smart"}, {"name": "proseco", "corrector_weight": 0.5}),
    "generate.num_samples": st.integers(1, 400_000),
    "generate.seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=1),
    "generate.lanes": st.integers(1, 2**16),
    "generate.prompts": few("none", "validation", "test"),
    "generate.corrections": few("none", "changed"),
    "samplers.mdlm.steps": st.lists(st.integers(0, 2**20), min_size=1, max_size=3, unique=True),
    "samplers.proseco.steps": st.lists(st.integers(1, 2**20), min_size=1, max_size=3, unique=True),
    "samplers.proseco.sampler.corrector.passes": st.integers(1, 100),
    "scorers.distinct": st.just({}),
    "metric": few("validity", "entropy", ""),
    "runtime.replicas": st.integers(1, 64),
    "runtime.hang_s": st.floats(0, 1e9),
    "runtime.zero_stage": st.integers(0, 3),
    "runtime.compile": st.booleans(),
    "runtime.executor": few("ray", "local"),
}
"""By path, for the run of `tests.chaos.harness`."""

SAMPLER: Values = {
    "steps": st.integers(0, 40),
    "draw.temperature": st.floats(0, 10),
    "draw.top_p": st.floats(0.01, 1),
    "draw.top_k": st.integers(0, 9),
    "corrector": few("none", "proseco", "token_edit", "free_correction", "mask_predict"),
    "schedule": few("ancestral", "fixed_count", "cosine", "linear", "threshold"),
    "unmask": few("random", "confidence", "margin"),
    "blocks.length": few(0, 3, 9),
    "guidance.gamma": st.floats(0, 3),
    "guard.edits_per_position": st.integers(0, 5),
    "guard.edit_share": st.floats(0, 1),
    "guard.cooldown": st.integers(0, 5),
    "search": few("single", {"name": "best_of", "particles": 2}),
}
"""For a sampler's preset; those of several parts need not go together."""


def mostly(fit: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Three of four are of the first, of however many kinds each is."""
    return st.sampled_from([fit, fit, fit, wrong]).flatmap(lambda chosen: chosen)


def nested(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as mappings inside one another."""
    found: dict[str, Any] = {}
    for path, value in pairs.items():
        *above, last = path.split(".")
        holder = found
        for name in above:
            holder = holder.setdefault(name, {})
        holder[last] = value
    return found


def some(values: Values, most: int) -> st.SearchStrategy[dict[str, Any]]:
    """A few of them, each with a value."""
    names = st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=most, unique=True)
    return names.flatmap(lambda found: st.fixed_dictionaries({name: values[name] for name in found}))


def as_overrides(pairs: Mapping[str, Any]) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in pairs.items()]

"""A shard of samples: the unit that a replica is asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from components import faults
from components.errors import SamplingError
from components.models.device import Placement
from components.models.weights import HOME
from components.options import plain_of
from components.samplers.contract import CHANGES, Row, Sample
from components.scorers.base import ScorerSetting
from components.scorers.config import ScorerOptions
from components.shards.account import Account, useful
from components.shards.canvas import canvas, given_by, num_leading, sample_id, text_tokens
from components.shards.model import Loaded, Metered, Run, Sampling, engine_of, loaded, running
from components.shards.prompt import NoPrompts, Prompt, PromptSource
from components.shards.score import rows_of, score_rows
from components.store.samples import (
    KEYS,
    MADE_BY,
    QUARANTINE,
    SAMPLES,
    publish_shard,
    publish_table,
    row_id,
    shard_file,
)


@dataclass(frozen=True)
class SampleShard:
    """Everything a replica needs to know, as plain values."""

    name: str
    folder: Path
    """Of the stage; tables lie in ``shards`` below it, and rows that could not be made in ``quarantine``."""
    model: Path
    sampling: Sampling
    start: int
    """The first of its samples, by number among those of its seed."""
    stop: int
    length: int
    prompts: PromptSource = field(default_factory=NoPrompts)
    seed: int = 0
    num_traced: int = 0
    """The first so many rows keep their trajectory."""
    corrections: Literal["none", "changed"] = "changed"
    """What is kept of how the other rows were made."""
    scorers: Mapping[str, ScorerOptions] = field(default_factory=dict)
    """Columns that are made along with the samples."""
    model_key: str = ""
    """What the model is known by."""
    placement: Placement = HOME
    """Where the network computes, and in what precision."""

    def work(self, run: Run | None = None, lanes: Callable[[], int] | None = None) -> dict[str, Any]:
        """Make and publish the shard. Returns its receipt.

        Args:
            run: samples the rows; an engine of its own where not given.
            lanes: inputs of the forwards since it was asked last, padding included; those of its own engine where not
                given.
        Raises:
            SamplingError: none of its rows could be made.
        """
        begun = time.monotonic()
        model = loaded(self.model, self.placement)
        if run is None:
            network = Metered(model.network)
            run, lanes = running(engine_of(model, self.sampling, network)), lambda: network.lanes
        prompts = self.prompts.take(self.start, self.stop)
        mask_id = model.tokenizer.mask_id
        rows = [self.row(p, i < self.num_traced, mask_id) for i, p in enumerate(prompts)]
        outcomes = run(self.sampling.sampler, rows)
        faults.point("generate.mid_shard")
        found = [(outcomes[row.id], row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        good = [(o, row, prompt) for o, row, prompt in found if isinstance(o, Sample)]
        bad = [(o, row, prompt) for o, row, prompt in found if isinstance(o, SamplingError)]
        if bad and not good:
            raise bad[0][0]
        if bad:
            records = [keys_of(row, p) | {"reason": str(error)} for error, row, p in bad]
            publish_table(shard_file(self.folder / "quarantine", self.name), pa.Table.from_pylist(records, QUARANTINE))
        table, account = sample_table(good, self, model)
        forwards = lanes() if lanes is not None else 0
        account += Account(quarantined=len(bad), busy_s=time.monotonic() - begun, forwards=forwards)
        return publish_shard(self.folder / "shards", self.name, table, "generate", account.plain())


    def row(self, prompt: Prompt, traced: bool, mask_id: int) -> Row:
        """The canvas of a sample, and what is kept of how it was made."""
        row = canvas(prompt, self.length, mask_id, traced, self.seed)
        return replace(row, corrections=self.corrections == "changed")


def keys_of(row: Row, prompt: Prompt) -> dict[str, Any]:
    """What a row is joined by."""
    name = row_id(row.id, row.seed)
    whose = prompt.id or (f"{sample_id(Prompt(0, prompt.tokens, prompt.label)):016x}" if prompt.tokens else "")
    return {"row_id": name, "prompt_id": whose, "sample_index": prompt.index, "seed": row.seed}


Made = Sequence[tuple[Sample, Row, Prompt]]


def sample_table(made: Made, shard: SampleShard, model: Loaded) -> tuple[pa.Table, Account]:
    """The rows of a shard as they are stored, and their sums."""
    tokenizer = model.tokenizer
    tokens = np.array([s.tokens for s, _, _ in made], dtype=np.int32).reshape(len(made), shard.length)
    fixed = np.array([r.fixed for _, r, _ in made], dtype=bool).reshape(tokens.shape)
    number, stopped = useful(tokens, fixed, tokenizer.end_id, tokenizer.pad_id)
    leading = [num_leading(row) for _, row, _ in made]
    prefixes = [s.tokens[:n] for (s, _, _), n in zip(made, leading, strict=True)]
    written = [text_tokens(row, s.tokens, tokenizer.end_id) for s, row, _ in made]
    keys = [keys_of(row, prompt) for _, row, prompt in made]
    searched = shard.sampling.sampler.search.num_chains > 1  # whose chains die and split
    columns: dict[str, Any] = {name: [k[name] for k in keys] for name in KEYS}
    columns |= {
        "fields": [p.fields for _, _, p in made],
        "prompt": tokenizer.decode_batch(prefixes, stop_at_end=False),
        "label": [p.label for _, _, p in made],
        "text": tokenizer.decode_batch(written),
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel()), shard.length),
        "num_prompt": leading,
        "given": [given_by(row) or None for _, row, _ in made],
        "calls": [s.calls for s, _, _ in made],
        "call_positions": [s.call_positions for s, _, _ in made],
        "reward_calls": [s.reward_calls for s, _, _ in made],
        "stop_reason": np.where(stopped, "stop", "length").tolist(),
        "edits": [s.edits for s, _, _ in made],
        "corrections": [corrections_of(s, r, searched) for s, r, _ in made],
        "trace": [[asdict(e) for e in s.trace] if r.trace else None for s, r, _ in made],
        "model": [shard.model_key] * len(made),
        "sampler": [shard.sampling.sampler.preset] * len(made),
        "run": [shard.folder.name] * len(made),
        "deterministic": [shard.sampling.deterministic] * len(made),
    }
    schema = SAMPLES.with_metadata({**SAMPLES.metadata, MADE_BY: json.dumps(described(shard)).encode()})
    table = pa.table({f.name: pa.array(columns[f.name]).cast(f.type) for f in schema}, schema)
    if shard.scorers:
        table = with_scores(table, shard, model)
    account = Account(
        rows=len(made),
        calls=sum(columns["calls"]),
        call_positions=sum(columns["call_positions"]),
        reward_calls=sum(columns["reward_calls"]),
        edits=sum(columns["edits"]),
        corrected=sum(e > 0 for e in columns["edits"]),
        useful_tokens=int(number.sum()),
        corrections_by_position=by_position(columns["corrections"], shard.length),
    )
    return table, account


def corrections_of(sample: Sample, row: Row, searched: bool) -> list[dict[str, Any]] | None:
    """The changes of visible tokens; None where nobody followed them."""
    if not row.corrections or searched:
        return None
    changes = (e for e in sample.trace if e.reason in CHANGES)
    return [{"call": e.call, "position": e.position, "old": e.old, "new": e.new, "confidence": e.confidence} for e in changes]


def by_position(corrections: Sequence[list[dict[str, Any]] | None], length: int) -> tuple[int, ...]:
    """How often a visible token was changed at each position; empty where nobody followed them."""
    places = [c["position"] for row in corrections if row is not None for c in row]
    followed = any(row is not None for row in corrections)
    return tuple(np.bincount(np.array(places, dtype=np.int64), minlength=length).tolist()) if followed else ()


def described(shard: SampleShard) -> dict[str, Any]:
    """What, besides a row of the table and the model, a row can be made again from."""
    s = shard.sampling
    return {
        "sampler": plain_of(s.sampler),
        "num_lanes": s.num_lanes,
        "deterministic": s.deterministic,
        "source": None if s.source is None else plain_of(s.source),
        "dtype": shard.placement.dtype,
    }


def with_scores(table: pa.Table, shard: SampleShard, model: Loaded) -> pa.Table:
    """The table with a column for each score."""
    sampling = shard.sampling
    setting = ScorerSetting(model.tokenizer, sampling.source, model.network, sampling.trained, device=model.device)
    for name, values in score_rows(rows_of(table), shard.scorers, setting).items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    return table

"""No step of a sampler makes the host wait for the device.

On a GPU torch raises at whatever waits. Elsewhere tensors without values stand for those of a GPU: reading a value
raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from components.models.denoiser import Prediction
from components.samplers import PRESETS, preset
from components.samplers.contract import Extras, Sampler, Vocabulary
from components.samplers.forward import Batching, Extent, answer, measure
from components.samplers.sampler import build_sampler
from components.samplers.state import State
from tests.decoding import policy, rows_of
from tests.gpu.outcome import Outcome, tried
from tests.oracle import Oracle

PART = "no waiting"
STEPS = 8


def outcomes(device: str) -> Iterator[Outcome]:
    check = on_a_gpu if device.startswith("cuda") else on_tensors_without_values
    for name in sorted(PRESETS):
        yield tried(PART, name, partial(check, name, device))


def network(tokens: torch.Tensor, *, select: Any = None, heads: tuple[str, ...] = (), **given: Any) -> Prediction:
    """Knows nothing, and waits for nothing."""
    logits = torch.zeros(*tokens.shape, 4, device=tokens.device)
    chosen = logits if select is None else logits.flatten(0, 1)[select]
    return Prediction(chosen, {name: torch.zeros(tokens.shape, device=tokens.device) for name in heads})


ORACLE = Oracle(num_tokens=3, length=6, seed=3)


def sampler_of(name: str, embedding: torch.Tensor) -> Sampler:
    return build_sampler(preset(name), Vocabulary(ORACLE.mask_id), Extras(policy, embedding))


def begun(sampler: Sampler, device: str) -> State:
    """Four rows with a prompt."""
    rows = rows_of(ORACLE, 4, prompt=1)
    canvas, fixed = (torch.tensor(x, device=device) for x in ([r.canvas for r in rows], [r.fixed for r in rows]))
    ids = torch.arange(4, device=device)
    return sampler.start(canvas, fixed, ids, torch.zeros_like(ids))


def stepped(sampler: Sampler, state: State, extent: Extent) -> State:
    """The state after a step whose extent the host knows."""
    query = sampler.query(state)
    said = answer(network, query, extent, Batching(len(state.ids)))
    if query.rewarded is not None:
        said = replace(said, rewards=torch.zeros(query.rewarded.shape, dtype=torch.float64, device=state.ids.device))
    return sampler.advance(state, said)[0]


def on_a_gpu(name: str, device: str) -> str:
    sampler = sampler_of(name, ORACLE.embedding.to(device))
    state = begun(sampler, device)
    state = stepped(sampler, state, measure(sampler.query(state)))  # tables that are made once may wait
    for _ in range(STEPS):
        extent = measure(sampler.query(state))  # here the host waits, once
        with waiting_raises():
            state = stepped(sampler, state, extent)
    return f"{STEPS} steps"


@contextmanager
def waiting_raises() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_tensors_without_values(name: str, device: str) -> str:
    sampler = sampler_of(name, ORACLE.embedding.to(device))
    state = begun(sampler, device)
    for _ in range(STEPS):
        extent = measure(sampler.query(state))
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            stepped(sampler, state.map(fake.from_tensor), extent)
        state = stepped(sampler, state, extent)
    return f"{STEPS} steps"

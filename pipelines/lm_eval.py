"""The model ``proseco`` of EleutherAI's lm-eval: its tasks on an exported folder.

    proseco-lm-eval --model proseco --model_args folder=EXPORT,sampler=proseco,steps=8 --tasks TASK

``proseco-lm-eval`` is ``lm_eval`` with this module imported, because 0.4.13 finds no model outside itself; later
versions find it by the entry point and need their own command only. ``--batch_size`` is how many rows are generated
together, and changes no number.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from pydantic import Field

from components.api import load, sample
from components.errors import ConfigError, DataError, Problem
from components.options import Count, Seed, options, parse
from components.samplers import preset
from components.scorers.conditional import Asked, bound, is_greedy
from components.store.files import append_text, at, exists


@options
class LmEvalOptions:
    """``--model_args``; every other name is an option of the sampler, e.g. ``steps=8,corrector.passes=2``."""

    folder: str
    """An exported model."""
    sampler: str = "mdlm"
    """Name of a preset."""
    seed: Seed = 0
    """Of every draw, of samples and of masks."""
    draws: Annotated[int, Field(ge=2)] = 128
    """Sets of masks for each likelihood."""
    errors: str = ""
    """File that gets a line of JSON for every likelihood, with its standard error; it must not exist."""
    device: str = "auto"
    dtype: str = "auto"
    batch_size: Count = 64
    """Rows that are generated together; ``--batch_size``. The draws of a likelihood are 64 a forward whatever it is."""
    allow_untrained: bool = False
    """Let a corrector work on a network that was not trained for it."""


@options
class GenerationOptions:
    """What a task may ask of a generation. How tokens are drawn is said by ``--model_args``."""

    until: tuple[str, ...] = ()
    """The text ends before the first of them."""
    max_gen_toks: Annotated[int, Field(ge=0)] = 0
    """Positions to write; 0 is what is left of the trained length."""


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """log p of what was asked, in nats, as a bound from below."""

    value: float
    standard_error: float
    is_greedy: bool | None
    dropped: int
    """Tokens of the context that did not fit."""


@register_model("proseco")
class ProsecoLM(LM):
    """An exported model behind lm-eval's three questions. Every answer depends on its own request alone."""

    def __init__(self, **given: Any):
        """Raises ConfigError for a wrong option, ModelError or DataError where the folder is no export."""
        super().__init__()
        known = {f.name for f in dataclasses.fields(LmEvalOptions)}
        self.config = parse(LmEvalOptions, {k: plain(v) for k, v in given.items() if k in known}, "model_args")
        self.sampler = preset(self.config.sampler, **nested({k: v for k, v in given.items() if k not in known}))
        if self.config.errors and exists(at(self.config.errors)):
            rule = "a file that does not exist yet"
            raise ConfigError([Problem("model_args.errors", self.config.errors, rule, "name another one")])
        # lm-eval says cuda:0 where nobody said anything, also on a machine without a GPU.
        device = "auto" if self.config.device == "cuda:0" else self.config.device
        self.model = load(self.config.folder, device, self.config.dtype)
        self.length = int(self.model.info["length"])
        self.likelihoods: list[Likelihood] = []
        """Of every request so far, in order."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What is written after each context. A request that stands here several times is drawn as often."""
        repeats = Counter(id(r) for r in requests)
        groups: dict[tuple[int, int], dict[str, None]] = defaultdict(dict)
        for request in requests:
            groups[repeats[id(request)], self._row_length(request)][request.args[0]] = None
        written: dict[tuple[int, int, str], list[str]] = defaultdict(list)
        for (number, length), prompts in groups.items():
            for row in self._sample(list(prompts), number, length):
                written[number, length, row.prompt].append(row.text)
        found: list[str] = []
        seen: Counter[int] = Counter()
        for request in requests:
            number, prompt = repeats[id(request)], request.args[0]
            text = written[number, self._row_length(request), prompt][seen[id(request)]]
            seen[id(request)] += 1
            found.append(cut(text, generation(request.args[1]).until))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Bound of each continuation given its context, and whether a greedy decoder would write it."""
        found = []
        for request in requests:
            told = self._likelihood(*self._encode_pair(*request.args))
            self._tell(request, told)
            found.append((told.value, bool(told.is_greedy)))
            self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Bound of each text, in pieces of a row; the last one sees as much as fits of what is before it."""
        found = []
        for request in requests:
            ids = self._encode(request.args[0])
            places = range(0, len(ids), self.length)
            pieces = [
                self._likelihood(ids[:i] if len(ids) - i < self.length else [], ids[i : i + self.length], n, False)
                for n, i in enumerate(places)
            ]
            total = Likelihood(sum(p.value for p in pieces), math.hypot(*(p.standard_error for p in pieces)), None, 0)
            self._tell(request, total)
            found.append(total.value)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total.value)
        return found

    def _sample(self, prompts: list[str], number: int, length: int) -> Sequence[Any]:
        return sample(
            self.model,
            self.sampler,
            number,
            prompts,
            length=length,
            seed=self.config.seed,
            num_lanes=self.config.batch_size,
            allow_untrained=self.config.allow_untrained,
        )

    def _row_length(self, request: Instance) -> int:
        """Positions of its row: the context and what is to be written, at most the trained length."""
        wanted = generation(request.args[1]).max_gen_toks
        return min(self.length, len(self._encode(request.args[0])) + wanted) if wanted else self.length

    def _encode(self, text: str) -> list[int]:
        return list(self.model.tokenizer.encode_batch([text])[0]) if text else []

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both. A space at the context's end belongs to the continuation, as tokenizers have it there."""
        kept = context.rstrip()
        whole, before = self._encode(context + continuation), self._encode(kept)
        return whole[: len(before)], whole[len(before) :]

    def _likelihood(self, context: list[int], target: list[int], number: int = 0, greedy: bool = True) -> Likelihood:
        if len(target) > self.length:
            raise DataError(
                f"A continuation has {len(target)} tokens, and the model reads {self.length}. Leave its task out, or "
                f"use a model that was trained on longer rows."
            )
        if not target:
            return Likelihood(0.0, 0.0, True, 0)
        kept = context[max(0, len(context) + len(target) - self.length) :]
        mask_id = self.model.tokenizer.mask_id
        ids = [*kept, *target, *[mask_id] * (self.length - len(kept) - len(target))]
        tokens = torch.tensor(ids, device=self.model.device)
        asked = Asked(tokens, len(kept), len(kept) + len(target), mask_id)
        nats = bound(self.model.network, asked, self.config.draws, self.config.seed, number)
        error = float(nats.std()) / math.sqrt(len(nats))
        best = is_greedy(self.model.network, asked) if greedy else None
        return Likelihood(-float(nats.mean()), error, best, len(context) - len(kept))

    def _tell(self, request: Instance, told: Likelihood) -> None:
        self.likelihoods.append(told)
        if self.config.errors:
            of = {"task": request.task_name, "doc_id": request.doc_id, "idx": request.idx, "type": request.request_type}
            line = {**of, **dataclasses.asdict(told), "draws": self.config.draws}
            append_text(at(self.config.errors), json.dumps(line) + "\n")


def generation(asked: Mapping[str, Any]) -> GenerationOptions:
    """What a task asks of a generation.

    That it wants no sampling (``do_sample: false``, ``temperature: 0``) is what most tasks say without being asked,
    and the sampler is the user's, so this is accepted and changes nothing. Other ways to draw are refused.

    Raises:
        ConfigError: it asks for something that has no meaning here.
    """
    rest = {k: v for k, v in asked.items() if not (k in ("do_sample", "temperature") and not v)}
    until = rest.get("until") or ()
    rest["until"] = [until] if isinstance(until, str) else list(until)
    rest["max_gen_toks"] = rest.get("max_gen_toks") or 0
    return parse(GenerationOptions, rest, "generation_kwargs")


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of some strings; empty ones are no strings to look for."""
    return text[: min((place for stop in until if stop and (place := text.find(stop)) >= 0), default=len(text))]


def plain(value: Any) -> Any:
    """A value as lm-eval hands it over: numbers of its command line may be texts."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"corrector": "prism", "corrector.share": 0.1}`` as ``{"corrector": {"name": "prism", "share": 0.1}}``."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        section = found
        for parent in parents:
            below = section.get(parent, {})
            section[parent] = below if isinstance(below, dict) else {"name": below}
            section = section[parent]
        section[name] = value
    return found


if __name__ == "__main__":
    cli_evaluate()

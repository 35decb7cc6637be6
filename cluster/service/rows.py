"""From a request to rows: everything about it is checked here, before any of it is run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from cluster.service.backend import Job
from cluster.service.bodies import CompletionRequest, Decoding, ScoreRequest, largest
from cluster.service.errors import ApiError, refused, wrong
from cluster.service.limits import ServiceLimits
from cluster.service.model import ServedModel
from components.errors import DataError, ProsecoError
from components.options import nearest
from components.samplers import PRESETS, SamplerConfig, read_sampler
from components.samplers.contract import Row
from components.samplers.needs import missing, strange_label
from components.scorers import SCORERS
from components.shards.canvas import canvas, num_leading, read_tokens
from components.shards.prompt import Prompt

Pieces = tuple[int, ...]
"""Tokens, and ``HOLE`` where something is to be written."""


@dataclass(frozen=True)
class Asked:
    """A request that can be run."""

    model: ServedModel
    job: Job
    first: tuple[int, ...]
    """Of each row: the position at which its text begins."""
    num_prompt: int
    """Tokens of all prompts, each counted once."""


def ask(model: ServedModel, body: Decoding, prompts: tuple[str, ...], limits: ServiceLimits) -> Asked:
    """The rows that a request wants.

    Raises:
        ApiError: it breaks a rule, or would cost too much.
    """
    template = body.template if isinstance(body, CompletionRequest) else ()
    at_most("prompt", len(prompts), limits.max_prompts, "prompts", "limits.max_prompts")
    at_most("n", body.n * len(prompts), limits.max_samples, "rows (prompts x n)", "limits.max_samples")
    sampler = read_options(model, body)
    check_label(model, body.label)
    texts: tuple[tuple[Any, ...], ...] = (template,) if template else tuple((p,) for p in prompts)
    if template and prompts != ("",):
        raise wrong("template", list(template), "it stands instead of a prompt", "put the prompt in as its first text")
    pieces = [read_pieces_of(model, text, "template" if template else "prompt", limits) for text in texts]
    lengths = [length_of(model, body, p, bool(template), limits) for p in pieces]
    check_cost(model, sampler, lengths, body.n, limits)
    rows: list[Row] = []
    before: Counter[Pieces] = Counter()
    for number, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        for _ in range(body.n):  # equal prompts are different samples of one prompt
            prompt = Prompt(before[piece], piece, body.label)
            before[piece] += 1
            try:
                rows.append(canvas(prompt, length, model.tokenizer.mask_id, seed=body.seed))
            except DataError as error:
                param = "template" if template else f"prompt[{number}]"
                raise ApiError(400, f"{param}: {error}", param=param, code="context_length_exceeded") from None
    deadline = deadline_of(body.deadline_s, limits)
    whole = bool(template) or (isinstance(body, CompletionRequest) and body.echo)
    first = tuple(0 if whole else num_leading(row) for row in rows)
    job = Job(sampler, tuple(rows), body.stream, deadline)
    return Asked(model, job, first, sum(sum(rows[i * body.n].fixed) for i in range(len(pieces))))


def at_most(param: str, number: int, limit: int, what: str, name: str) -> None:
    if number > limit:
        raise ApiError(
            400,
            f"{number} {what} in one request; {name} allows {limit}. Ask several times.",
            param=param,
            code="too_large",
        )


def deadline_of(given: float | None, limits: ServiceLimits) -> float:
    """Seconds that a request has. Raises ApiError where it names too many."""
    if given is not None and given > limits.max_deadline_s:
        rule = f"at most limits.max_deadline_s = {limits.max_deadline_s:g}"
        raise wrong("deadline_s", given, rule, "lower it, and ask for less")
    return min(given or limits.deadline_s, limits.max_deadline_s)


def read_options(model: ServedModel, body: Decoding) -> SamplerConfig:
    """The sampler of a request."""
    name = body.sampler or model.default_sampler
    if name not in PRESETS:
        raise wrong("sampler", name, f"one of {', '.join(PRESETS)}", nearest(name, list(PRESETS)))
    given: dict[str, Any] = dict(body.options)
    if "preset" in given:
        raise wrong("options.preset", given["preset"], "the preset is named by sampler", 'use "sampler"')
    if (found := largest(given, "options")) is not None:
        raise wrong(*found, "a whole number below 2^31", "lower it")
    for field, value in (("temperature", body.temperature), ("top_p", body.top_p)):
        draw = given.get("draw", {})
        if value is None or not isinstance(draw, dict):
            continue
        if draw.get(field, value) != value:
            raise wrong(field, value, f"the same as options.draw.{field} = {draw[field]!r}", "give one of them")
        given["draw"] = {**draw, field: value}
    try:
        sampler = read_sampler({**given, "preset": name}, "options")
    except ProsecoError as error:
        raise refused(error) from None
    check_needs(model, name, sampler)
    return sampler


def check_needs(model: ServedModel, name: str, sampler: SamplerConfig) -> None:
    """Raise ApiError where the model lacks what the sampler needs."""
    for need in missing(sampler, model.info, allow_untrained=False):
        trained = model.info.get("trained_with", "an unknown objective")
        message = f"The sampler {name} {need.what}, and {model.name} (trained with {trained}) {need.lack}."
        raise ApiError(400, f"{message} Use another sampler.", param="sampler", code="unsupported_sampler")
    reward = sampler.search.reward_name
    if reward:
        check_scorer("options.search.reward", reward)


def check_scorer(param: str, name: str) -> None:
    """Raise ApiError where a scorer is not known, or needs what a service does not have."""
    known = [n for n, kind in SCORERS.items() if not (kind().reads_rules or kind().trains)]
    if name not in known:
        raise wrong(param, name, f"one of {', '.join(known)}", nearest(name, known))


def check_label(model: ServedModel, label: float | None) -> None:
    if strange_label(label, model.info):
        classes = int(model.info.get("num_classes", 0))
        rule = f"one of 0 to {classes - 1}, the classes of {model.name}" if classes else f"{model.name} was trained without classes or values"
        raise wrong("label", label, rule, "lower it" if classes else "leave it out")


def read_pieces_of(model: ServedModel, texts: tuple[Any, ...], param: str, limits: ServiceLimits) -> Pieces:
    """Texts and holes as tokens. Refuses what the model does not know."""
    size = sum(len(text) for text in texts if isinstance(text, str))
    at_most(param, size, limits.max_prompt_chars, "characters in one prompt", "limits.max_prompt_chars")
    try:
        pieces = read_tokens(model.tokenizer, texts)
    except DataError as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="context_length_exceeded") from None
    if model.tokenizer.unknown_id in pieces:
        remedy = "leave out what it was not trained on; for positions to write, use template: a name such as [MASK] is text"
        raise wrong(param, list(texts), f"symbols that {model.name} knows", remedy)
    return pieces


def length_of(model: ServedModel, body: Decoding, pieces: Pieces, is_template: bool, limits: ServiceLimits) -> int:
    """Positions of the row of a prompt. A template is a whole row, where nothing else is asked for."""
    given = len(pieces)
    length = body.length if isinstance(body, CompletionRequest) else None
    if length is not None and body.max_tokens is not None:
        raise wrong("length", length, "it says the same as max_tokens", "give one of them")
    trained = int(model.info["length"])
    wanted = given + body.max_tokens if body.max_tokens is not None else length or (given if is_template else trained)
    if wanted < 1:
        raise wrong("template" if is_template else "length", wanted, "a row of at least one position", "ask for some to be written")
    longest = min(limits.max_length, int(model.info.get("num_positions", 0)) or limits.max_length)
    if wanted > longest:
        param = "length" if length else "max_tokens"
        text = f"A row of {wanted} positions ({given} of them given); {model.name} takes {longest}. Lower {param}."
        raise ApiError(400, text, param=param, code="context_length_exceeded")
    return wanted


def check_cost(model: ServedModel, sampler: SamplerConfig, lengths: list[int], n: int, limits: ServiceLimits) -> None:
    """Raise ApiError where a request would need more calls, or its rows more memory, than is allowed."""
    positions = 0
    for length, number in Counter(lengths).items():
        share = limits.max_cost // (length * number * n)
        try:
            plan = model.planner.plan(sampler, length, share)
        except ProsecoError as error:
            raise refused(error) from None
        except (RuntimeError, OverflowError, TypeError):  # torch's word for a size that it can not count
            text = "An option asks for more than can be counted. Lower the numbers in options."
            raise ApiError(400, text, param="options", code="too_large") from None
        positions += plan.max_calls * length * number * n
        if plan.num_bytes > limits.max_row_bytes:
            text = f"A row takes {plan.num_bytes} bytes here; limits.max_row_bytes allows {limits.max_row_bytes}."
            raise ApiError(400, f"{text} Lower options.search or options.inputs.", param="options", code="too_large")
        if positions > limits.max_cost:
            text = (
                f"This may need {positions} positions of the network ({plan.max_calls} calls for each of {number * n} "
                f"rows of {length} positions); limits.max_cost allows {limits.max_cost}. Lower options.steps, n or "
                f"max_tokens."
            )
            raise ApiError(400, text, param="options.steps", code="too_large")


def check_score(model: ServedModel, body: ScoreRequest, limits: ServiceLimits) -> None:
    """Raise ApiError where texts can not be scored."""
    at_most("texts", len(body.texts), limits.max_texts, "texts", "limits.max_texts")
    if len(set(body.scorers)) < len(body.scorers):
        raise wrong("scorers", list(body.scorers), "each once", "leave out the second")
    for name in body.scorers:
        check_scorer("scorers", name)
    trained = int(model.info["length"])
    for number, text in enumerate(body.texts):
        size = len(read_pieces_of(model, (text,), f"texts[{number}]", limits))
        if size > trained:
            message = f"texts[{number}] has {size} tokens, and {model.name} reads {trained}. Shorten it."
            raise ApiError(400, message, param=f"texts[{number}]", code="context_length_exceeded")

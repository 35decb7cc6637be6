"""Answers and streams: what became of rows, as OpenAI's clients read it, and as edits.

A stream begins with one event a text that says what its row starts from, goes on with the edits of each call, and ends
with the whole answer. Edits replayed on the start give exactly the tokens of the answer.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from cluster.service.rows import Asked
from components.samplers.contract import Edit, Sample


class Provenance(BaseModel):
    """How a text was made."""

    row_id: str
    """The sample's id and its seed, which make it again."""
    tokens: list[int]
    calls: int
    call_positions: float
    edits: int
    """Visible tokens that were replaced or masked again."""


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    calls: int


class Choice(BaseModel):
    index: int
    text: str
    finish_reason: str
    """stop: the text ended by itself; length: it fills the row."""
    proseco: Provenance


class Completion(BaseModel):
    """Answer of POST /v1/completions."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    """Version of the model: the key of its export."""
    choices: list[Choice]
    usage: Usage


class Said(BaseModel):
    role: str
    content: str


class ChatChoice(BaseModel):
    index: int
    message: Said
    finish_reason: str
    proseco: Provenance


class ChatCompletion(BaseModel):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    """Version of the model: the key of its export."""
    choices: list[ChatChoice]
    usage: Usage


class Scores(BaseModel):
    """Answer of POST /v1/score."""

    object: str = "scores"
    model: str
    scores: dict[str, list[float | None]]
    """Columns, one value a text; null where a scorer has none."""


@dataclass(frozen=True)
class Reply:
    """One request's answers, all under one id."""

    asked: Asked
    kind: str
    """text_completion or chat.completion."""
    id: str
    created: int

    def envelope(self, suffix: str = "") -> dict[str, Any]:
        return {
            "id": self.id, "object": self.kind + suffix, "created": self.created, "model": self.asked.model.name,
            "system_fingerprint": self.asked.model.version,
        }  # fmt: skip

    def start(self, index: int) -> dict[str, Any]:
        """What a row starts from."""
        model, row = self.asked.model, self.asked.job.rows[index]
        mask_id = model.tokenizer.mask_id
        pieces = [model.piece(token) if fixed else None for token, fixed in zip(row.canvas, row.fixed, strict=True)]
        return self.envelope(".start") | {
            "index": index,
            "tokens": list(row.canvas),
            "pieces": pieces,
            "mask_id": mask_id,
        }

    def edits(self, index: int, edits: tuple[Edit, ...]) -> dict[str, Any]:
        """What a call did to a row."""
        found = [
            {
                "position": e.position,
                "old": e.old,
                "new": e.new,
                "text": self.asked.model.piece(e.new),
                "confidence": e.confidence,
                "reason": e.reason,
            }
            for e in edits
        ]
        return self.envelope(".edit") | {"index": index, "call": edits[0].call, "tick": edits[0].tick, "edits": found}

    def whole(self, samples: list[Sample]) -> dict[str, Any]:
        """The answer."""
        choices, written = [], 0
        for index, sample in enumerate(samples):
            choice, number = self.choice(index, sample)
            choices.append(choice)
            written += number
        prompt, calls = self.asked.num_prompt, sum(s.calls for s in samples)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "calls": calls,
        }
        return self.envelope() | {"choices": choices, "usage": usage}

    def choice(self, index: int, sample: Sample) -> tuple[dict[str, Any], int]:
        """(one text, tokens written for it)."""
        model, row = self.asked.model, self.asked.job.rows[index]
        number, ended = model.useful(sample.tokens, row.fixed)
        text = model.tokenizer.decode(sample.tokens[self.asked.first[index] :])
        said = {"text": text} if self.kind == "text_completion" else {"message": {"role": "assistant", "content": text}}
        made = {
            "row_id": f"{sample.id:016x}-{row.seed}",
            "tokens": list(sample.tokens),
            "calls": sample.calls,
            "call_positions": sample.call_positions,
            "edits": sample.edits,
        }
        return {"index": index, **said, "finish_reason": "stop" if ended else "length", "proseco": made}, number


def reply_to(asked: Asked, kind: str) -> Reply:
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return Reply(asked, kind, f"{prefix}-{uuid.uuid4().hex}", int(time.time()))


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": at work\n\n"

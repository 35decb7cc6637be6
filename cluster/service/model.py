"""One model as the application knows it: its tokenizer and its shape. The weights are with the replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.service.backend import Backend
from cluster.service.bodies import Message
from cluster.service.errors import ApiError
from cluster.service.planning import Planner
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.models.weights import read_info, version_of
from components.shards import account
from components.store.files import exists, read_json


@dataclass(frozen=True)
class ServedModel:
    """A model and the replicas that have it."""

    name: str
    info: Mapping[str, Any]
    """Its config.json."""
    tokenizer: Tokenizer
    special: Mapping[str, Any]
    """Its tokenizer_config.json."""
    backend: Backend
    created: int
    version: str
    """Key of the export, or a digest of what it holds."""

    @property
    def default_sampler(self) -> str:
        return "proseco" if self.info.get("visible_supervision") else "mdlm"

    @cached_property
    def planner(self) -> Planner:
        return Planner(self.info, self.tokenizer)

    @cached_property
    def _pieces(self) -> dict[int, str | None]:
        return {self.tokenizer.mask_id: None}

    def piece(self, token_id: int) -> str | None:
        """A token as text, None for the mask; what is no part of a text is empty."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self.tokenizer.decode([token_id], stop_at_end=False)
        return self._pieces[token_id]

    def useful(self, tokens: tuple[int, ...], fixed: tuple[bool, ...]) -> tuple[int, bool]:
        """(positions that were written and are in the text, did the text end there)."""
        return useful(self.tokenizer, tokens, fixed)

    def chat(self, messages: tuple[Message, ...]) -> str:
        """A conversation as the model's chat template writes it.

        Raises:
            ApiError: it has none, or a message can not be written by it.
        """
        template = self.special.get("chat_template")
        if not isinstance(template, str):
            remedy = (
                "Use POST /v1/completions with a prompt, or export it with a chat_template in tokenizer_config.json."
            )
            raise ApiError(
                400, f"The model {self.name} has no chat template. {remedy}", param="messages", code="no_chat_template"
            )
        names = [t for t in self.tokenizer.inner.get_added_tokens_decoder().values() if t.special]
        for number, message in enumerate(messages):
            hidden = next((t.content for t in names if t.content in message.content), None)
            if hidden is not None:
                text = f"messages.{number}.content holds {hidden}, a sign of this model's own. Leave it out."
                raise ApiError(400, text, param=f"messages.{number}.content", code="invalid_value")
        known = {k: v for k, v in self.special.items() if k.endswith("_token") and isinstance(v, str)}
        turns = [{"role": m.role, "content": m.content} for m in messages]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = give_up
        try:
            return environment.from_string(template).render(messages=turns, add_generation_prompt=True, **known)
        except Exception as error:  # a template is somebody's program, and raises what it likes
            text = f"The chat template of {self.name} does not take these messages: {error}. See its roles."
            raise ApiError(400, text, param="messages", code="invalid_value") from None


def useful(tokenizer: Tokenizer, tokens: tuple[int, ...], fixed: tuple[bool, ...]) -> tuple[int, bool]:
    """(positions that were written and are in the text, did the text end there); see ``account.useful``."""
    number, ended = account.useful(np.array([tokens]), np.array([fixed]), tokenizer.end_id, tokenizer.pad_id)
    return int(number[0]), bool(ended[0])


def give_up(message: str) -> None:
    """What chat templates call where they can not go on."""
    raise TemplateError(message)


def open_model(name: str, folder: Path, backend: Backend, created: int) -> ServedModel:
    """The model of an exported folder, without its weights."""
    path = folder / "tokenizer_config.json"
    special = read_json(path) if exists(path) else {}
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return ServedModel(
        name, read_info(folder), tokenizer, special if isinstance(special, dict) else {}, backend, created, version_of(folder)
    )

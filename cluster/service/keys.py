"""API keys: who may ask, and how much.

The file holds digests only: ``sha256`` is that of the key, e.g. ``printf %s "$KEY" | sha256sum``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from cluster.service.errors import ApiError, too_many
from components.errors import ConfigError, Problem
from components.options import Count, options, parse
from components.store.files import read_text


@options
class ApiKey:
    """One line of the file."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Whose it is."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Digest of the key."""
    requests_per_minute: Count = 600
    """Requests in any minute, after a start with as many."""
    samples_per_minute: Count = 6000
    """Rows in any minute, likewise."""
    max_concurrent: Count = 32
    """Requests at work at once."""


class Bucket:
    """An allowance that refills evenly over a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]):
        self.per_minute, self.clock = per_minute, clock
        self.left, self.at = float(per_minute), clock()

    def take(self, number: int) -> float:
        """Take some; returns 0, or in how many seconds there will be enough. Nothing is taken then."""
        now = self.clock()
        self.left = min(self.per_minute, self.left + (now - self.at) * self.per_minute / 60)
        self.at = now
        if self.left >= number:
            self.left -= number
            return 0.0
        return (number - self.left) * 60 / self.per_minute


class Account:
    """What one key has used."""

    def __init__(self, key: ApiKey, clock: Callable[[], float] = time.monotonic):
        self.key, self.at_work = key, 0
        self.requests, self.samples = Bucket(key.requests_per_minute, clock), Bucket(key.samples_per_minute, clock)

    def enter(self) -> None:
        """Count a request. Raises ApiError where it is one too many."""
        if self.at_work >= self.key.max_concurrent:
            raise too_many(
                f"{self.key.name} has {self.at_work} requests at work, and may have {self.key.max_concurrent}.", 1
            )
        if (after := self.requests.take(1)) > 0:
            raise too_many(f"{self.key.name} may ask {self.key.requests_per_minute} times a minute.", math.ceil(after))
        self.at_work += 1

    def leave(self) -> None:
        self.at_work -= 1

    def charge(self, rows: int) -> None:
        """Count rows. Raises ApiError where they are too many."""
        if rows > self.key.samples_per_minute:
            text = (
                f"{rows} rows at once; {self.key.name} may have {self.key.samples_per_minute} a minute. Ask for fewer."
            )
            raise ApiError(400, text, param="n", code="too_large")
        if (after := self.samples.take(rows)) > 0:
            raise too_many(f"{self.key.name} may have {self.key.samples_per_minute} rows a minute.", math.ceil(after))


class Keys:
    """The keys that a service knows."""

    def __init__(self, keys: Sequence[ApiKey], clock: Callable[[], float] = time.monotonic):
        self.accounts = [Account(key, clock) for key in keys]

    def account(self, authorization: str) -> Account:
        """Whose key a header ``Authorization: Bearer KEY`` holds. Raises ApiError where nobody's.

        Every known digest is compared, in constant time, so that time says nothing about any.
        """
        kind, _, given = authorization.partition(" ")
        digest = hashlib.sha256(given.strip().encode()).hexdigest()
        found = [account for account in self.accounts if hmac.compare_digest(account.key.sha256, digest)]
        if kind.lower() != "bearer" or not found:
            text = "This service asks for a key. Send the header 'Authorization: Bearer KEY' with one that it knows."
            raise ApiError(
                401, text, kind="authentication_error", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        return found[0]


def read_keys(path: Path) -> Keys:
    """The keys of a YAML list, or of JSON lines.

    Raises:
        ConfigError: the file can not be read, holds no key, or a key breaks a rule.
    """
    try:
        text = read_text(path)
        plain = (
            [json.loads(line) for line in text.splitlines() if line.strip()] if is_lines(text) else yaml.safe_load(text)
        )
    except yaml.YAMLError as error:  # which quotes the lines, and what stands there may be a key
        line = f" at line {error.problem_mark.line + 1}" if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else ""
        raise ConfigError(f"The file of keys {path} is not YAML{line}. Write e.g. [{{name: anna, sha256: ...}}].") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The file of keys {path} can not be read: {error}") from None
    if not isinstance(plain, list) or not plain:
        raise ConfigError(f"The file of keys {path} holds no list of keys. Write e.g. [{{name: anna, sha256: ...}}].")
    keys = [read_key(entry, f"keys[{number}]") for number, entry in enumerate(plain)]
    for field in ("name", "sha256"):
        values: list[Any] = [getattr(key, field) for key in keys]
        if len(set(values)) < len(values):
            raise ConfigError(f"Two keys of {path} have the same {field}. Give each its own.")
    return Keys(keys)


def read_key(entry: Any, path: str) -> ApiKey:
    """One entry. Raises ConfigError, without what stands there: a key that was written in place of its digest is a secret."""
    try:
        return parse(ApiKey, entry, path)
    except ConfigError as error:
        first = {p.path: without_value(p) for p in reversed(error.problems)}
        raise ConfigError([*reversed(first.values())]) from None


def without_value(problem: Problem) -> Problem:
    """The problem without what stands there, be it a value or a name."""
    entry, _, name = problem.path.partition(".")
    known = name in {f.name for f in dataclasses.fields(ApiKey)}
    found = dataclasses.replace(problem, path=problem.path if known else entry, value="(not shown)")
    if name != "sha256":
        return found
    rule = "the SHA-256 of the key, 64 hex digits, and never the key itself"
    return dataclasses.replace(found, rule=rule, remedy="printf %s \"$KEY\" | sha256sum")


def is_lines(text: str) -> bool:
    """JSON lines, and not YAML?"""
    return text.lstrip().startswith("{")

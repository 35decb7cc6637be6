"""Canonical JSON of plain values and its hash: the identity of a stage.

Dataclasses carry the name of their type, so two parts with equal fields differ. A field that says where something
lies (``components.options.Location``) is left out: what lies there has a ``Content``. What has no canonical form
(callables, objects with a default repr, NaN) is refused.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.options import identifying
from components.store.content import Content, changes

MAX_SHOWN = 200
"""Characters of a value in a reason."""


def canonical(value: Any) -> Any:
    """A structure of dicts, lists, strings and numbers that says all of ``value``.

    Raises:
        TypeError: a value has no canonical form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {name: canonical(getattr(value, name)) for name in identifying(type(value))}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no canonical form; use a finite number")
        return value
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    if isinstance(value, Path):
        raise TypeError(f"the path {value} must not decide an identity; put it into the runtime section")
    raise TypeError(f"{value!r} of type {type(value).__name__} has no canonical form")


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two canonical structures differ, one line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("type") == new.get("type") == Content.__name__:
            return [f"{path}: {line}" for line in changes(old, new)]
        lines = []
        for key in sorted(old.keys() | new.keys()):
            below = f"{path}.{key}" if path else key
            if key not in new:
                lines.append(f"{below}: {shown(old[key])} -> gone")
            elif key not in old:
                lines.append(f"{below}: new, {shown(new[key])}")
            else:
                lines += differences(old[key], new[key], below)
        return lines
    return [] if old == new else [f"{path}: {shown(old)} -> {shown(new)}"]


def shown(value: Any) -> str:
    """A value on one line."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."

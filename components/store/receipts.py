"""Receipts: what says that a part of an unfinished stage is done, and how many rows it has.

A receipt is sealed like a manifest. One that was cut off, was edited or is something else says nothing, and its part is
made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.store.artifact import sealed
from components.store.files import create_text, publish_text, read_json


def text_of(plain: Mapping[str, Any]) -> str:
    whole = json.loads(json.dumps(plain))
    return json.dumps(whole | {"seal": sealed(whole)})


def publish_receipt(path: Path, plain: Mapping[str, Any]) -> None:
    """Write a receipt, in place of one that is there."""
    publish_text(path, text_of(plain))


def create_receipt(path: Path, plain: Mapping[str, Any]) -> bool:
    """Write a receipt where there is none. Returns whether it is there; False where another file was."""
    return create_text(path, text_of(plain))


def read_receipt(path: Path, **kinds: type) -> dict[str, Any] | None:
    """What a receipt says, or None where there is none, or it was changed since it was written, or a field is missing or
    of another kind."""
    found = read_json(path)
    if not isinstance(found, dict) or found.pop("seal", None) != sealed(found):
        return None
    return found if all(isinstance(found.get(name), kind) for name, kind in kinds.items()) else None

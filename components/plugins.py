"""Plug-ins: a name, a frozen config, the place of the code, what it needs, and its paper.

Each family (objectives, samplers, scorers, corpora, tokenizers) keeps one explicit dict of these in
its ``__init__.py``. Reading the dict imports no torch: ``build`` is the place of the code as
``"module:attribute"`` and is imported only when the plug-in is used, so planning and listing are
instant.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.errors import ConfigError


@dataclass(frozen=True)
class Plugin:
    """One entry of a family."""

    config: type
    """Frozen dataclass of its options; its defaults are the defaults."""
    build: str
    """Where the code is: ``"package.module:attribute"``."""
    summary: str
    paper: str = ""
    needs: tuple[str, ...] = ()
    """Heads, inputs or kinds of training without which it must not run."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options that a preset changes from the config's own defaults."""

    def load(self) -> Any:
        """Import and return the code."""
        module, attribute = self.build.split(":")
        return getattr(importlib.import_module(module), attribute)


def lookup(family: Mapping[str, Any], name: str, kind: str) -> Any:
    """``family[name]``, or an error that offers the nearest names.

    Raises:
        ConfigError: there is no such name.
    """
    if name in family:
        return family[name]
    near = difflib.get_close_matches(name, family, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"There is no {kind} named {name!r}. {hint}Known: {', '.join(sorted(family))}.")

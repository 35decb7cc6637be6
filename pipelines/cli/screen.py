"""What all commands share: the console, errors in words, and the arguments of a run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

from components.errors import ProsecoError
from components.store.files import at
from components.store.trouble import named_files

out = Console(highlight=False, soft_wrap=True)
STATES = {"fresh": "green", "missing": "yellow", "partial": "yellow", "stale": "magenta", "damaged": "red"}


class Place(click.ParamType[Path]):
    """A path, or a URL of a file system of fsspec, that some file can have."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        text = str(value)
        if "\0" in text or max(map(len, os.fsencode(text).split(b"/"))) > MAX_NAME_BYTES or len(text) > MAX_PATH:
            self.fail(f"{text[:40]!r}: no file has such a name; each part has at most {MAX_NAME_BYTES} bytes. Give another.", param, ctx)
        try:
            return at(text)
        except (ValueError, ImportError) as error:
            self.fail(f"{text[:40]!r}: {error}. Give a path, or a URL whose file system is installed.", param, ctx)


MAX_NAME_BYTES = 255
MAX_PATH = 4000
PLACE = Place()


def in_words(command: Callable[..., None]) -> Callable[..., None]:
    """Print a user's error as its message alone and exit with 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        # What ends a job on a cluster closes what it holds, just as Ctrl-C does.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with named_files():
                command(*args, **kwargs)
        except ProsecoError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped; the same command resumes", err=True)
            sys.exit(130)

    return wrapped


def run_arguments(command: Callable[..., None]) -> Callable[..., None]:
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.argument("run", type=PLACE)(command)


def load(run: Path, overrides: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The typed run and its stages."""
    from pipelines.config.load import load_run
    from pipelines.workflows import build

    config = load_run(run, list(overrides))
    return config, build(config)

"""Follows the journal of a running stage: the bar moves, and its numbers reach MLflow while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import ProsecoError
from components.store.files import exists, size_of
from components.tracking import written_metrics
from pipelines.graph.short import in_short
from pipelines.graph.stage import Progress

POLL_S = 0.5

Send = Callable[[list[dict[str, float]]], None]


@contextmanager
def following(journal: Path, progress: Progress, send: Send) -> Iterator[None]:
    """Inside, every new row of the journal is shown and sent; on leaving, in whatever way, what is left of them is.

    Args:
        send: is given each row once, in the order in which they were written; those of an earlier execution that
            this one resumes come first.
    """
    stop, sent, seen = threading.Event(), 0, -1

    def step() -> None:
        nonlocal sent, seen
        size = size_of(journal) if exists(journal) else -1
        if size == seen:
            return
        rows = written_metrics(journal)[sent:]
        seen = size
        if rows:
            send(rows)
            sent += len(rows)
            progress.note(in_short(rows))
            progress.to(int(rows[-1]["step"]))

    def follow() -> None:
        while not stop.wait(POLL_S):
            with suppress(OSError, ProsecoError):  # the next time, or where the stage ends
                step()

    thread = threading.Thread(target=follow, daemon=True, name="follow")
    thread.start()
    try:
        yield
    except BaseException:
        stop.set()
        thread.join()
        with suppress(OSError, ProsecoError):  # what ended the stage is told instead
            step()
        raise
    stop.set()
    thread.join()
    step()

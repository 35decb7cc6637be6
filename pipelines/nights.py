"""A night: make the run, hold its model against the champion, and write down what was decided. Once for each date.

One night of a name is at work at a time. The decision is one entry of the history below the root, and everything else
(aliases in MLflow, the page, services that follow) is made after it and can be made again.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import date as Date
from pathlib import Path

from cluster.environment import prepare
from components.errors import StoreError
from components.store.artifact import read_manifest
from components.store.files import at, publish_text
from components.store.history import Decision, Entry, History, read_history
from components.store.lease import Lease
from components.store.root import mark_root, require_folder
from pipelines.config.nightly import NightlyConfig
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.night_page import night_page
from pipelines.workflows import nightly as workflow

Clock = Callable[[], datetime]


def now() -> datetime:
    """By this machine's clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Night:
    """What became of a date."""

    entry: Entry | None
    """None where another night is at work and this one is left to it."""
    made: bool
    """Was it decided just now?"""
    history: History
    words: str
    page: Path | None = None


def night(nightly: NightlyConfig, screen: Screen, clock: Clock = now) -> Night:
    """Make the night of ``nightly.date``, where it was not made yet.

    Raises:
        ProsecoError: it could not be made. Nothing was decided; the same command goes on from what is there.
    """
    root = at(nightly.runtime.root).absolute()
    require_folder(root)
    history = read_history(root, nightly.name)
    if (entry := history.night(nightly.date)) is not None:
        return again(nightly, root, history, entry, screen)
    mark_root(root)
    purpose = f"proseco nightly {nightly.name}, the night of {nightly.date}"
    lease = Lease(root, f"nightly-{nightly.name}", purpose, nightly.runtime.lease_expiry_s)
    if nightly.overlap == "wait":
        lease.wait(None, screen.say)
    elif (holder := lease.take()) is not None:
        return Night(None, False, history, f"{nightly.date} is left to {holder}")
    with lease:
        history = read_history(root, nightly.name)
        if (entry := history.night(nightly.date)) is not None:
            return again(nightly, root, history, entry, screen)
        entry = decide(nightly, root, history, screen, clock)
        lease.fence.check()
        history = history.add(entry)
        return Night(entry, True, history, in_words(entry), publish(nightly, root, history, entry, screen))


def again(nightly: NightlyConfig, root: Path, history: History, entry: Entry, screen: Screen) -> Night:
    """A night that was decided before; what is made after a decision is made again, where it was lost."""
    stands = "" if entry.date == nightly.date else f"{nightly.date} is covered by "
    page = publish(nightly, root, history, entry, screen)
    return Night(entry, False, history, f"nothing to do: {stands}{in_words(entry)}", page)


def decide(nightly: NightlyConfig, root: Path, history: History, screen: Screen, clock: Clock) -> Entry:
    """What becomes of the night; makes all that it needs."""
    last = history.nights[-1] if history.nights else None
    missed = (Date.fromisoformat(nightly.date) - Date.fromisoformat(last.date)).days - 1 if last else 0
    data = workflow.data_of(nightly)

    def entry(decision: Decision, reason: str, candidate: str = "", verdict: str = "") -> Entry:
        at = clock().isoformat(timespec="seconds")
        return Entry(nightly.date, decision, candidate, history.champion, data, missed, reason, verdict, at, platform.node())

    if last is not None and last.data == data:
        return entry("unchanged", "corpora and run are those of the night before")
    stages = workflow.build(nightly)
    execute(f"{nightly.name} {nightly.date}", list(stages.values()), nightly.runtime, screen)
    candidate = workflow.candidate_of(nightly, stages).key
    if "gate" not in stages:
        return entry("first", "there was nothing to hold it against", candidate)
    manifest = read_manifest(stages["gate"].folder(root))
    assert manifest is not None, "it was made just now"
    wins, why, verdict = bool(manifest.info["wins"]), str(manifest.info["why"]), stages["gate"].key
    if candidate in history.left:
        wins, why = False, "it was champion before, and was left by a step back"
    return entry("promoted" if wins else "kept", why, candidate, verdict)


def roll_back(nightly: NightlyConfig, reason: str, screen: Screen, clock: Clock = now) -> Night:
    """Make the champion before the champion again. A night that is at work then decides nothing.

    Raises:
        StoreError: there is none before.
    """
    root = at(nightly.runtime.root).absolute()
    history = read_history(root, nightly.name)
    if not history.previous:
        raise StoreError(
            f"{history.folder} knows {len(history.champions)} champions, so there is none to go back to. "
            f"Nothing was changed."
        )
    when = clock()
    entry = Entry(
        when.date().isoformat(), "rolled back", candidate=history.champion, before=history.champion, reason=reason,
        at=when.isoformat(timespec="seconds"), by=platform.node(),
    )  # fmt: skip
    history = history.add(entry)
    return Night(entry, True, history, in_words(entry, history), publish(nightly, root, history, entry, screen))


def in_words(entry: Entry, history: History | None = None) -> str:
    """An entry in a line."""
    missed = f", which stands for {entry.missed} missed ones, too" if entry.missed > 0 else ""
    if history is not None:
        return f"rolled back from {entry.candidate} to {history.champion}"
    what = {
        "first": f"{entry.candidate} is the first champion",
        "promoted": f"{entry.candidate} is champion in place of {entry.before}",
        "kept": f"{entry.before} stays champion",
        "unchanged": f"nothing new to learn, {entry.before} stays champion",
    }
    return f"the night of {entry.date}{missed}: {what[entry.decision]} ({entry.reason})"


def publish(nightly: NightlyConfig, root: Path, history: History, entry: Entry, screen: Screen) -> Path:
    """The page of a night, and MLflow's registry after the history."""
    page = history.folder / f"{'rollback-' if entry.decision == 'rolled back' else ''}{entry.date}.html"
    publish_text(page, night_page(nightly.name, history, entry, root))
    if nightly.runtime.tracking_uri != "none":
        prepare()
        from cluster.mlflow_registry import register

        register(nightly.runtime.tracking_uri, root, nightly.name, history, screen.say)
    return page

"""Commands about runs that are made every night: nightly, rollback."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import rich_click as click

from components.errors import ConfigError
from pipelines.cli.screen import in_words, run_arguments


@click.command()
@run_arguments
@click.option("--date", default="", metavar="YYYY-MM-DD", help="The night; today in UTC where not given.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def nightly(run: Path, overrides: tuple[str, ...], date: str, quiet: bool, as_json: bool) -> None:
    """Make a run once for a date, and let its model take over if it wins.

    Starts from the champion, compares both on the same rows, and writes down what was decided. Twice for one date does
    nothing the second time; nights that were missed are made up for by the next one.
    """
    from pipelines.graph.progress import Screen
    from pipelines.nights import night

    tell(night(read(run, overrides, date), Screen(quiet or as_json)), as_json)


@click.command()
@run_arguments
@click.option("--reason", required=True, help="For whoever reads the history.")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def rollback(run: Path, overrides: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Make the champion before the champion again.

    The one that is left is never promoted again. A night that is at work meanwhile decides nothing.
    """
    from pipelines.graph.progress import Screen
    from pipelines.nights import roll_back

    tell(roll_back(read(run, overrides, ""), reason, Screen(True)), as_json)


def read(run: Path, overrides: tuple[str, ...], date: str) -> Any:
    """The nightly run of a date."""
    from pipelines.config.load import load_run, read_yaml
    from pipelines.config.nightly import NightlyConfig

    if (said := read_yaml(run).get("workflow", "")) != NightlyConfig.workflow:
        raise ConfigError(f"{run} says workflow: {said or 'nothing'}. Only one that says workflow: nightly has nights.")
    return load_run(run, [*overrides, *([f"date={date}"] if date else [])])


def tell(night: Any, as_json: bool) -> None:
    """What became of it."""
    if as_json:
        found = {
            "made": night.made, "entry": night.entry and dataclasses.asdict(night.entry), "champion": night.history.champion,
            "previous": night.history.previous, "page": night.page and str(night.page),
        }  # fmt: skip
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(night.words)
    if night.page is not None:
        click.echo(f"page: {night.page}")

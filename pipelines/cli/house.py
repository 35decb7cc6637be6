"""Commands about the machine, the roots and what there is: list, doctor, bench, gc."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.text import Text

from components.errors import StoreError
from components.store.files import at, is_local
from pipelines.cli.screen import PLACE, in_words, load, out, run_arguments

if TYPE_CHECKING:
    from pipelines.doctor import Check

SIZES = ["nano", "micro", "mini", "small", "medium", "large"]


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a run instead, for editors.")
@click.option(
    "--markdown", type=PLACE, help="Write pages with every option into this folder instead."
)
@in_words
def list_plugins(as_json: bool, schema: bool, markdown: Path | None) -> None:
    """Name every sampler preset, sampler part, objective, scorer, schedule and corpus, with its paper and options."""
    from components.options import json_schema
    from pipelines.catalogue import catalogue
    from pipelines.config.schema import RunConfig
    from pipelines.tables import pages

    if schema:
        click.echo(json.dumps(json_schema(RunConfig), indent=1))
        return
    if markdown is not None:
        made(markdown)
        for name, text in pages().items():
            (markdown / name).write_text(text, encoding="utf-8")
            click.echo(f"wrote {markdown / name}")
        return
    found = catalogue()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for family, entries in found.items():
        out.print(f"\n[b]{family}[/b]")
        groups = entries if family == "parts" else {"": entries}
        for group, below in groups.items():
            for name, entry in below.items():
                label = "/".join(x for x in (group, name) if x)
                out.print(
                    f"  [cyan]{label}[/]  {entry['summary']}" + (f"\n      {entry['paper']}" if entry["paper"] else "")
                )


@click.command()
@click.argument("run", type=PLACE)
@click.argument("data", default="")
@click.option("--kind", type=click.Choice(["text", "pairs", "molecules", "puzzle"]), help="What it is; guessed where not given.")
@click.option("--text-field", default="", help="Of records: the text to learn.")
@click.option("--prompt-field", default="", help="What comes before it and is kept clean.")
@click.option("--label-field", default="", help="A class, a whole number from 0.")
@click.option("--value-field", default="", help="A property, a number, by which samples are asked for and guided.")
@click.option("--document", type=click.Choice(["file", "line", "paragraph"]), help="Of plain text: what is one document.")
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True, help="For the trainings, on this machine.")
@click.option("--size", type=click.Choice(SIZES), help="Of the network; the largest for that time where not given.")
@in_words
def new(run: Path, data: str, kind: str | None, minutes: float, size: str | None, **asked: str | None) -> None:
    """Look into data, and write a run for it with the reason of every number.

    RUN is the YAML file to write. DATA is a file (text, JSON lines, CSV, Parquet, perhaps .gz), a folder or a glob of
    them, or the name of a corpus that is made here, such as [b]sudoku[/b] or [b]patches[/b]. Without it you are asked.
    """
    from pipelines.new.command import new as command

    data = data or click.prompt("File, folder, or a corpus that is made here (latin_square, sudoku, coding, addition, patches)")
    for line in command(run, data, {k: v for k, v in asked.items() if v}, kind or "", minutes, size or ""):
        click.echo(line)


@click.command()
@click.argument("path", default="")
@in_words
def options(path: str) -> None:
    """Say what an option means, what it may be, its default and its paper.

    PATH is that of the option in a run's YAML or on a command line, or the end of it: [b]train.base.optimizer.lr[/b],
    [b]corrector.passes[/b], [b]rows[/b]. Without it the sections of a run are named. All are in docs/reference.md.
    """
    from pipelines.meaning import told

    for line in told(path):
        out.print(line, markup=False, soft_wrap=True)


def made(folder: Path) -> None:
    """Make a folder where there is none. Raises StoreError where it can not be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} can not be made a folder ({error.strerror}). Name another one.") from None


@click.command()
@click.argument("run", type=PLACE, required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--root", type=PLACE, metavar="FOLDER", help="Of the results; that of the run where not given, or runs.")
@click.option("--keys", type=PLACE, help="The file of a service's keys, to look at its mode.")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def doctor(run: Path | None, overrides: tuple[str, ...], root: Path | None, keys: Path | None, as_json: bool) -> None:
    """Check versions, CPUs, memory, disk, the root and files of tokens, and say how to mend what is wrong.

    With a RUN also what its stages need that are not made yet: CPUs, memory and disk by estimates, where MLflow's tables
    lie, and on a cluster the time to stop.
    """
    from pipelines.cli.runs import lines_of

    found = examined(run, overrides, root, keys)
    if as_json:
        click.echo(json.dumps([vars(c) for c in found], indent=1))
    else:
        for c in found:
            name, *more = lines_of([c])
            out.print("[green]ok  [/]" if c.ok else "[red]bad [/]", Text(name))
            for line in () if c.ok else more:
                out.print(line, markup=False)
    if not all(c.ok for c in found):
        sys.exit(1)


def examined(run: Path | None, overrides: tuple[str, ...], root: Path | None, keys: Path | None) -> list[Check]:
    """What doctor looks at."""
    from pipelines.doctor import examine, network_file_system
    from pipelines.graph.plan import plan
    from pipelines.needs import needs, stopping

    if run is None:
        root = root or at("runs")
        tables = [network_file_system(root)] if is_local(root) else []
        return [*examine(root, keys), *tables, *stopping([], root)]
    config, stages = load(run, overrides)
    root = root or at(config.runtime.root)
    return [*examine(root, keys), *needs(plan(list(stages.values()), root), config.runtime, root)]


@click.command()
@run_arguments
@click.option("--fault", "names", multiple=True, metavar="NAME", help="Only this one; once for each. All that fit the run where not given.")
@click.option("--folder", type=PLACE, default=Path("runs/chaos"), show_default=True, help="For the roots, logs and the report.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@in_words
def chaos(run: Path, overrides: tuple[str, ...], names: tuple[str, ...], folder: Path, seed: int) -> None:
    """Make a run again and again under faults, and compare with an undisturbed one.

    On the executor and cluster that the run names; only its own processes are killed. Ends with 1 where a fault is not borne.
    """
    from components.plugins import lookup
    from components.store.files import publish_text
    from pipelines.chaos.faults import FAULTS
    from pipelines.chaos.verdict import as_json, as_page
    from pipelines.chaos.verdict import chaos as command

    for name in names:
        lookup(FAULTS, name, "fault")
    made(folder)
    verdicts = []
    for verdict in command(run, overrides, names or list(FAULTS), folder, seed, load):
        verdicts.append(verdict)
        colour, word = {True: ("green", "passed"), False: ("red", "FAILED"), None: ("yellow", "left out")}[verdict.passed]
        told = f"{verdict.done}; recovered {verdict.recovered} in {verdict.seconds:.0f} s" if verdict.recovered else verdict.done
        out.print(f"[{colour}]{word:<8}[/] {verdict.fault}: {verdict.what}; {told}")
        for problem in verdict.problems:
            out.print(f"         {problem}", markup=False)
        publish_text(folder / "chaos.json", json.dumps(as_json(verdicts), indent=1))
        publish_text(folder / "chaos.html", as_page(run.stem, verdicts))
    click.echo(f"report: {folder / 'chaos.html'}")
    if any(v.passed is False for v in verdicts):
        sys.exit(1)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[NAME]... [OPTIONS]")
@in_words
def bench(arguments: tuple[str, ...]) -> None:
    """Time this checkout's ways against the plain published ones, side by side; --help lists the names.

    Ends with 1 where something became worse than in the file of [b]--compare[/b].
    """
    from pipelines.bench import run

    sys.exit(run(arguments))


@click.command()
@click.argument("stage", type=PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@click.option("--html", "page", type=PLACE, metavar="FILE", help="Write a page with a picture into this file instead.")
@in_words
def lineage(stage: Path, as_json: bool, page: Path | None) -> None:
    """Tell what a result was made of, from the files in its root alone.

    STAGE is the folder of any finished stage: an export, a table of samples, a report.
    """
    from components.store.files import publish_text
    from pipelines import lineage as module

    made = module.lineage(stage)
    if as_json:
        click.echo(json.dumps(module.as_json(made), indent=1))
        return
    if page is not None:
        publish_text(page, module.as_html(made))
        click.echo(f"wrote {page}")
        return
    for one in made:
        inputs = ", ".join(f"{role} {key}" for role, key in one.inputs.items())
        out.print(f"[cyan]{one.label}[/]  {one.key}  {one.finished}" + (f"\n      from {inputs}" if inputs else ""))


@click.command()
@click.option(
    "--root", type=PLACE, metavar="FOLDER", help="Root to look in; that of the kept runs where not given, or runs."
)
@click.option(
    "--keep",
    "runs",
    multiple=True,
    metavar="'RUN [KEY=VALUE]...'",
    help="A run whose stages must stay, in quotes with the overrides that it was run with; once for each run.",
)
@click.option("--corrupt", is_flag=True, help="Only stages whose files are not those of their manifest.")
@click.option("--delete", is_flag=True, help="Really delete; without it nothing is.")
@in_words
def gc(root: Path | None, runs: tuple[str, ...], corrupt: bool, delete: bool) -> None:
    """Find stages that no run needs, or that are damaged; a dry run unless told to delete.

    Overrides decide what a run's stages are, so a run is kept with those that it was run with:
    [b]proseco gc --keep "configs/runs/demo.yaml train.base.steps=100" --keep configs/runs/text.yaml[/b]

    Only stage folders that say that they are proseco's are deleted, in a root that says so; links are not followed.
    """
    from pipelines.graph.gc import collect

    for line in collect(root, runs, corrupt, delete):
        click.echo(line)

"""The command ``proseco``."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Column, Table

from components.errors import ProsecoError

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.SHOW_ARGUMENTS = True

out = Console(highlight=False, soft_wrap=True)
STATES = {"fresh": "green", "missing": "yellow", "partial": "yellow", "stale": "magenta", "damaged": "red"}


def mended_by_user(command: Callable[..., None]) -> Callable[..., None]:
    """Print a user's error as its message alone and exit with 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        # What ends a job on a cluster closes what it holds, just as Ctrl-C does.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            command(*args, **kwargs)
        except ProsecoError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped; the same command resumes", err=True)
            sys.exit(130)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="proseco")
def main() -> None:
    """Train, sample and serve self-correcting masked diffusion language models.

    A run is a YAML file; any of its values can be changed on the command line as [b]path.to.value=new[/b].
    Try: [b]proseco plan configs/runs/demo.yaml[/b]
    """


def run_arguments(command: Callable[..., None]) -> Callable[..., None]:
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.argument("run", type=click.Path(path_type=Path))(command)


def load(run: Path, overrides: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The typed run and its stages."""
    from pipelines.config import load_run
    from pipelines.workflows import build

    config = load_run(run, list(overrides))
    return config, build(config)


@main.command()
@run_arguments
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@mended_by_user
def plan(run: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what a run would do, and why, before anything is started."""
    from pipelines.plan import plan as make_plan

    config, stages = load(run, overrides)
    findings = make_plan(list(stages.values()), Path(config.runtime.root))
    if as_json:
        rows = [{"stage": f.stage.label, "key": f.stage.key, "state": f.state, "reasons": f.reasons} for f in findings]
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table("stage", "state", "key", "why", box=None, pad_edge=False)
    for f in findings:
        table.add_row(f.stage.label, f"[{STATES[f.state]}]{f.state}[/]", f.stage.key, "\n".join(f.reasons))
    out.print(table)
    todo = sum(f.state != "fresh" for f in findings)
    out.print(f"{todo} of {len(findings)} stages to do" if todo else "everything is fresh; a run would do nothing")


@main.command()
@run_arguments
@click.option("--quiet", is_flag=True, help="No progress.")
@mended_by_user
def run(run: Path, overrides: tuple[str, ...], quiet: bool) -> None:
    """Run a workflow, or resume it; what is fresh is left alone."""
    from pipelines.progress import Screen
    from pipelines.runner import execute

    config, stages = load(run, overrides)
    findings = execute(config.name, list(stages.values()), config.runtime, Screen(quiet))
    made = sum(f.state != "fresh" for f in findings)
    root = Path(config.runtime.root)
    click.echo(
        f"{made} stages made, {len(findings) - made} were fresh"
        if made
        else f"nothing to do: all {len(findings)} stages are fresh"
    )
    last = list(stages.values())[-1]
    if (last.folder(root) / "report.html").exists():
        click.echo(f"report: {last.folder(root) / 'report.html'}")


@main.command()
@run_arguments
@click.option("--stage", "label", default="", help="Only this stage, e.g. [b]train/base[/b].")
@mended_by_user
def explain(run: Path, overrides: tuple[str, ...], label: str) -> None:
    """Show what distinguishes each stage from the nearest one that was made."""
    from components.plugins import lookup
    from pipelines.plan import nearest

    config, stages = load(run, overrides)
    chosen = {label: lookup(stages, label, "stage")} if label else stages
    root = Path(config.runtime.root)
    for name, stage in chosen.items():
        near = nearest(stage, root)
        out.print(f"[b]{name}[/b]  {stage.key}  {stage.folder(root)}", soft_wrap=True)
        if label:
            out.print_json(data=stage.identity)
        if near is None:
            out.print("  no other stage of this label was made")
        else:
            out.print(f"  against {near[0]}:")
            for line in near[1]:
                out.print(f"    {line}", markup=False)


@main.command()
@run_arguments
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@mended_by_user
def show(run: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the state of a run and its results."""
    from components.store.artifact import read_manifest
    from pipelines.plan import plan as make_plan

    config, stages = load(run, overrides)
    root = Path(config.runtime.root)
    findings = make_plan(list(stages.values()), root)
    results: list[dict[str, Any]] = []
    for label in ("evaluate", "compare"):
        if label in stages and (manifest := read_manifest(stages[label].folder(root))):
            results = list(manifest.info["results"])
    if as_json:
        rows = [
            {
                "stage": f.stage.label,
                "key": f.stage.key,
                "state": f.state,
                "seconds": f.seconds,
                "folder": str(f.stage.folder(root)),
            }
            for f in findings
        ]
        click.echo(json.dumps({"run": config.name, "stages": rows, "results": results}, indent=1))
        return
    table = Table("stage", "state", "key", "seconds", box=None, pad_edge=False)
    for f in findings:
        table.add_row(
            f.stage.label,
            f"[{STATES[f.state]}]{f.state}[/]",
            f.stage.key,
            "" if f.seconds is None else f"{f.seconds:.1f}",
        )
    out.print(table)
    if results:
        out.print(results_table(results))
    report = list(stages.values())[-1].folder(root) / "report.html"
    if report.exists():
        out.print(f"report: {report}")


def results_table(results: list[dict[str, Any]]) -> Table:
    table = Table(
        Column("sampler", overflow="fold"),
        "model",
        "steps",
        "calls",
        results[0]["metric"],
        "95% interval",
        "unique",
        "entropy",
        "edits",
        box=None,
        pad_edge=False,
    )
    for r in results:
        interval = f"{r['quality_low']:.3f} .. {r['quality_high']:.3f}"
        table.add_row(
            r["sampler"],
            r["model"],
            str(r["steps"]),
            f"{r['calls']:.2f}",
            f"{r['quality']:.3f}",
            interval,
            f"{r['unique']:.3f}",
            f"{r['entropy']:.3f}",
            f"{r['edits']:.2f}",
        )
    return table


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@mended_by_user
def list_plugins(as_json: bool) -> None:
    """Name every sampler preset, sampler part, objective, scorer, schedule and corpus, with its paper."""
    from pipelines.catalogue import catalogue

    found = catalogue()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for family, entries in found.items():
        out.print(f"\n[b]{family}[/b]")
        groups = entries if family == "parts" else {"": entries}
        for group, below in groups.items():
            for name, entry in below.items():
                told = "/".join(x for x in (group, name) if x)
                out.print(
                    f"  [cyan]{told}[/]  {entry['summary']}" + (f"\n      {entry['paper']}" if entry["paper"] else "")
                )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--sampler",
    default="mdlm",
    show_default=True,
    help="Preset (see [b]proseco list[/b]) or YAML file, e.g. of configs/samplers.",
)
@click.option("--root", default="runs", show_default=True, help="Folder of results; the samples lie below it.")
@click.option("--num-samples", default=16, show_default=True, help="Samples of each prompt.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="JSON lines with 'prompt' or 'template' (texts and numbers of holes) and perhaps 'label', or text lines.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--length", default=0, help="Positions of a row; 0 is the trained length.")
@click.option("--show", "num_shown", default=3, show_default=True, help="Rows to print.")
@mended_by_user
def generate(model: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Sample an exported model into Parquet shards; the same command resumes.

    MODEL is an exported folder. Sampler options are given as KEY=VALUE, e.g. [b]steps=12 corrector.passes=2[/b];
    [b]allow_untrained=true[/b] runs a corrector on a model that was not trained for it, and
    [b]runtime.executor=local[/b], [b]runtime.replicas=4[/b] or [b]runtime.gpus=1[/b] say where.
    """
    from pipelines.commands import generate as command

    for line in command(model, list(overrides), **options):
        click.echo(line)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--errors", "number", default=1, show_default=True, help="Tokens of each row that are made wrong.")
@click.option("--num-rows", default=256, show_default=True, help="Validation rows.")
@click.option("--correctors", default="", help="Comma-separated sampler presets whose edits are measured, too.")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@mended_by_user
def diagnose(model: Path, rows: Path, as_json: bool, **options: Any) -> None:
    """Plant errors and see whether a model finds and mends them.

    MODEL is an exported folder, ROWS the folder of a tokenize stage. Errors are random tokens, and draws of the
    model itself. See AUROC of each score, repair, break and preservation, precision and recall of edits.
    """
    from pipelines.diagnose import diagnose_model

    lines = diagnose_model(model, rows, **options)
    if as_json:
        known = [{k: None if v != v else v for k, v in line.items()} for line in lines]  # JSON has no NaN
        click.echo(json.dumps(known, indent=1))
        return
    for line in lines:
        told = "  ".join(f"{k} {v:.3f}" for k, v in line.items() if isinstance(v, float))
        click.echo(f"{line['kind']:<7} {line.get('corrector', 'the model'):<16} {told}")


@main.command(name="import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json; that of SOURCE where not given.")
@click.option("--length", default=1024, show_default=True, help="Positions of a row, where nothing else says so.")
@mended_by_user
def import_weights(source: Path, **options: Any) -> None:
    """Make weights of another project a model of ours, and say what did not match.

    SOURCE is a folder with config.json and safetensors: LLaDA, LLaMA-shaped causal models (their causal mask is
    dropped and their logits shifted), BERT-shaped masked ones, MDLM's DiT. The last two only start a training.
    """
    from pipelines.import_weights import import_model

    for line in import_model(source, **options):
        click.echo(line)


@main.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model to score with; the sampling model where not given."
)
@click.option("--scorers", default="nelbo,entropy,distinct", show_default=True, help="Comma-separated names.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--root", default="runs", show_default=True, help="Folder of results; the scores lie below it.")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@mended_by_user
def score(samples: Path, as_json: bool, **options: Any) -> None:
    """Score a folder of samples, row for row.

    SAMPLES is the folder that [b]proseco generate[/b] names. Options of scorers are given as KEY=VALUE, e.g.
    [b]nelbo.draws=8[/b].
    """
    from pipelines.commands import score as command

    means = command(samples, **options)
    if as_json:
        click.echo(json.dumps(means, indent=1))
        return
    for name, value in means.items():
        click.echo(f"{name:24} {value:.6g}")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--port", default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to; loopback by default.")
@click.option("--replicas", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
@mended_by_user
def serve(model: Path, port: int, host: str, replicas: int, threads: int) -> None:
    """Answer sampling and scoring requests over HTTP, until interrupted.

    [b]POST /v1/sample[/b] {"prompts": [""], "num_samples": 2, "sampler": "proseco", "options": {"steps": 8}, "seed": 0}
    [b]POST /v1/score[/b] {"texts": ["..."], "scorers": ["nelbo"]}
    [b]GET /healthz[/b]
    """
    from cluster.config import RuntimeConfig
    from cluster.open import open_cluster
    from components.models.weights import load_model

    load_model(model)  # a wrong folder is told before a cluster is started
    cluster = open_cluster(RuntimeConfig(replicas=replicas, threads=threads))
    try:
        from cluster.http import serve_forever

        serve_forever(model.absolute(), host, port, replicas, threads, click.echo)
    finally:
        cluster.close()


@main.command()
@click.option("--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@mended_by_user
def doctor(root: Path, as_json: bool) -> None:
    """Check versions, CPUs, memory, disk and the root, and say how to mend what is wrong."""
    from pipelines.doctor import examine

    found = examine(root)
    if as_json:
        click.echo(json.dumps([vars(c) for c in found], indent=1))
    else:
        for c in found:
            out.print(f"[{'green]ok  ' if c.ok else 'red]bad '}[/] {c.name}: {c.value}", end="")
            out.print("" if c.ok else f"\n       {c.remedy}")
    if not all(c.ok for c in found):
        sys.exit(1)


@main.command()
@click.option(
    "--root", type=click.Path(path_type=Path), help="Root to look in; that of the kept runs where not given, or runs."
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
@mended_by_user
def gc(root: Path | None, runs: tuple[str, ...], corrupt: bool, delete: bool) -> None:
    """Find stages that no run needs, or that are damaged; a dry run unless told to delete.

    Overrides decide what a run's stages are, so a run is kept with those that it was run with:
    [b]proseco gc --keep "configs/runs/demo.yaml train.base.steps=100" --keep configs/runs/text.yaml[/b]

    Only stage folders that say that they are proseco's are deleted, in a root that says so; links are not followed.
    """
    from pipelines.gc import collect

    for line in collect(root, runs, corrupt, delete):
        click.echo(line)


if __name__ == "__main__":
    main()

"""Commands about runs: plan, run, explain, show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from components.errors import ConfigError
from components.store.files import at, exists
from pipelines.cli.screen import STATES, in_words, load, out, run_arguments

if TYPE_CHECKING:
    from cluster.config import RuntimeConfig
    from pipelines.doctor import Check
    from pipelines.graph.estimate import Estimate
    from pipelines.graph.plan import Finding
    from pipelines.graph.stage import Stage


@click.command()
@run_arguments
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def plan(run: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what a run would do, and why, before anything is started.

    Also what trainings take of memory and disk, how long it may take, where its like was made in the root before, and what of
    this machine may be too little; a training that cannot fit into memory is refused here and by [b]proseco run[/b].
    [b]proseco doctor RUN[/b] tells all that was looked at.
    """
    from pipelines.graph.estimate import estimates
    from pipelines.graph.plan import plan as make_plan
    from pipelines.needs import needs, refusals, training_lines

    config, stages = load(run, overrides)
    root = at(config.runtime.root)
    findings = make_plan(list(stages.values()), root)
    expected, todo = estimates(findings, root), [f.stage for f in findings if f.state != "fresh"]
    if as_json:
        click.echo(json.dumps([planned(f, expected.get(f.stage.key), config.runtime, root) for f in findings], indent=1))
    else:
        print_plan(findings, expected)
        for line in training_lines(todo, config.runtime, root):
            out.print(line, markup=False)
        problems = [c for c in needs(findings, config.runtime, root) if not c.ok]
        for line in lines_of(problems):
            out.print(line, markup=False)
    if todo and (wrong := refusals(config.runtime, root, todo)):
        raise ConfigError(wrong)


def planned(finding: Finding, expected: Estimate | None, runtime: RuntimeConfig, root: Path) -> dict[str, Any]:
    """A line of the plan for a program. The memory is that of one process of a training, in bytes."""
    from pipelines.needs import shape_of
    from pipelines.training_memory import taken

    wanted = finding.stage.name == "train" and finding.state != "fresh"
    memory = taken(shape_of(finding.stage, runtime, root)) if wanted else None
    found: dict[str, Any] = {"stage": finding.stage.label, "key": finding.stage.key, "state": finding.state, "reasons": finding.reasons}
    bytes_of = None if memory is None else memory.parts | {"stored": memory.stored, "most": memory.most}
    return found | {"memory": bytes_of, "estimate_s": expected and expected.seconds, "estimate_of": expected and expected.of}


def print_plan(findings: list[Finding], expected: dict[str, Estimate]) -> None:
    """The plan for people."""
    from pipelines.graph.short import duration

    table = Table("stage", "state", *(["about"] if expected else []), "key", "why", box=None, pad_edge=False)
    for f in findings:
        about = [duration(expected[f.stage.key].seconds) if f.stage.key in expected else ""] if expected else []
        table.add_row(f.stage.label, f"[{STATES[f.state]}]{f.state}[/]", *about, f.stage.key, Text("\n".join(f.reasons)))
    out.print(table)
    todo = sum(f.state != "fresh" for f in findings)
    out.print(f"{todo} of {len(findings)} stages to do" if todo else "everything is fresh; a run would do nothing")
    if expected:
        seconds = duration(sum(e.seconds for e in expected.values()))
        example = next(iter(expected.values())).of
        out.print(
            f"an estimate: {seconds} one after the other for {len(expected)} of them, by what their like in this root took when "
            f"they were last executed, e.g. {example}",
            markup=False,
        )


def lines_of(checks: list[Check]) -> Iterator[str]:
    """Checks that are not met, for people."""
    for c in checks:
        yield f"{c.name}: {c.value}"
        yield f"       rule:   {c.rule}"
        yield f"       remedy: {c.remedy}"


@click.command()
@run_arguments
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--jobs", type=int, help="Stages made at once, 1 one by one in a fixed order; as many as CPUs and GPUs hold where not given.")
@in_words
def run(run: Path, overrides: tuple[str, ...], quiet: bool, jobs: int | None) -> None:
    """Run a workflow, or resume it; what is fresh is left alone.

    [b]proseco options[/b] names the sections of a run, [b]proseco options train.base.optimizer.lr[/b] tells of one option.
    """
    from pipelines.graph.progress import Screen
    from pipelines.graph.runner import execute
    from pipelines.latest import link

    config, stages = load(run, overrides if jobs is None else (*overrides, f"runtime.jobs={jobs}"))
    findings = execute(config.name, list(stages.values()), config.runtime, Screen(quiet))
    made = sum(f.state != "fresh" for f in findings)
    root = at(config.runtime.root)
    click.echo(
        f"{made} stages made, {len(findings) - made} were fresh"
        if made
        else f"nothing to do: all {len(findings)} stages are fresh"
    )
    last = list(stages.values())[-1]
    if (named := link(config.name, stages.values(), root)) is not None:
        click.echo(f"models: {named}")
    if exists(last.folder(root) / "report.html"):
        click.echo(f"report: {last.folder(root) / 'report.html'}")


@click.command()
@run_arguments
@click.option("--stage", "label", default="", help="Only this stage, e.g. [b]train/base[/b].")
@in_words
def explain(run: Path, overrides: tuple[str, ...], label: str) -> None:
    """Show what distinguishes each stage from the nearest one that was made."""
    from components.plugins import lookup
    from pipelines.graph.plan import nearest

    config, stages = load(run, overrides)
    chosen = {label: lookup(stages, label, "stage")} if label else stages
    root = at(config.runtime.root)
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


@click.command()
@run_arguments
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@click.option("--follow", "follows", is_flag=True, help="Go on showing how far a run is until it is made.")
@in_words
def show(run: Path, overrides: tuple[str, ...], as_json: bool, follows: bool) -> None:
    """Show the state of a run and its results, or how a job goes.

    RUN is a run's YAML, or the folder that [b]proseco generate[/b] or [b]proseco score[/b] works in: then rows, rate and
    time left, from any terminal.
    """
    if run.suffix not in (".yaml", ".yml"):
        from pipelines.job import describe
        from pipelines.job import in_words as told

        found = describe(run)
        click.echo(json.dumps(found, indent=1) if as_json else "\n".join(told(found)))
        return
    from components.store.artifact import read_manifest
    from pipelines.graph.plan import plan as make_plan

    config, stages = load(run, overrides)
    root = at(config.runtime.root)
    if follows:
        watch(list(stages.values()), root)
    findings = make_plan(list(stages.values()), root)
    results: list[dict[str, Any]] = []
    for stage in stages.values():
        if manifest := read_manifest(stage.folder(root)):
            results = list(manifest.info.get("results", results))
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
        print_headline(results)
    report = list(stages.values())[-1].folder(root) / "report.html"
    if exists(report):
        out.print(f"report: {report}")


def print_headline(results: list[dict[str, Any]]) -> None:
    """What a comparison comes to, and a small picture of it."""
    from components.evaluation.headline import bars, headline

    for task in dict.fromkeys(r.get("task", "") for r in results):
        own = [r for r in results if r.get("task", "") == task]
        out.print()
        for line in bars(own):
            out.print(line, markup=False)
        out.print(f"\n{task + ': ' if task else ''}{headline(own)}\n", markup=False)


def watch(stages: list[Stage], root: Path) -> None:
    """Show how far a run is until it is made: a picture that changes on a terminal, new lines elsewhere."""
    from pipelines.follow import follow

    if out.is_terminal:
        with Live(console=out, transient=True) as live:
            for look in follow(stages, root):
                live.update(Text("\n".join(look.lines)))
        return
    shown: set[str] = set()
    for look in follow(stages, root):
        for line in look.lines:
            if line not in shown:
                click.echo(line)
        shown = set(look.lines)


def results_table(results: list[dict[str, Any]]) -> Table:
    from components.evaluation.best import as_measured

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
        quality, low, high = as_measured(r)
        table.add_row(
            r["sampler"],
            r["model"],
            str(r["steps"]),
            f"{r['calls']:.2f}",
            f"{quality:.3f}",
            f"{low:.3f} .. {high:.3f}",
            f"{r['unique']:.3f}",
            f"{r['entropy']:.3f}",
            f"{r['edits']:.2f}",
        )
    return table

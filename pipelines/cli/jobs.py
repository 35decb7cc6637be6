"""Commands about clusters and the jobs on them: cluster up, submit, status, logs, stop."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape
from rich.table import Table

from components.errors import ConfigError
from pipelines.cli.screen import in_words, load, out, run_arguments

STOPPED = 130
IN_LOGS = (
    "whoever has the cluster's token can read the variables of a job, and Ray writes them into logs that all users of its "
    "machines can read. Give the machines secrets of their own instead, as files, roles or variables."
)
STATES = {"SUCCEEDED": "green", "RUNNING": "yellow", "PENDING": "yellow", "STOPPED": "magenta", "FAILED": "red"}

in_cluster = click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    required=True,
    show_envvar=True,
    help="Of the cluster's dashboard, e.g. http://127.0.0.1:8265.",
)


@click.group()
def cluster() -> None:
    """Ray clusters on this machine."""


@cluster.command()
@click.option("--local", "number", type=click.IntRange(1), default=2, show_default=True, help="Nodes, all on this machine.")
@click.option("--cpus", type=click.IntRange(1), default=2, show_default=True, help="That each node says it has.")
@in_words
def up(number: int, cpus: int) -> None:
    """Run a cluster of several nodes on loopback, for trials, until interrupted.

    It takes jobs from whoever has its token, whose file is named when it is ready.
    """
    from cluster.nodes import local_nodes

    with local_nodes(number, cpus) as nodes:
        click.echo(f"{number} nodes of {cpus} CPUs each are ready; Ctrl-C ends them. In another terminal:\n")
        for name, value in nodes.environment().items():
            click.echo(f"export {name}={value}")
        click.echo("proseco submit configs/runs/demo.yaml runtime.root=/tmp/runs\n")
        click.echo(f"or, from this machine, runtime.address={nodes.address}")
        lost = 0
        while nodes.lives():
            if nodes.lost() > lost:
                lost = nodes.lost()
                click.echo(f"{lost} of {number} nodes ended; the cluster goes on without", err=True)
            time.sleep(0.5)
    click.echo("error: the head ended, and the cluster with it", err=True)
    sys.exit(1)


@click.command()
@run_arguments
@in_cluster
@click.option("--id", "id", default="", help="Of the job, used once whatever becomes of it; made of the run where not given.")
@click.option("--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="Variable of the job; that of this machine without a value.")
@click.option("--no-follow", is_flag=True, help="Leave as soon as the cluster has it.")
@in_words
def submit(run: Path, overrides: tuple[str, ...], address: str, id: str, variables: tuple[str, ...], no_follow: bool) -> None:
    """Have a cluster make a run, and follow it.

    Ends with the exit code of the job. A run that is at work on the cluster is followed, not started again. All that
    travels is the run, with what it extends; places in it are full paths or URLs.
    """
    from cluster.jobs import Jobs
    from pipelines.submission import secrets_in
    from pipelines.submission import submit as send

    config, _ = load(run, overrides)
    jobs = Jobs(address)
    passed = named(variables)
    if secrets := secrets_in(passed):
        click.echo(f"{', '.join(secrets)}: {IN_LOGS}", err=True)
    job, new = send(jobs, config, id, passed)
    click.echo(f"{job.id}: {'sent' if new else 'was sent before'} to {address}")
    if not no_follow:
        followed(jobs, job.id)


@click.command()
@click.argument("id", default="", metavar="[JOB]")
@in_cluster
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def status(id: str, address: str, as_json: bool) -> None:
    """Tell how the jobs of a cluster are, or one of them."""
    from cluster.jobs import Jobs

    jobs = Jobs(address)
    found = [jobs.get(id)] if id else jobs.all()
    if as_json:
        click.echo(json.dumps([vars(j) | {"seconds": j.seconds} for j in found], indent=1))
        return
    table = Table("job", "state", "run", "seconds", "what the cluster says", box=None, pad_edge=False)
    for j in found:
        said = j.message if id else first_line(j.message)
        table.add_row(j.id, f"[{STATES[j.state]}]{j.state}[/]", j.run, f"{j.seconds:.0f}", escape(said))
    out.print(table if found else "no jobs of runs")


@click.command()
@click.argument("id", metavar="JOB")
@in_cluster
@click.option("--follow", is_flag=True, help="Until it ends; then with its exit code.")
@in_words
def logs(id: str, address: str, follow: bool) -> None:
    """Print what a job has printed."""
    from cluster.jobs import Jobs

    jobs = Jobs(address)
    if follow:
        followed(jobs, id)
    else:
        click.echo(jobs.logs(id), nl=False)


@click.command()
@click.argument("id", metavar="JOB")
@in_cluster
@in_words
def stop(id: str, address: str) -> None:
    """Have a job end. What it has finished stays, and the same run goes on from there."""
    from cluster.jobs import Jobs

    jobs = Jobs(address)
    was = jobs.stop(id)
    click.echo(f"{id}: {'is told to end' if was else f'had ended: {jobs.get(id).state}'}")


def followed(jobs: Any, id: str) -> None:
    """Print what a job prints, and exit as it does."""
    try:
        job = jobs.follow(id, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\nthe job goes on; `proseco logs {id} --follow` follows it again, `proseco stop {id}` ends it", err=True)
        sys.exit(STOPPED)
    click.echo(f"{id}: {job.state} after {job.seconds:.0f} s", err=True)
    if job.state != "SUCCEEDED":
        click.echo(f"error: {first_line(job.message)}", err=True)
        sys.exit(job.code or 1)


def first_line(text: str) -> str:
    """The rest is the end of what the job has printed."""
    return text.strip().partition("\n")[0]


def named(variables: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` or ``NAME`` as a mapping."""
    found = {}
    for variable in variables:
        name, given, value = variable.partition("=")
        if not given and name not in os.environ:
            raise ConfigError(f"--env {name}: this machine has no such variable. Write --env {name}=VALUE.")
        found[name] = value if given else os.environ[name]
    return found

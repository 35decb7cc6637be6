"""Commands about models and samples: generate, score, serve, diagnose, import."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import rich_click as click
from rich.text import Text

from components.models.device import PRECISIONS
from components.outside import MAX_LENGTH, MAX_ROWS
from pipelines.cli.screen import PLACE, in_words, out

KINDS = click.Choice(["auto", "cpu", "cuda"])
on_gpus = click.option(
    "--device",
    type=KINDS,
    default="auto",
    show_default=True,
    help="Where the network computes; auto: see runtime.gpus.",
)
in_dtype = click.option(
    "--dtype",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="auto: bfloat16 for a network that was trained in it, on a GPU or a CPU that multiplies it; else float32. "
    "int8 is for CPUs, and makes kernels first.",
)


@click.command()
@click.argument("model", type=PLACE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--sampler",
    default="mdlm",
    show_default=True,
    help="Preset (see [b]proseco list[/b]) or YAML file, e.g. of configs/samplers.",
)
@click.option("--root", default="runs", show_default=True, help="Folder of results; the samples lie below it.")
@click.option("--num-samples", type=click.IntRange(1, MAX_ROWS), default=16, show_default=True, help="Samples of each prompt.")
@click.option(
    "--prompts",
    type=PLACE,
    help="JSON lines, Parquet, text lines, a folder of these, or one saved by `datasets`. Fields: prompt or template "
    "(texts and numbers of holes), label, id; others by e.g. [b]prompts.prompt_field=question[/b].",
)
@click.option("--scorers", default="", help="Comma-separated names; each adds its columns to the table.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--length", type=click.IntRange(0, MAX_LENGTH), default=0, help="Positions of a row; 0 is the trained length.")
@click.option("--show", "num_shown", type=click.IntRange(0, 1000), default=3, show_default=True, help="Rows to print.")
@on_gpus
@in_dtype
@in_words
def generate(model: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Sample an exported model into Parquet shards; the same command resumes.

    MODEL is an exported folder. Sampler options are given as KEY=VALUE, e.g. [b]steps=12 corrector.passes=2[/b];
    [b]allow_untrained=true[/b] runs a corrector on a model that was not trained for it, and
    [b]runtime.executor=local[/b], [b]runtime.replicas=4[/b] or [b]runtime.gpus=1[/b] say where, and
    [b]generate.shard_rows=4096[/b] or [b]generate.corrections=none[/b] what is kept how.

    The table is Parquet, described in docs/table.md. [b]proseco show[/b] FOLDER says how a job goes, and
    [b]proseco options corrector.passes[/b] what an option means.
    """
    from pipelines.commands import generate as command

    for line in command(model, list(overrides), **options):
        click.echo(line)


@click.command()
@click.argument("samples", type=PLACE)
@click.option("--model", type=PLACE, metavar="FOLDER", help="Model to score with; the sampling model where not given.")
@click.option("--scorers", default="nelbo,entropy,distinct", show_default=True, help="Comma-separated names.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--root", default="runs", show_default=True, help="Folder of results; the scores lie below it.")
@on_gpus
@in_dtype
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def score(samples: Path, as_json: bool, **options: Any) -> None:
    """Score a folder of samples, or the texts of a file, row for row.

    SAMPLES is the folder that [b]proseco generate[/b] names, or JSON lines, Parquet, text lines or a folder of them with
    a field [b]text[/b] and perhaps [b]prompt[/b] (others by e.g. [b]prompts.text_field=answer[/b]); then --model says
    by whom. Options of scorers are given as KEY=VALUE, e.g. [b]nelbo.draws=8[/b].
    """
    from pipelines.commands import score as command

    means = command(samples, **options)
    if as_json:
        click.echo(json.dumps(means, indent=1))
        return
    for name, value in means.items():
        click.echo(f"{name:24} {value:.6g}")


@click.command()
@click.argument("export", type=PLACE)
@click.option("--to", type=PLACE, required=True, metavar="FOLDER", help="New folder for the model.")
@click.option("--name", default="", help="Title of its card; the folder's name where not given.")
@click.option("--licence", default="", help="For its card, e.g. [b]apache-2.0[/b].")
@in_words
def export(export: Path, to: Path, name: str, licence: str) -> None:
    """Copy an exported model to hand it on, with a card of its data, training, results and corrections.

    EXPORT is the folder of an export stage, as [b]proseco show RUN --json[/b] names it, or a link of runs/latest.
    """
    from pipelines.handing import hand_on

    hand_on(export, to, name, licence)
    click.echo(f"wrote {to}")


@click.command()
@click.argument("row_id")
@click.option("--samples", "table", type=PLACE, metavar="FOLDER", help="Its table; all tables of the root where not given.")
@click.option("--root", type=PLACE, default="runs", show_default=True, metavar="FOLDER", help="Root to look in.")
@click.option("--model", type=PLACE, metavar="FOLDER", help="What made it, where that is not in the same root.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
def replay(row_id: str, as_json: bool, **options: Any) -> None:
    """Make any row of a table again, from its id, and show how it came about.

    Green is revealed by that call, yellow replaced, magenta masked again. Ends with 1 where the row is another one than
    the table's, as it may be on another kind of processor.
    """
    from pipelines.replay import lines
    from pipelines.replay import replay as command

    made = command(row_id, **options)
    if as_json:
        trace = [vars(edit) for edit in made.sample.trace]
        found = {"row_id": row_id, "folder": str(made.folder), "equal": made.equal, "tokens": made.sample.tokens}
        click.echo(json.dumps(found | {"calls": made.sample.calls, "trace": trace}, indent=1))
    else:
        for title, parts in lines(made):
            out.print(Text.assemble(f"{title:>8}  ", *parts))
        verdict = "the row of the table" if made.equal else "NOT the row of the table"
        out.print(f"{made.sample.calls} calls, {made.sample.edits} corrections: {verdict} in {made.folder}", markup=False)
    if not made.equal:
        sys.exit(1)


@click.command()
@click.argument("given", nargs=-1, required=True, metavar="[NAME=]EXPORT... [limits.KEY=VALUE]...")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to bind to; any but loopback needs --keys."
)
@click.option(
    "--keys", type=PLACE, help="YAML list or JSON lines of keys, each with name and sha256."
)
@click.option("--tables", type=PLACE, metavar="ROOT", help="Show the samples that runs and proseco generate left in this root.")
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True, help="Of each model.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--device", type=KINDS, default="auto", show_default=True, help="auto: a GPU where torch sees one.")
@in_dtype
@click.option("--gpus", type=click.FloatRange(0), default=0.0, help="GPUs of each replica, e.g. 0.5; on GPUs 1 where not given.")
@in_words
def serve(given: tuple[str, ...], host: str, port: int, keys: Path | None, tables: Path | None, **options: Any) -> None:
    """Answer requests for texts and scores over HTTP, until interrupted.

    EXPORT is an exported folder; several are several models. ROOT/nightly/NAME in its place serves the champion of that
    nightly run, and follows it. [b]limits.max_samples=16[/b] and its like change what is
    taken on; see docs/service.md.

    [b]POST /v1/completions[/b] {"prompt": "", "n": 2, "sampler": "proseco", "options": {"steps": 8}, "stream": true}
    [b]POST /v1/chat/completions[/b], [b]POST /v1/score[/b], [b]GET /v1/models[/b], [b]/metrics[/b], [b]/docs[/b]
    """
    from cluster.service.limits import ServiceLimits
    from cluster.service.serving import Address
    from cluster.service.serving import serve as command
    from components.options import parse
    from pipelines.config.load import dotted

    limits = dotted([text for text in given if text.startswith("limits.")]).get("limits", {})
    models = [text for text in given if not text.startswith("limits.")]
    command(models, Address(host, port, keys, tables), parse(ServiceLimits, limits, "limits"), click.echo, **options)


@click.command()
@click.argument("model", type=PLACE)
@click.argument("rows", type=PLACE)
@click.option("--errors", "number", type=click.IntRange(1), default=1, show_default=True, help="Tokens of each row that are made wrong.")
@click.option("--num-rows", type=click.IntRange(1), default=256, show_default=True, help="Validation rows.")
@click.option("--correctors", default="", help="Comma-separated sampler presets whose edits are measured, too.")
@click.option(
    "--device", default="auto", show_default=True, help="auto (a GPU where torch sees one), cpu, cuda or cuda:N."
)
@in_dtype
@click.option("--json", "as_json", is_flag=True, help="Print for a program.")
@in_words
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
        rates = "  ".join(f"{k} {v:.3f}" for k, v in line.items() if isinstance(v, float))
        click.echo(f"{line['kind']:<7} {line.get('corrector', 'the model'):<16} {rates}")


@click.command(name="import")
@click.argument("source", type=PLACE)
@click.option("--out", "folder", type=PLACE, metavar="FOLDER", required=True, help="Folder for the model.")
@click.option("--tokenizer", type=PLACE, help="tokenizer.json; that of SOURCE where not given.")
@click.option("--length", type=int, default=1024, show_default=True, help="Positions of a row, where nothing else says so.")
@in_words
def import_weights(source: Path, **options: Any) -> None:
    """Make weights of another project a model of ours, and say what did not match.

    SOURCE is a folder with config.json and safetensors: LLaDA, LLaMA-shaped causal models (their causal mask is
    dropped and their logits shifted), BERT-shaped masked ones, MDLM's DiT. The last two only start a training.
    """
    from pipelines.import_weights import import_model

    for line in import_model(source, **options):
        click.echo(line)

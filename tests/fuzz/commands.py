"""Every command of `proseco`, in this process, with arguments that fit and such that do not.

What a command starts when all was found right, a cluster, a service, a network of another machine or a run, is put off by
a sentence: the command lines are what is tried here.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

import click
from click.testing import CliRunner
from hypothesis import strategies as st

from components.errors import ClusterError
from pipelines.cli import main
from tests.chaos.harness import RUN
from tests.fuzz import fitting
from tests.fuzz.cases import as_json, junk
from tests.fuzz.targets import THIRD, Target, export_files, foreign_files, overrides, put

STARTED = "It would be started now, and a test of command lines starts nothing."
STARTS = [
    "pipelines.graph.runner.execute", "pipelines.commands.execute", "pipelines.nights.night", "pipelines.nights.roll_back",
    "pipelines.chaos.verdict.chaos", "cluster.service.serving.serve", "cluster.jobs.Jobs", "cluster.nodes.local_nodes",
    "pipelines.bench.run",
]  # fmt: skip
FILES = [
    "run.yaml", "night.yaml", "model", "model/config.json", "source", "prompts.jsonl", "prompts.txt", "latin.txt", "empty.jsonl", "a.gz",
    "nowhere", "nowhere.yaml", ".", "", "/dev/null", "/dev/zero", "root", "root/generate/" + "0" * 16, "configs/samplers/t2m.yaml", "run.yaml/x",
    "x" * 300, "a\nb", "memory://x", "file:///nowhere", "s3x://nowhere", "*.jsonl", "\udcff",
]  # fmt: skip
WORDS = ["mdlm", "proseco", "prism", "nelbo,entropy", "nelbo", ",", "nothing", "cpu", "cuda", "cuda:9", "2026-11-26", "4e831a2009e054e3-0", "zz-1", "a=b"]
NUMBERS = ["0", "1", "-1", "2", "1e9", "0.5", "nan", str(2**31), str(2**63), str(10**30), "", "x", "9" * 5000]


@cache
def commands() -> dict[str, click.Command]:
    """By what is written to reach them."""
    found = {name: command for name, command in main.commands.items() if not isinstance(command, click.Group)}
    return found | {"cluster up": main.commands["cluster"].commands["up"]}  # type: ignore[attr-defined]


def words() -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(FILES), st.sampled_from(FILES[:10]), st.sampled_from(WORDS), st.sampled_from(NUMBERS), st.text(max_size=8),
        overrides().map(lambda pairs: pairs[0]), junk().map(json.dumps),
    )  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its arguments and options, each with a value of some kind."""
    name = draw(st.sampled_from(sorted(commands())))
    found = name.split()
    for parameter in commands()[name].params:
        if parameter.name in ("delete", "follows") or draw(st.integers(0, 5)) not in (range(5) if parameter.required else [0]):
            continue
        if isinstance(parameter, click.Argument):
            fits = {"run": "run.yaml", "model": "model", "source": "source", "samples": "prompts.jsonl"}.get(parameter.name or "")
            value = draw(words() | st.just(fits) | st.just(fits) | st.just(fits)) if fits else draw(words())
            found += [value] if parameter.nargs == 1 else [value, *draw(st.just([]) | overrides())]
        else:
            found.append(draw(st.sampled_from(parameter.opts)))
            if not getattr(parameter, "is_flag", False):
                found.append(draw(st.sampled_from(NUMBERS[:4]) | st.sampled_from(NUMBERS) if parameter.type.name.startswith(("int", "float")) else words()))
    return found


REALLY = ["runtime.executor=local", "runtime.tracking_uri=none", "runtime.jobs=1", "--root", "root"]
"""At the end of a command line whose work is small and is done in this process, not put off."""


@st.composite
def fitting_lines(draw: st.DrawFn) -> list[str]:
    """Command lines that fit, of which some have one odd value."""
    few = st.integers(1, 3).map(str)
    plans = st.tuples(st.sampled_from(["plan", "plan", "explain", "show"]), st.just("run.yaml"))
    samples = st.tuples(
        st.just("generate"), st.just("model"), st.just("--num-samples"), few, st.just("--seed"), st.integers(0, 2**63 - 1).map(str),
        st.just("--sampler"), st.sampled_from(["mdlm", "proseco", "maskgit", "remdm_cap"]), st.just("steps=3"),
    )  # fmt: skip
    scores = st.tuples(st.just("score"), st.just("prompts.jsonl"), st.just("--model"), st.just("model"), st.just("--scorers"), st.sampled_from(["entropy", "nelbo", "nelbo,entropy"]))
    others = st.sampled_from(
        [["list"], ["list", "--json"], ["list", "--schema"], ["list", "--markdown", "."], ["import", "source", "--out", "out", "--length", "9"], ["plan", "night.yaml", "--json"], ["doctor", "--json"]]
    )  # fmt: skip
    line = list(draw(st.one_of(plans, samples, samples, scores, others)))
    if line[0] in ("plan", "explain", "show"):
        line += fitting.as_overrides(draw(fitting.some(fitting.RUN, 3))) + draw(st.sampled_from([[], ["runtime.root=root"]]))
    if line[0] == "generate":
        line += draw(st.sampled_from([[], ["--prompts", "prompts.jsonl"], ["--prompts", "prompts.txt"], ["allow_untrained=true"], ["--scorers", "nelbo"]]))
    if line[0] in ("generate", "score"):
        line += REALLY
    if draw(st.sampled_from([False, False, False, True])):
        place = draw(st.integers(1, len(line)))
        line[place : place + 1] = [draw(st.sampled_from(NUMBERS) | st.sampled_from(FILES) | st.sampled_from(WORDS))]
    return line


def set_up(folder: Path) -> None:
    """What a user may have."""
    put(folder, "run.yaml", RUN.encode())
    put(folder, "night.yaml", b"workflow: nightly\ngate: {sampler: mdlm}\n" + RUN.encode())
    for name, raw in export_files().items():
        put(folder / "model", name, raw)
    for name, raw in foreign_files().items():
        put(folder / "source", name, raw)
    put(folder, "prompts.jsonl", as_json({"prompt": "12", "text": "12"}))
    put(folder, "tasks.yaml", b"workflow: compare\ntasks: 3\n")
    put(folder, "itself.yaml", b"extends: itself.yaml\n")
    put(folder, "prompts.txt", b"12\n")
    put(folder, "latin.txt", b"\xe9\n")
    put(folder, "empty.jsonl", b"")
    put(folder, "a.gz", b"x")
    (folder / "root").mkdir()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def use_command(folder: Path, line: list[str], starts: Sequence[str] = STARTS) -> None:
    set_up(folder)
    run_command(folder, line, [] if line[-len(REALLY) :] == REALLY else starts)


def run_command(folder: Path, line: list[str], starts: Sequence[str]) -> str:
    """What a command prints. Raises ClusterError where it refuses, with what it says."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(inside(folder))
        for place in starts:
            stack.enter_context(patch(place, side_effect=ClusterError(STARTED)))
        done = CliRunner().invoke(main, line)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2), done.exit_code
    assert "Traceback" not in done.output
    if done.exit_code:
        raise ClusterError(f"refused with {done.exit_code}: {done.output}".encode(errors="replace").decode())
    return done.output


TARGETS: dict[str, Target] = {"command lines": Target(fitting.mostly(fitting_lines(), lines()), use_command, 1600, THIRD)}


def example(line: list[str], starts: Sequence[str] = STARTS) -> str:
    """One command line, for the examples that are kept.

    Args:
        starts: what is put off in place of being started.
    """
    with tempfile.TemporaryDirectory() as folder:
        set_up(Path(folder))
        return run_command(Path(folder), line, starts)

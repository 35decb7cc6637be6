"""Nobody but ``components/store`` touches files of a root. What other modules open is named here, with what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGES = ("components", "cluster", "pipelines")
DOOR = "components/store/"

ELSEWHERE = {
    "components/data/corpora/records.py": "reads corpora and prompts",
    "components/data/corpora/listing.py": "lists corpora",
    "components/data/corpora/config.py": "looks whether a corpus is there",
    "components/models/exchange/foreign.py": "reads weights of other projects",
    "components/models/exchange/export.py": "reads its own source files, which are copied into an export",
    "components/models/device.py": "reads /proc",
    "components/diffusion/gpu.py": "looks whether a C compiler is there",
    "cluster/processes.py": "reads /proc",
    "cluster/environment.py": "makes the token's file",
    "cluster/nodes.py": "reads the token of a cluster",
    "pipelines/submission.py": "writes the run that a job takes along",
    "pipelines/config/load.py": "reads the files of a run",
    "pipelines/config/rules.py": "looks whether the files that a run names are there",
    "components/data/prompts.py": "reads prompts",
    "pipelines/doctor.py": "examines the machine",
    "cluster/deploy/kubernetes/components/nightly/cronjob/night.py": "runs alone in a pod, without the rest of the house",
    "pipelines/bench.py": "looks whether it lies in a checkout",
    "pipelines/chaos/running.py": "writes the logs of commands",
    "pipelines/chaos/verdict.py": "reads the logs of commands",
    "pipelines/chaos/faults.py": "damages a table",
    "pipelines/cli/house.py": "writes pages of the documentation",
    "pipelines/handing.py": "writes a model's folder for somebody else",
    "pipelines/new/command.py": "looks whether somebody's data are there",
    "pipelines/new/look.py": "looks into somebody's data",
    "pipelines/new/write.py": "writes a run",
}

METHODS = {
    "open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "rmdir", "unlink", "touch", "rename", "exists",
    "is_file", "is_dir", "is_symlink", "glob", "rglob", "iterdir", "walk", "stat", "lstat", "symlink_to", "hardlink_to",
    "samefile", "chmod",
}  # fmt: skip
"""Of paths. ``replace`` is left out, because texts have it, too."""

MODULES = {
    "os": {
        "open", "stat", "lstat", "walk", "scandir", "listdir", "remove", "unlink", "rename", "replace", "link", "symlink",
        "mkdir", "makedirs", "rmdir", "utime", "truncate", "access", "chmod", "fsync",
    },
    "shutil": None, "glob": None, "io": {"open"}, "fsspec": None, "upath": None,
}  # fmt: skip
"""Functions of modules; None is all of them."""


def touches(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, call) of everything in a module that touches a file system."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = MODULES[node.module]
            found += [(node.lineno, f"{node.module}.{a.name}") for a in node.names if names is None or a.name in names]
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open":
            found.append((node.lineno, "open"))
        if not isinstance(called, ast.Attribute):
            continue
        owner = ast.unparse(called.value)
        module = next((m for m in MODULES if owner == m or owner.startswith(f"{m}.")), None)
        if module is not None:
            names = MODULES[module]
            if ((names is None or called.attr in names) and not owner.startswith("os.path")) or (
                owner == "os.path" and called.attr in {"exists", "isfile", "isdir", "getsize", "getmtime", "islink"}
            ):
                found.append((node.lineno, f"{owner}.{called.attr}"))
        elif called.attr in METHODS and not owner.startswith(("pa.", "self.engine", "pc.")):
            found.append((node.lineno, f"{owner}.{called.attr}"))
    return found


def modules() -> list[str]:
    found = [p.relative_to(TOP).as_posix() for name in PACKAGES for p in sorted((TOP / name).rglob("*.py"))]
    return [name for name in found if not name.startswith(DOOR) and "/exchange/hf/" not in name]


def test_nobody_else_touches_files():
    wrong = [
        f"{name}:{line} {call}"
        for name in modules()
        if name not in ELSEWHERE
        for line, call in touches(ast.parse((TOP / name).read_text()))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ELSEWHERE)
def test_whoever_is_excused_needs_it(name):
    assert touches(ast.parse((TOP / name).read_text())), f"{name} touches no file any more: take it from the list"


@pytest.mark.parametrize(
    "code",
    ["open('x')", "path.read_text()", "(folder / 'x').exists()", "os.replace(a, b)", "os.path.exists(a)", "shutil.rmtree(a)",
     "from shutil import rmtree", "from os import remove", "fsspec.open('x')", "list(folder.glob('*'))"],
)  # fmt: skip
def test_the_rule_sees_what_it_forbids(code):
    assert touches(ast.parse(code))


@pytest.mark.parametrize(
    "code", ["text.replace('a', 'b')", "os.environ.get('A')", "exists(path)", "os.path.join(a, b)"]
)
def test_the_rule_leaves_alone_what_touches_nothing(code):
    assert not touches(ast.parse(code))

"""How long it takes until a run is planned. Nothing published does the same, so what it stands beside is the import of the
libraries that a run needs: a plan that imported them could not be faster."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.paired import Pair

RUN = Path(__file__).parents[2] / "configs/runs/demo.yaml"
LIBRARIES = ("torch", "deepspeed", "ray", "mlflow")
PLAN = """
import sys
from click.testing import CliRunner
from pipelines.cli import main
made = CliRunner().invoke(main, ["plan", *sys.argv[1:], "--json"], catch_exceptions=False)
print(made.output)
print([name for name in ("torch", "deepspeed", "ray", "mlflow") if name in sys.modules], file=sys.stderr)
"""


def plan(name: str, given: dict[str, Any]) -> Pair:
    """`proseco plan` of the demo in a fresh process and an empty root, and the bare imports in another one."""
    root = tempfile.mkdtemp(prefix="proseco-bench-")
    arguments = [str(RUN), f"runtime.root={root}", "runtime.tracking_uri=none"]

    def ours() -> dict[str, float]:
        subprocess.run([sys.executable, "-m", "pipelines.cli", "plan", *arguments], check=True, stdout=subprocess.DEVNULL)
        return {}

    def theirs() -> dict[str, float]:
        subprocess.run([sys.executable, "-c", f"import {', '.join(LIBRARIES)}"], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return {}

    def same() -> str:
        said = subprocess.run([sys.executable, "-c", PLAN, *arguments], check=True, capture_output=True, text=True)
        planned = json.loads(said.stdout)
        assert {row["state"] for row in planned} == {"missing"}, "the root is not empty"
        assert said.stderr.splitlines()[-1] == "[]", f"a plan imported {said.stderr.splitlines()[-1]}"
        return f"{len(planned)} stages, none of {', '.join(LIBRARIES)} imported; theirs is the bare import"

    return Pair(name, {"run": RUN.name}, ours, theirs, same, clock="wall_s")

"""``proseco bench``: the benchmarks are tests, so they lie in a checkout alone and are run from there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.environment import ALLOCATOR
from components.errors import ConfigError

CHECKOUT = Path(__file__).parents[1]


def run(arguments: Sequence[str]) -> int:
    """Run the benchmarks of the checkout that this is, and return how they ended.

    In a process of their own: both sides of each get the allocator's settings that our workers and replicas have, which are
    read when a process starts.

    Raises:
        ConfigError: proseco was installed without its tests.
    """
    if not (CHECKOUT / "tests/bench/__main__.py").is_file():
        raise ConfigError(
            f"The benchmarks are part of the tests, which are not installed: {CHECKOUT} has none. Clone the repository, install it "
            f"there by `pip install --editable '.[dev,fast]' -c requirements.lock`, and run `proseco bench` of that environment."
        )
    # -P: a package `tests` of the folder that one is in is another one.
    command = [sys.executable, "-P", "-m", "tests.bench", *arguments]
    paths = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(command, env=os.environ | ALLOCATOR | {"PYTHONPATH": paths}).returncode

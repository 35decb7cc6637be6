"""One thread, no progress, nothing that leaves this machine."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("PROSECO_FAULT", None)
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray reads it when it is imported, and every cluster here is on loopback
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="proseco-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

import jaxtyping
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from cluster.environment import prepare
from components.models.device import device_problems, resolve
from components.store import content
from components.store.files import digest_file
from tests.browser import chromium  # noqa: F401  (a fixture)

prepare()

# Shapes and types written in the signatures of objectives and samplers are checked by every test that calls them, but for those of
# laws, whose many thousands of calls would take twice as long. Options hold no tensor, and are checked where they are parsed.
OBJECTIVES = Path(__file__).parents[1] / "components" / "objectives"
SHAPED = [f"components.objectives.{p.stem}" for p in OBJECTIVES.glob("*.py") if p.stem != "__init__"]
jaxtyping.install_import_hook([*SHAPED, "components.samplers"], "beartype.beartype")


ALONE = ("tests/chaos/", "tests/cluster/", "tests/service/")
"""Tests that start clusters and servers, or look at the clock: one after the other. They mostly wait."""
KILLS = "tests/chaos/test_kill.py"
"""It starts no cluster."""


class Sides(LoadScopeScheduling):
    """Two tests at once: those of a file stay together, and those that want the machine for themselves on one side."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "machine" if file.startswith(ALONE) and file != KILLS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sides:
    return Sides(config, log)


@pytest.fixture(scope="session")
def device() -> str:
    """Where device-neutral tests put their tensors: PROSECO_TEST_DEVICE, e.g. cuda; the CPU where it is not set."""
    asked = os.environ.get("PROSECO_TEST_DEVICE", "cpu")
    if lost := device_problems(asked):
        pytest.skip(f"PROSECO_TEST_DEVICE={asked}: {lost[0].rule}")
    return resolve(asked).device


@pytest.fixture
def hashed(tmp_path, monkeypatch) -> list[str]:
    """Names of the files that are hashed, in order; digests are kept in a folder of this test."""
    names: list[str] = []

    def counting(path: Path) -> str:
        names.append(path.name)
        return digest_file(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_known", {})
    monkeypatch.setattr(content, "digest_file", counting)
    monkeypatch.setattr(content, "RACY_NS", -1)  # as if every file had been written long ago
    return names


@pytest.fixture(autouse=True)
def _shapes(request):
    jaxtyping.config.update("jaxtyping_disable", request.node.get_closest_marker("law") is not None)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)

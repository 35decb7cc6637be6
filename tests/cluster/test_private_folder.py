"""What Ray leaves of a cluster of our own lies where nobody else comes to: it lets everybody write to all of it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from cluster.config import RuntimeConfig
from cluster.environment import prepare, private_folder
from components.errors import ConfigError

SOCKET = "ray/session_2026-11-26_07-49-10_156874_4194304/sockets/plasma_store"
"""Ray's own part of the longest path of a socket."""


@pytest.fixture(autouse=True)
def base(monkeypatch, tmp_path):
    """A short folder for temporary files; that of the test was made before."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        yield Path(folder)


def test_a_cluster_of_our_own_lies_in_a_folder_of_this_user(base):
    from ray._common.utils import get_default_ray_temp_dir

    before = dict(os.environ)
    prepared = prepare(RuntimeConfig())
    try:
        folder = Path(os.environ["RAY_TMPDIR"])
        assert folder.parent == base
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert Path(get_default_ray_temp_dir()) == folder / "ray"
        assert private_folder() == folder, "the next one lies there, too"
    finally:
        prepared.close()
    assert dict(os.environ) == before


@pytest.mark.parametrize("runtime", [RuntimeConfig(address="10.0.0.1:6379"), RuntimeConfig(executor="local")])
def test_other_ways_of_running_have_none(runtime, base):
    prepare(runtime).close()
    assert list(base.iterdir()) == []


def test_a_folder_that_the_user_names_is_taken(base, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/somewhere")
    prepared = prepare(RuntimeConfig())
    assert os.environ["RAY_TMPDIR"] == "/somewhere"
    prepared.close()


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_folder_that_somebody_else_put_there_is_not(trap, base, tmp_path):
    place = base / f"proseco-ray-{os.getuid()}"
    if trap == "open":
        place.mkdir()
        place.chmod(0o777)
    if trap == "link":
        place.symlink_to(tmp_path)
    if trap == "file":
        place.write_text("")
    before = dict(os.environ)
    with pytest.raises(ConfigError, match="RAY_TMPDIR"):
        prepare(RuntimeConfig())
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "x" * 5, "x" * 80])
def test_sockets_fit_into_their_paths(below, base, monkeypatch):
    (base / below).mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(base / below))
    assert len(str(private_folder() / SOCKET)) <= 107
    assert private_folder().is_relative_to(base / below) == (len(below) < 80)

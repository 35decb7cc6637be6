from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from components.errors import CorruptArtifact, LeaseHeld, StoreError
from components.options import Location
from components.store.artifact import damage, read_manifest, write_manifest
from components.store.files import publish_text, publishing
from components.store.fingerprint import canonical, differences, fingerprint
from components.store.lease import NAME, Lease
from components.store.samples import publish_shard, shard_is_done


@dataclass(frozen=True)
class One:
    x: int = 1


@dataclass(frozen=True)
class Two:
    x: int = 1


@dataclass(frozen=True)
class Placed:
    where: Location
    what: str = "x"


def test_where_something_lies_is_no_part_of_an_identity():
    assert canonical(Placed("/here")) == {"type": "Placed", "what": "x"}
    assert fingerprint([Placed("/here")]) == fingerprint([Placed("/there")])


def test_equal_values_have_equal_fingerprints_and_types_count():
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint(One()) != fingerprint(Two())
    assert fingerprint(One()) != fingerprint(One(2))


@pytest.mark.parametrize("value", [float("nan"), object(), lambda: 0, Path("/x"), {1, 2}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(TypeError):
        canonical(value)


def test_differences_are_named_by_path():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == ["a.b: 1 -> 3", "c: 2 -> gone", "d: new, 4"]
    assert len(differences({}, {"long": list(range(1000))})[0]) < 250


def test_a_file_is_there_in_full_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), publishing(tmp_path / "a") as private:
        private.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    publish_text(tmp_path / "a", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    publish_text(tmp_path / "a", "old")
    monkeypatch.setenv("PROSECO_FAULT", "disk.full")
    with pytest.raises(StoreError, match="nothing was lost"):
        publish_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_manifest_knows_what_is_missing_or_changed(tmp_path):
    folder = tmp_path / "stage" / "key"
    folder.mkdir(parents=True)
    (folder / "x").write_text("hello")
    assert read_manifest(folder) is None
    write_manifest(folder, "stage", "label", 1, {}, 1.0, {"n": 3}, [folder / "x"])
    manifest = read_manifest(folder)
    assert manifest.info == {"n": 3}
    assert damage(folder, manifest, full=True) == []
    (folder / "x").write_text("hallo")
    assert damage(folder, manifest) == []
    assert "digest" in damage(folder, manifest, full=True)[0]
    (folder / "x").write_text("hi")
    assert "2 bytes instead of 5" in damage(folder, manifest)[0]
    (folder / "x").unlink()
    assert "missing" in damage(folder, manifest)[0]
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CorruptArtifact, match="Delete that one file"):
        read_manifest(folder)


def test_the_second_holder_is_told_who_the_first_is(tmp_path):
    with Lease(tmp_path, "first run"):
        with pytest.raises(LeaseHeld, match=f"first run.*process {os.getpid()}"), Lease(tmp_path, "second"):
            pass
    with Lease(tmp_path, "third"):
        pass
    assert not (tmp_path / NAME).exists()


def test_a_dead_holder_is_taken_over_at_once_and_a_silent_one_after_its_expiry(tmp_path):
    record = {"id": "x", "host": os.uname().nodename, "pid": 2**22 + 1, "purpose": "dead", "renewed": time.time()}
    publish_text(tmp_path / NAME, json.dumps(record))
    with Lease(tmp_path, "after a dead one"):
        pass
    far = record | {"host": "elsewhere", "pid": 1}
    publish_text(tmp_path / NAME, json.dumps(far))
    with pytest.raises(LeaseHeld), Lease(tmp_path, "too early"):
        pass
    publish_text(tmp_path / NAME, json.dumps(far | {"renewed": time.time() - 61}))
    with Lease(tmp_path, "after the expiry"):
        pass


def test_a_lease_is_renewed_while_it_is_held(tmp_path):
    with Lease(tmp_path, "long", expiry_s=0.3) as lease:
        first = json.loads(lease.path.read_text())["renewed"]
        deadline = time.monotonic() + 5
        while json.loads(lease.path.read_text())["renewed"] == first and time.monotonic() < deadline:
            pass
        assert json.loads(lease.path.read_text())["renewed"] > first


def test_a_shard_counts_once_and_a_damaged_one_is_made_anew(tmp_path):
    table = pa.table({"x": [1, 2]})
    assert not shard_is_done(tmp_path, "s")
    first = publish_shard(tmp_path, "s", table, "score")
    assert shard_is_done(tmp_path, "s")
    assert publish_shard(tmp_path, "s", table, "score") == first
    (tmp_path / "s.parquet").write_bytes(b"broken")
    assert not shard_is_done(tmp_path, "s")
    publish_shard(tmp_path, "s", table, "score")
    assert shard_is_done(tmp_path, "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "s.parquet"]

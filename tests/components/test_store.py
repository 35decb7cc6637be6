from __future__ import annotations

import dataclasses
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from components.errors import CorruptArtifact, LeaseHeld, LeaseLost, StoreError
from components.options import Location
from components.store import cache
from components.store.artifact import changed, damage, read_manifest, write_manifest
from components.store.files import (
    append_text,
    at,
    create_text,
    files_below,
    folders,
    publish_text,
    publishing,
    read_json,
    read_text,
    remove,
    remove_tree,
    size_of,
)
from components.store.fingerprint import canonical, differences, fingerprint
from components.store.lease import FOLDER, Lease, file_of, highest
from components.store.root import mark_root
from components.store.samples import finished_shard, publish_shard
from components.tracking import JsonlTracker, read_metrics
from tests.objects import BUCKET, objects, reach


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
    assert "digest" in damage(folder, manifest)[0], "it was written at another time"
    os.utime(folder / "x", ns=(0, manifest.files[0].mtime_ns))
    assert damage(folder, manifest) == []
    assert "digest" in changed(folder, manifest)[0], "by its change time"
    assert "digest" in damage(folder, manifest, full=True)[0]
    (folder / "x").write_text("hi")
    assert "2 bytes instead of 5" in damage(folder, manifest)[0]
    (folder / "x").unlink()
    assert "missing" in damage(folder, manifest)[0]
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CorruptArtifact, match="Delete that one file"):
        read_manifest(folder)


def lease(root: Path, purpose: str = "a run", expiry_s: float = 60.0) -> Lease:
    return Lease(root, "train-0123", purpose, expiry_s)


def leave(root: Path, **changes: object) -> Path:
    """The file of a lease that somebody else holds."""
    held = lease(root, "somebody")
    record = dataclasses.asdict(held.record) | {"id": "theirs", "renewed": time.monotonic()} | changes
    number, holder = highest(held.chain)
    path = file_of(held.chain, number + (holder is None or holder.id != "theirs"))
    publish_text(path, json.dumps(record))
    return path


@pytest.fixture(scope="module")
def store():
    with objects() as variables:
        yield variables


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def root(request, tmp_path, monkeypatch):
    """A root on a plain folder, and on three file systems of fsspec."""
    if request.param == "folder":
        return tmp_path
    if request.param != "s3":
        return at(f"{request.param}://{tmp_path}")
    reach(monkeypatch, request.getfixturevalue("store"))
    return at(f"s3://{BUCKET}{tmp_path}")


@pytest.fixture
def clock(monkeypatch):
    """The clocks that leases read. That of silence stands still until a test moves it, so that a slow store can not shift an expiry."""
    clock = SimpleNamespace(**vars(time) | {"now": 1e6, "monotonic": lambda: clock.now})
    monkeypatch.setattr("components.store.lease.time", clock)
    return clock


def test_the_second_holder_is_told_who_the_first_is(root):
    with lease(root, "first run").wait(0) as first:
        with pytest.raises(LeaseHeld, match=f"first run.*process {os.getpid()}"):
            lease(root, "second").wait(0)
        first.fence.check()
    with lease(root, "third").wait(0):
        pass
    assert highest(root / FOLDER / "train-0123") == (2, None)


def test_who_waits_says_for_whom_and_goes_on_when_it_is_free(root):
    first, said = lease(root, "first run").wait(0), []

    def say(message: str) -> None:
        said.append(message)
        first.release()

    with lease(root, "second").wait(None, say):
        pass
    assert len(said) == 1
    assert "train-0123 is held by first run" in said[0]


def test_leases_of_different_stages_do_not_meet(root):
    with lease(root).wait(0), Lease(root, "train-4567", "another", 60.0).wait(0):
        pass


def test_a_dead_holder_on_this_machine_is_taken_over_at_once(root):
    leave(root, pid=2**22 + 1)
    with lease(root).wait(0):
        pass
    leave(root, start=1)  # its number was given to another process since
    with lease(root).wait(0):
        pass


def test_a_silent_holder_on_this_machine_is_taken_over_after_its_expiry(root, clock):
    leave(root, renewed=clock.now - 60)
    with pytest.raises(LeaseHeld):
        lease(root).wait(0)
    clock.now += 1
    with lease(root).wait(0):
        pass


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_the_clock_of_this_machine_may_jump_while_a_lease_is_held(root, clock, monkeypatch, jump_s):
    leave(root, renewed=clock.now - 60)
    now = time.time()
    monkeypatch.setattr(clock, "time", lambda: now + jump_s)
    with pytest.raises(LeaseHeld):
        lease(root).wait(0)
    clock.now += 1
    with lease(root).wait(0):
        pass


@pytest.mark.parametrize("ahead_s", [-1e6, 0, 1e6])
def test_a_holder_elsewhere_is_dead_when_nothing_changed_while_one_watched_whatever_its_clock_says(root, clock, ahead_s):
    leave(root, space="elsewhere", renewed=clock.now + ahead_s)
    watching = lease(root)
    assert watching.take() is not None
    clock.now += 45
    leave(root, space="elsewhere", renewed=clock.now + ahead_s)
    assert watching.take() is not None
    clock.now += 60
    assert watching.take() is not None  # 105 s after the first look, but only 60 s after the last sign of life
    clock.now += 1
    assert watching.take() is None
    watching.release()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": "x"}', "\x00", '{"pid": "many"}'])
def test_a_lease_that_can_not_be_read_does_not_lock_the_stage(root, text):
    publish_text(file_of(root / FOLDER / "train-0123", 1), text)
    with lease(root).wait(0) as taken:
        assert taken.number == 2


def test_a_lease_is_renewed_while_it_is_held(root):
    with lease(root, expiry_s=0.3).wait(0) as held:
        path = file_of(held.chain, held.number)
        first = read_json(path)["renewed"]
        deadline = time.monotonic() + 5
        while read_json(path)["renewed"] == first and time.monotonic() < deadline:
            pass
        assert read_json(path)["renewed"] > first


def test_a_full_disk_does_not_end_the_renewals(tmp_path, monkeypatch):
    with lease(tmp_path, expiry_s=0.6).wait(0) as held:
        path = file_of(held.chain, held.number)
        monkeypatch.setenv("PROSECO_FAULT", "disk.full")
        time.sleep(0.5)  # two renewals fail
        full = read_json(path)["renewed"]
        monkeypatch.delenv("PROSECO_FAULT")
        deadline = time.monotonic() + 5
        while read_json(path)["renewed"] == full and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_json(path)["renewed"] > full
        held.fence.check()


def test_who_slept_and_was_taken_over_can_not_publish_and_does_not_disturb_the_successor(root):
    sleeper = lease(root, "the sleeper")
    assert sleeper.take() is None
    sleeper._stop.set()  # it is suspended: no renewal
    path = file_of(sleeper.chain, 1)
    publish_text(path, json.dumps(read_json(path) | {"renewed": time.monotonic() - 61}))
    successor = lease(root, "the successor").wait(0)
    folder = root / "train" / "0123"
    publish_text(folder / "x", "made")
    with pytest.raises(LeaseLost, match="taken over by the successor"):
        write_manifest(folder, "train", "label", 1, {}, 1.0, {}, [folder / "x"], sleeper.fence.check)
    assert read_manifest(folder) is None
    sleeper.release()
    successor.fence.check()
    write_manifest(folder, "train", "label", 1, {}, 1.0, {}, [folder / "x"], successor.fence.check)
    successor.release()
    with pytest.raises(LeaseLost, match="and finished"):
        sleeper.fence.check()


def test_a_worker_that_does_not_see_the_root_says_so_and_not_that_the_lease_was_lost(tmp_path):
    with lease(tmp_path, "a run").wait(0) as held:
        elsewhere = dataclasses.replace(held.fence, chain=tmp_path / "there" / ".leases" / "train-0")
        with pytest.raises(LeaseLost, match="every machine of the cluster sees by the same name"):
            elsewhere.check()


def test_a_sleeper_does_not_renew_what_it_lost(root):
    sleeper = lease(root, "the sleeper", expiry_s=0.3)
    assert sleeper.take() is None
    publish_text(file_of(sleeper.chain, 2), json.dumps(dataclasses.asdict(sleeper.record) | {"id": "theirs"}))
    sleeper._thread.join(timeout=5)
    assert not sleeper._thread.is_alive()
    assert read_json(file_of(sleeper.chain, 2))["id"] == "theirs"


def test_a_number_is_never_used_again_so_a_late_writer_disturbs_nobody(root):
    """A sleeper that wakes between its look at the lease and its write, and a contender that looked long ago."""
    sleeper = lease(root, "the sleeper")
    assert sleeper.take() is None
    sleeper._stop.set()
    path = file_of(sleeper.chain, 1)
    mine = read_text(path)
    publish_text(path, json.dumps(read_json(path) | {"renewed": time.monotonic() - 61}))
    lease(root, "a successor").wait(0).release()
    with lease(root, "another").wait(0) as held:
        publish_text(path, mine)  # the sleeper's renewal
        held.fence.check()
        with pytest.raises(LeaseLost):
            sleeper.fence.check()
        assert not create_text(file_of(held.chain, held.number), "what a late contender would take")
        assert held.number == 3


def test_a_lease_that_can_not_be_read_just_now_is_neither_lost_nor_free(root, monkeypatch):
    with lease(root).wait(0) as held:

        def broken(path):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("components.store.lease.read_text", broken)
        for action in (held.fence.check, lease(root, "a contender").take):
            with pytest.raises(OSError, match="Input/output"):
                action()
        monkeypatch.undo()
        held.fence.check()


def test_who_waits_little_does_not_rob_who_may_be_silent_for_long(root, clock):
    leave(root, renewed=clock.now - 60, expiry_s=60.0)
    assert lease(root, expiry_s=1.0).take() is not None
    clock.now += 1
    with lease(root, expiry_s=1.0).wait(0):
        pass


def test_of_many_who_try_at_once_one_has_it(root):
    for number in range(10):
        if number % 2:
            leave(root, pid=2**22 + 1)
        leases = [lease(root, str(i)) for i in range(16)]
        with ThreadPoolExecutor(16) as threads:
            got = list(threads.map(lambda one: one.take() is None, leases))
        assert sum(got) == 1
        for one, has in zip(leases, got, strict=True):
            if has:
                one.fence.check()
                one.release()


def test_a_manifest_is_published_once_and_an_edited_number_is_noticed(root):
    folder = root / "stage" / "key"
    publish_text(folder / "x", "hello")
    write_manifest(folder, "stage", "label", 1, {}, 1.0, {"quality": 0.5}, [folder / "x"])
    with pytest.raises(StoreError, match="finished by somebody else"):
        write_manifest(folder, "stage", "label", 1, {}, 1.0, {"quality": 0.7}, [folder / "x"])
    assert read_manifest(folder).info == {"quality": 0.5}
    text = read_text(folder / "manifest.json")
    publish_text(folder / "manifest.json", text.replace("0.5", "0.999"))
    with pytest.raises(CorruptArtifact, match="sealed"):
        read_manifest(folder)


def test_a_file_is_created_once_by_whoever_is_first(root):
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda i: create_text(root / "a", str(i)), range(16)))
    assert sum(made) == 1
    assert read_text(root / "a") == str(made.index(True))
    assert [p.name for p in files_below(root)] == ["a"]


def test_files_and_folders_are_listed_alike_everywhere(root):
    for name in ("b/2", "b/1", "a/x/y"):
        publish_text(root.joinpath(*name.split("/")), name)
    append_text(root / "log", "one\n")
    append_text(root / "log", "two\n")
    assert [p.relative_to(root).as_posix() for p in files_below(root)] == ["a/x/y", "b/1", "b/2", "log"]
    assert [p.name for p in folders(root)] == ["a", "b"]
    assert read_text(root / "log") == "one\ntwo\n"
    assert size_of(root / "b" / "1") == 3
    remove_tree(root / "b")
    remove(root / "log")
    remove(root / "log")
    assert [p.relative_to(root).as_posix() for p in files_below(root)] == ["a/x/y"]
    assert folders(root / "nowhere") == []
    assert files_below(root / "nowhere") == []


def test_what_lies_elsewhere_is_copied_once_and_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    here = at(f"memory://{tmp_path}") / "x"
    publish_text(here, "one")
    fetched = []
    monkeypatch.setattr(
        cache, "fetch", lambda fs, path, copy, fetch=cache.fetch: [fetched.append(path), fetch(fs, path, copy)]
    )
    assert cache.local(here).read_text() == "one"
    assert cache.local(here).name == "x"
    assert len(fetched) == 1
    publish_text(here, "two")
    assert cache.local(here).read_text() == "two"
    assert len(fetched) == 2
    assert cache.local(tmp_path / "plain") == tmp_path / "plain"
    with pytest.raises(FileNotFoundError):
        cache.local(here.parent / "y")


def test_a_copy_that_was_asked_for_lately_stays_because_it_may_not_be_open_yet(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(cache.LIMIT, "150")
    there = at(f"memory://{tmp_path}")
    for name in "ab":
        publish_text(there / name, name * 100)
    first, second = cache.local(there / "a"), cache.local(there / "b")
    assert first.exists()
    os.utime(first, (0, 0))
    partial = second.with_name(".being-fetched")
    partial.write_bytes(b"x" * 100)
    os.utime(partial, (0, 0))
    publish_text(there / "c", "c" * 100)
    cache.local(there / "c")
    assert not first.exists()
    assert partial.exists(), "what another process fetches just now"


def test_copies_that_were_used_longest_ago_make_room(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(cache.LIMIT, "250")
    there = at(f"memory://{tmp_path}")
    copies = {}
    for age, name in enumerate("abc"):
        publish_text(there / name, name * 100)
        copies[name] = cache.local(there / name)
        os.utime(copies[name], (age, age))
        if name == "b":
            os.utime(copies["a"], (age + 1, age + 1))  # a was used after b
    assert [copies[n].exists() for n in "abc"] == [True, False, True]
    assert cache.local(there / "b").read_text() == "b" * 100


def test_a_shard_counts_once_and_a_damaged_one_is_made_anew(tmp_path):
    table = pa.table({"x": [1, 2]})
    assert not finished_shard(tmp_path / "shards", "s")
    first = publish_shard(tmp_path / "shards", "s", table, "score")
    assert finished_shard(tmp_path / "shards", "s")
    assert publish_shard(tmp_path / "shards", "s", table, "score") == first
    (tmp_path / "shards" / "s.parquet").write_bytes(b"broken")
    assert not finished_shard(tmp_path / "shards", "s")
    publish_shard(tmp_path / "shards", "s", table, "score")
    assert finished_shard(tmp_path / "shards", "s")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*")) == ["receipts/s.json", "shards/s.parquet"]


def test_of_writers_who_race_for_a_place_one_wins_and_its_text_stays(root):
    place = root / "race" / "x"
    for _ in range(4):
        remove(place)
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda text: create_text(place, text), [str(writer) for writer in range(8)]))
        assert [str(writer) for writer in range(8) if won[writer]] == [read_text(place)]


def test_a_store_that_writes_over_what_is_there_is_no_root(tmp_path, monkeypatch):
    with objects("unconditional") as variables:
        reach(monkeypatch, variables)
        root = at(f"s3://{BUCKET}/unconditional")
        with pytest.raises(StoreError, match="conditional"):
            mark_root(root)
        assert files_below(root) == []


def test_who_did_not_hear_that_it_had_written_has_written(tmp_path, monkeypatch):
    """The answer to the first request is lost, and the client sends it again by itself."""
    with objects("lossy") as variables:
        reach(monkeypatch, variables)
        root = at(f"s3://{BUCKET}/lossy")
        mark_root(root)
        with lease(root).wait(0), pytest.raises(LeaseHeld):
            lease(root).wait(0)
        with lease(root).wait(0):
            pass


def test_who_was_taken_over_adds_nothing_to_a_journal_that_may_be_finished(root):
    first = lease(root).wait(0)
    journal = JsonlTracker(root / "metrics.jsonl", first.fence.check)
    journal.metrics({"loss": 1.0}, 1)
    publish_text(file_of(first.chain, 2), json.dumps(dataclasses.asdict(first.record) | {"id": "theirs"}))
    with pytest.raises(LeaseLost):
        journal.metrics({"loss": 0.5}, 2)
    assert [row["step"] for row in read_metrics(root / "metrics.jsonl")] == [1]
    first.release()

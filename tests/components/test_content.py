"""Digests of files: made once, remembered, and never believed where the file may have changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.data.corpora import open_corpus
from components.data.corpora.config import JsonlConfig, LatinSquareConfig, StdlibConfig, TextConfig
from components.data.corpora.listing import in_piece, listed
from components.errors import DataError
from components.store import content
from components.store.content import MAX_NAMED, content_of, digest
from components.store.files import digest_file


def new_process(monkeypatch) -> None:
    monkeypatch.setattr(content, "_known", {})


def keep_times(path: Path, data: bytes) -> None:
    """Write other bytes and restore the times that a user can restore."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_is_hashed_once_and_again_only_when_it_changed(tmp_path, hashed, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert digest(file) == digest(file) == digest_file(file)
    assert hashed == ["a"]
    new_process(monkeypatch)
    digest(file)
    assert hashed == ["a"], "the next process remembers"
    keep_times(file, b"two")
    assert digest(file) == digest_file(file)
    assert hashed == ["a", "a"]
    file.replace(tmp_path / "b")
    assert digest(tmp_path / "b") == digest_file(tmp_path / "b")


def test_digests_are_remembered_by_another_interpreter(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code = (
        "import sys; from pathlib import Path; from components.store import content; content.RACY_NS = -1\n"
        "if sys.argv[2] == 'known': content.digest_file = None\n"
        "print(content.digest(Path(sys.argv[1])))"
    )
    found = [
        subprocess.run([sys.executable, "-c", code, str(file), way], capture_output=True, text=True, check=True).stdout
        for way in ("new", "known")
    ]
    assert found[0] == found[1] == digest_file(file) + "\n"


def test_what_was_hashed_too_soon_after_a_write_is_not_believed_later(tmp_path, hashed, monkeypatch):
    monkeypatch.setattr(content, "RACY_NS", 2_000_000_000)
    file = tmp_path / "a"
    file.write_bytes(b"one")
    digest(file)
    digest(file)
    assert hashed == ["a"], "not twice in one plan"
    new_process(monkeypatch)
    digest(file)
    assert hashed == ["a", "a"], "the next process does not trust it"
    content.forget_unsettled()
    digest(file)
    assert hashed == ["a", "a", "a"], "nor does a stage that begins"


def test_a_file_that_is_written_to_while_it_is_hashed_is_not_settled(tmp_path, hashed, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    plain = content.digest_file

    def disturbed(path: Path) -> str:
        found = plain(path)
        file.write_bytes(b"three")
        return found

    monkeypatch.setattr(content, "digest_file", disturbed)
    digest(file)
    monkeypatch.setattr(content, "digest_file", plain)
    assert digest(file) == digest_file(file)


@pytest.mark.parametrize("trouble", ["damaged", "truncated", "a folder", "a file above", "wrong rows", "other table"])
def test_trouble_with_the_file_of_digests_is_no_trouble(tmp_path, hashed, monkeypatch, trouble):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    digest(file)
    base = content.cache_file()
    if trouble == "damaged":
        base.write_bytes(b"nonsense" * 1000)
    elif trouble == "truncated":
        base.write_bytes(base.read_bytes()[: base.stat().st_size // 2])
    elif trouble == "a folder":
        base.unlink()
        base.mkdir()
    elif trouble == "a file above":
        shutil.rmtree(base.parent)
        base.parent.write_text("")
    elif trouble == "wrong rows":
        content.consult(lambda b: b.execute("UPDATE digests SET sha256 = 'short'"))
    else:
        content.consult(lambda b: [b.execute("DROP TABLE digests"), b.execute("CREATE TABLE digests (x)")])
    for _ in range(2):
        new_process(monkeypatch)
        assert digest(file) == digest_file(file)
    if trouble in ("damaged", "truncated", "wrong rows"):
        assert len(hashed) == 2, "it was mended"


def test_a_full_disk_is_no_trouble(tmp_path, hashed, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(content.sqlite3, "connect", full)
    (tmp_path / "a").write_bytes(b"one")
    assert digest(tmp_path / "a") == digest_file(tmp_path / "a")


def test_processes_write_digests_down_together(tmp_path, hashed, monkeypatch):
    files = [tmp_path / f"f{i}" for i in range(40)]
    for file in files:
        file.write_text(file.name)
    threads = [threading.Thread(target=lambda k=k: [digest(f) for f in files[k::4]]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    new_process(monkeypatch)
    assert [digest(f) for f in files] == [digest_file(f) for f in files]


def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path, hashed):
    with pytest.raises(DataError, match="gone cannot be read"):
        digest(tmp_path / "gone")


def test_much_to_hash_is_announced_once(tmp_path, hashed, monkeypatch, caplog):
    monkeypatch.setattr(content, "LONG_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * 20)
    digest(tmp_path / "a")
    digest(tmp_path / "a")
    assert [r.getMessage()[:7] for r in caplog.records] == ["reading"]


def test_a_content_is_the_same_wherever_its_folder_lies(tmp_path, hashed):
    one = tmp_path / "one"
    (one / "deep").mkdir(parents=True)
    (one / "a.jsonl").write_text('{"text": "1"}\n')
    (one / "deep" / "b.jsonl.gz").write_bytes(b"")
    (one / "left.out").write_text("")
    found = JsonlConfig(path=str(one)).content()
    assert [name for name, _ in found.files] == ["a.jsonl", "deep/b.jsonl.gz"]
    shutil.copytree(one, tmp_path / "two")
    assert JsonlConfig(path=str(tmp_path / "two")).content() == found
    assert JsonlConfig(path=str(tmp_path / "two" / "**" / "*.jsonl*")).content() == found
    assert JsonlConfig(path=str(one / "a.jsonl")).content().files == found.files[:1]
    assert LatinSquareConfig().content() is None
    assert StdlibConfig(max_documents=3).content().num_files == 3


def test_paths_are_read_from_where_one_stands(tmp_path, hashed, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("x")
    whole = listed(str(tmp_path / "data"), (".txt",))
    monkeypatch.chdir(tmp_path)
    assert whole == listed("data", (".txt",)) == listed("data/", (".txt",)) == listed("./data/*.txt", (".txt",))
    assert listed("*/a.txt", ()).names == ("data/a.txt",)
    monkeypatch.chdir(tmp_path / "data")
    assert whole == listed("a.txt", ()) == listed("*", ())


def test_ids_are_names_below_the_path_and_pieces_are_read_from_anywhere(tmp_path, hashed, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / f"{name}.txt").write_text(f"{name}\n{name}{name}")
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus(TextConfig(path="data", document="line"))
    pieces = corpus.pieces(2)
    monkeypatch.chdir("/")
    assert [d.id for p in pieces for d in corpus.read(p)] == ["a.txt:1", "a.txt:2", "b.txt:1", "b.txt:2"]
    assert [path for _, path in in_piece(pieces[1])] == [tmp_path / "data" / "b.txt"]


def test_a_name_of_any_bytes_can_be_written_down(tmp_path, hashed):
    name = os.fsdecode(b"\xff.txt")
    (tmp_path / name).write_text("x")
    assert content_of({name: str(tmp_path / name)}).files[0][0] == "\\xff.txt"


def test_many_files_are_one_digest(tmp_path, hashed):
    for i in range(MAX_NAMED + 1):
        (tmp_path / f"{i}.txt").write_text(str(i))
    before = TextConfig(path=str(tmp_path)).content()
    assert before.files == ()
    assert before.num_files == MAX_NAMED + 1
    keep_times(tmp_path / "7.txt", b"8")
    after = TextConfig(path=str(tmp_path)).content()
    assert (after.num_bytes, after.files) == (before.num_bytes, ())
    assert after.digest != before.digest

"""Tables over HTTP and on the page: rows in order, nothing read that is not shown, nothing outside of the root."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.service import tables
from cluster.service.tables import OPENED, Table, events_of, read_rows
from components.data.tokenizer import load_tokenizer
from components.samplers import preset
from components.shards.model import Sampling
from components.shards.sample import SampleShard
from components.store.artifact import write_manifest
from components.store.samples import read_shards
from tests.browser import PHONE, overflowing
from tests.components.test_export import exported
from tests.served import served
from tests.service.test_page import CSS, opened, until

KEYS = {"model": "0" * 16}


def made(root: Path, key: str, sizes: tuple[int, ...] = (5, 7), num_traced: int = 2) -> Path:
    """A finished generate folder, and beside it the export that it was made with."""
    model = root / "export" / KEYS["model"]
    if not model.exists():
        model.parent.mkdir(parents=True)
        exported(model)
    folder = root / "generate" / key
    (folder / "shards").mkdir(parents=True)
    start = 0
    for number, size in enumerate(sizes):
        sampling = Sampling(preset("proseco", steps=4), num_lanes=8)
        traced = num_traced if number == 0 else 0
        SampleShard(f"seed-0-{number:05d}", folder, model, sampling, start, start + size, 9, num_traced=traced).work()
        start += size
    names = [f"seed-0-{number:05d}" for number in range(len(sizes))]
    files = [p for p in folder.rglob("*") if p.is_file()]
    write_manifest(folder, "generate", f"generate/{key}", 1, KEYS, 1.0, {"samples": start, "shards": names}, files)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables") / "runs"
    made(root, "a" * 16)
    (root / "generate" / "unfinished").mkdir()
    return root


@pytest.fixture(scope="module")
def url(root):
    with served(root / "export" / KEYS["model"], tables=root) as url:
        yield url


def get(url: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_pages_are_the_rows_of_the_table_in_its_order(root, url):
    (listed,) = get(f"{url}/v1/tables")[1]["data"]
    assert (listed["name"], listed["label"], listed["rows"]) == ("a" * 16, f"generate/{'a' * 16}", 12)
    names = ["seed-0-00000", "seed-0-00001"]
    whole = read_shards(root / "generate" / ("a" * 16) / "shards", names).select(tables.SHOWN).to_pylist()
    for offset, limit in ((0, 12), (3, 4), (4, 1), (5, 7), (10, 50), (12, 5)):
        page = get(f"{url}/v1/tables/{'a' * 16}/rows?offset={offset}&limit={limit}")[1]
        assert page["data"] == whole[offset : offset + limit]
        assert (page["total"], page["offset"]) == (12, offset)


def test_only_row_groups_and_columns_that_are_shown_are_read(tmp_path, monkeypatch):
    folder = made(tmp_path, "b" * 16, sizes=(6,))
    path = folder / "shards" / "seed-0-00000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    read = []
    original = pq.ParquetFile.read_row_group

    def watching(file, group, columns):
        read.append((group, columns))
        return original(file, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watching)
    table = Table("b" * 16, "", "", tmp_path, "", ("seed-0-00000",))
    rows = read_rows(table, 3, 2, ["text"])
    assert rows == pq.read_table(path, columns=["text"]).slice(3, 2).to_pylist()
    assert read == [(1, ["text"]), (2, ["text"])]


def replayed(events: list[dict]) -> list[int]:
    """The last canvas; every edit must fit the one before it."""
    canvas = list(events[0]["tokens"])
    for event in events[1:-1]:
        for e in event["edits"]:
            assert canvas[e["position"]] == e["old"]
            canvas[e["position"]] = e["new"]
    return canvas


def test_an_opened_row_is_told_as_its_stream_was(root, url):
    found = get(f"{url}/v1/tables/{'a' * 16}/rows/1")[1]
    assert found["kept"] == "trace"
    events = found["data"]
    end = events[-1]["choices"][0]
    assert set(events[0]["tokens"]) == {events[0]["mask_id"]}
    assert replayed(events) == end["proseco"]["tokens"]
    body = {"prompt": "", "n": 2, "seed": 0, "sampler": "proseco", "options": {"steps": 4}}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        again = json.load(answer)["choices"][1]
    assert (end["text"], end["proseco"], end["finish_reason"]) == (
        again["text"],
        again["proseco"],
        again["finish_reason"],
    )


def test_a_row_whose_trace_was_not_kept_still_ends_as_it_did(root):
    table = Table("a" * 16, "", "", root, KEYS["model"], ("seed-0-00000", "seed-0-00001"))
    tokenizer = load_tokenizer(root / "export" / KEYS["model"] / "tokenizer.json")
    rows = read_rows(table, 2, 10, OPENED)
    assert all(row["trace"] is None for row in rows)
    assert [replayed(events_of(row, tokenizer)) for row in rows] == [row["tokens"] for row in rows]
    mask, old = tokenizer.mask_id, [5, 6]
    row = rows[0] | {
        "tokens": [4] * 9,
        "corrections": [
            {"call": 2, "position": 0, "old": old[0], "new": 4, "confidence": 0.5},
            {"call": 3, "position": 1, "old": old[1], "new": mask, "confidence": 0.5},
        ],
    }
    events = events_of(row, tokenizer)
    assert replayed(events) == [4] * 9
    assert [[e["reason"] for e in event["edits"]] for event in events[1:-1]] == [["replace"], ["remask"], ["fill"]]
    assert replayed(events_of(row, None)) == [4] * 9, "also where nobody knows the tokens' texts"


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("..%2f..%2fexport", 404, "name"),
        ("unfinished/rows", 404, "no finished table"),
        ("nowhere/rows", 404, "no finished table"),
        (f"{'a' * 16}/rows/12", 404, "no row '12'"),
        (f"{'a' * 16}/rows/-1", 404, "no row '-1'"),
        (f"{'a' * 16}/rows?limit=201", 400, "limit = 201"),
        (f"{'a' * 16}/rows?offset=-1", 400, "offset = '-1'"),
        (f"{'a' * 16}/rows?columns=trace", 400, "columns"),
    ],
)
def test_what_is_not_there_is_refused_in_words(url, path, status, word):
    code, found = get(f"{url}/v1/tables/{path}")
    assert code == status
    assert path.startswith("..") or word in found["error"]["message"]


def test_a_damaged_or_foreign_shard_is_told_and_harms_no_other(tmp_path):
    made(tmp_path, "c" * 16, sizes=(2,))
    path = made(tmp_path, "d" * 16, sizes=(2,)) / "shards" / "seed-0-00000.parquet"
    other = made(tmp_path, "e" * 16, sizes=(2,)) / "shards" / "seed-0-00000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    pq.write_table(pq.read_table(other).drop_columns(["row_id"]), other)
    with served(tmp_path / "export" / KEYS["model"], tables=tmp_path) as url:
        assert {t["name"][0] for t in get(f"{url}/v1/tables")[1]["data"]} == {"c", "e"}
        code, found = get(f"{url}/v1/tables/{'d' * 16}/rows")
        assert (code, "missing or damaged" in found["error"]["message"]) == (400, True)
        code, found = get(f"{url}/v1/tables/{'e' * 16}/rows")
        assert (code, "no column 'row_id'" in found["error"]["message"]) == (400, True)


def test_names_lead_nowhere_else(root):
    for name in ("..", "../generate", ".", "a/b"):
        with pytest.raises(tables.ApiError, match="get it again"):
            tables.find_table(root, name)


def test_without_a_root_there_are_no_tables(root):
    with served(root / "export" / KEYS["model"]) as url:
        assert get(f"{url}/v1/tables") == (200, {"object": "list", "data": []})
        assert "--tables" in get(f"{url}/v1/tables/{'a' * 16}/rows")[1]["error"]["message"]


def test_any_row_of_a_table_is_opened_on_the_page(root, url, chromium):
    driver = opened(chromium, url, PHONE)
    until(driver, "")
    driver.find_element(CSS, "#tables [aria-label='Open row 1']").click()
    until(driver, "Row 1.")
    (text,) = [e.text for e in driver.find_elements(CSS, ".final")]
    (row,) = read_rows(Table("a" * 16, "", "", root, "", ("seed-0-00000",)), 1, 1, ["text"])
    assert text == row["text"]
    driver.find_element(CSS, "#back").click()
    assert driver.find_elements(CSS, ".canvas b.reveal, .canvas b.replace, .canvas b.mask")
    assert overflowing(driver) == []
    driver.find_element(CSS, "#tables [aria-label='Open row 7']").click()
    until(driver, "Row 7: ")

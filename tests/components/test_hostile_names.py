"""Wherever a name becomes part of a path: what leads out is refused in words, and nothing outside is read or changed."""

from __future__ import annotations

import json
import os
import urllib.parse
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cluster.service.app import build_app
from cluster.service.errors import ApiError
from cluster.service.gate import Doors
from cluster.service.limits import ServiceLimits
from cluster.service.serving import named_folders
from cluster.service.shelf import Shelf
from cluster.service.tables import Table, find_table
from components.api import load
from components.data.corpora.listing import below, listed
from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.errors import ConfigError, CorruptArtifact, DataError, ModelError, StoreError
from components.models.weights import load_weights, read_info
from components.options import parse
from components.store.artifact import read_manifest
from components.store.history import History, read_history
from components.store.lease import Lease
from components.store.links import by_link, links_in
from components.store.names import file_name, relative_path
from components.store.receipts import publish_receipt
from components.store.samples import finished_shard, read_shards, shard_file
from components.training import checkpoint
from pipelines.config.load import load_run
from pipelines.config.schema import RunConfig
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.graph.stage import in_order
from pipelines.replay import trained_of
from pipelines.stages import prompts, tokenize
from pipelines.submission import misnamed
from pipelines.workflows import build
from pipelines.workflows.one_stage import given_samples, model_of_samples
from tests.chaos import harness
from tests.hostile import NAMES, NO_NAMES, manifest, refused, tree

ENTRY = {"size_bytes": 1, "sha256": "0" * 64}
KEY = "a" * 16


def written(folder: Path, file: str, value: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(value))
    return folder


PIECE: dict[str, object] = {"rows": {}, "counts": {}, "parts": [], "quarantined": 0, "examples": []}


def receipt(folder: Path, plain: dict[str, object]) -> Path:
    """One whose writer knew how it is sealed."""
    publish_receipt(folder / "p.json", plain)
    return folder / "p.json"


def night(root: Path, **changes: object) -> Path:
    """A root with one night."""
    written(root / "nightly" / "n", "00000001.json", {"date": "2026-11-26", "decision": "first", "candidate": KEY} | changes)
    return root


ENTRANCES = {
    "a name": lambda f, name: file_name(name, "a file"),
    "a path": lambda f, name: relative_path(name, "a file"),
    "a file of a manifest": lambda f, name: read_manifest(manifest(f, files=[{"path": name, **ENTRY}])),
    "a shard of samples": lambda f, name: given_samples(manifest(f, info={"shards": [name]})),
    "a model of samples": lambda f, name: model_of_samples(manifest(f, inputs={"model": name})),
    "a scorer of samples": lambda f, name: trained_of(manifest(f, inputs={"fit_judge": name})),
    "a shard to read": lambda f, name: read_shards(f, [name]),
    "a shard to make": lambda f, name: shard_file(f, name),
    "a shard to find": lambda f, name: finished_shard(f, name),
    "a file of rows": lambda f, name: TokenRows(
        written(f, "rows.json", {"length": 9, "pad_in_loss": True, "shards": {"train": [name]}}), "train"
    ),
    "a file of a checkpoint": lambda f, name: list(
        checkpoint.read(written(f / "step-00000001", "state.json", {"step": 1, "files": {name: "0"}, "shapes": {}}), ("weight",))
    ),
    "a file of a piece": lambda f, name: tokenize.finished_piece(receipt(f, PIECE | {"files": {name: "0"}}), f),
    "a file of prompts": lambda f, name: prompts.finished_piece(receipt(f, PIECE | {"files": {name: "0"}}), f),
    "a nightly run": lambda f, name: read_history(f, name),
    "a champion": lambda f, name: History(f / "nightly" / "n").export(name),
    "the verdict of a night": lambda f, name: read_history(night(f, verdict=name), "n"),
    "the candidate of a night": lambda f, name: read_history(night(f, candidate=name), "n"),
    "the model of a table": lambda f, name: Table("t", "", "", f, name, ()).tokenizer(),
    "a shard of a table": lambda f, name: Table("t", "", "", f, "", (name,)).rows,
}  # fmt: skip
SPLIT = {"a path", "a file of a manifest", "a file of prompts"}
"""Entrances that take folders, too, each part a name."""


def names_for(entrance: str) -> list[object]:
    """What an entrance must refuse; nothing but texts comes to some, and some take the empty one for none."""
    of_night = entrance.endswith("of a night")
    fine = {"a/b"} if entrance in SPLIT else {""} if of_night else set()
    texts = [name for name in NAMES if name not in fine]
    return texts if of_night or "file" in entrance or entrance == "a path" else [*texts, *NO_NAMES]


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_leads_out_is_refused(entrance, tmp_path):
    folder = tmp_path / "outer" / "inner" / "folder"
    folder.mkdir(parents=True)
    for victim in (tmp_path / "victim", folder.parent / "victim", folder.parent / "victim.json"):
        victim.write_text("kept")
    before = tree(tmp_path)
    for name in names_for(entrance):
        said = refused(lambda name=name: ENTRANCES[entrance](folder, name))
        assert "names a file" in said or (not isinstance(name, str) and "is damaged" in said), name
    ours = {"manifest.json", "rows.json", "step-00000001", "state.json", "p.json", "nightly", "n", "00000001.json"}
    assert {k: v for k, v in tree(tmp_path).items() if Path(k).name not in ours} == before


@pytest.mark.parametrize(
    "changes",
    [{"date": "9999/../../../victim"}, {"date": "z"}, {"date": ""}, {"date": 3}, {"missed": "1"}, {"candidate": 7}, {"reason": None},
     {"decision": ["first"]}, {"of_nobody": ""}],
)  # fmt: skip
def test_the_page_of_a_night_is_named_by_a_date(changes, tmp_path):
    """The page lies beside the entries, under the date that one of them says."""
    assert "can not be read as what became of a night" in refused(lambda: read_history(night(tmp_path, **changes), "n"))
    assert read_history(night(tmp_path, decision="rolled back"), "n").champion == ""
    assert read_history(night(tmp_path), "n").champion == KEY


def test_a_served_name_is_a_name(tmp_path):
    for name in NAMES:
        if name == "":
            continue  # then the folder's name counts
        assert "letters, digits" in refused(lambda name=name: named_folders([f"{name}={tmp_path}"])), name


def test_a_table_is_asked_for_by_its_name(tmp_path):
    (tmp_path / "victim").mkdir()
    manifest(tmp_path / "victim")
    (tmp_path / "root" / "generate").mkdir(parents=True)
    app = build_app(Shelf([]), ServiceLimits(), Doors(), tmp_path / "root")
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        for name in NAMES:
            with pytest.raises(ApiError) as caught:
                find_table(tmp_path / "root", name)
            assert caught.value.status == 404
            if name.isprintable() and len(name) < 1000:
                quoted = urllib.parse.quote(name, safe="", errors="surrogatepass")
                answer = client.get(f"/v1/tables/{quoted}/rows")
                assert answer.status_code in (400, 404), (name, answer.text)
                assert "root:" not in answer.text
        for path in ("/..%2f..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/app.py", "/..%5capp.py", "//etc/passwd", "/%00"):
            assert client.get(path).status_code == 404, path


def test_a_job_of_a_cluster_has_a_name():
    for name in NAMES:
        if name:
            assert [p.path for p in misnamed(name)] == ["--id"], name
    assert list(misnamed("nightly-2026-11-26.2")) == []


@pytest.mark.parametrize("place", ["run", "corpora", "train", "samplers"])
def test_the_names_of_a_run_are_names_and_lead_nowhere(place, tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text(harness.RUN)
    plain = json.loads(json.dumps({"rows": {"length": 9}}))
    for name in NAMES:
        given = {"name": name} if place == "run" else {place: {name: {}}}
        try:
            made = parse(RunConfig, plain | given)
        except ConfigError:
            continue
        names = {"run": [made.name], "corpora": made.corpora, "train": made.train, "samplers": made.samplers}[place]
        assert all("/" not in n and "\0" not in n and len(n) <= 100 for n in names)
    stages = in_order(list(build(load_run(run, ["name=.."])).values()))
    assert all(s.folder(tmp_path).parent.parent == tmp_path and len(s.folder(tmp_path).name) == 16 for s in stages)


def test_files_of_a_corpus_are_what_lies_in_its_folder(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "in").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    strange = ["a b.txt", "-rf.txt", "*.txt", "\u2024\u2024\u2215victim.txt", "a\n.txt", "in/..txt"]
    for name in strange:
        (corpus / name).write_text("x")
    (corpus / "away").symlink_to(tmp_path / "outside")
    (corpus / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(corpus / "pipe.txt")
    (corpus / os.fsdecode(b"\xff.txt")).write_text("x")
    found = set(below(str(corpus)))
    assert found == {*strange, os.fsdecode(b"\xff.txt")}
    assert set(listed(str(corpus), (".txt",)).names) == found
    for device in ("/dev/zero", "/dev/stdin", str(corpus / "pipe.txt"), str(corpus / "zero.txt")):
        with pytest.raises(DataError, match="no such file"):
            listed(device, (".txt",))


def test_what_never_ends_is_no_file(tmp_path):
    """A folder of somebody else may hold pipes, and links to devices."""
    os.mkfifo(tmp_path / "pipe")
    for name, use, error in [
        ("config.json", lambda p: read_info(p.parent), ModelError),
        ("tokenizer.json", load_tokenizer, DataError),
        ("model.safetensors", load_weights, ModelError),
    ]:
        for target in ("/dev/zero", tmp_path / "pipe"):
            (tmp_path / name).symlink_to(target)
            with pytest.raises(error):
                use(tmp_path / name)
            (tmp_path / name).unlink()
    with pytest.raises(ModelError):
        load(tmp_path)


def test_links_are_found(tmp_path):
    root = tmp_path / "root"
    (root / "stage" / "key" / "shards").mkdir(parents=True)
    (root / "stage" / "key" / "shards" / "a").write_text("x")
    assert list(links_in(root)) == []
    assert not by_link(root / "stage" / "key" / "shards" / "a", root)
    (tmp_path / "other").symlink_to(root)
    assert not by_link(tmp_path / "other" / "stage" / "key", tmp_path / "other"), "the root itself may be a link"
    (root / "stage" / "key" / "away").symlink_to(tmp_path)
    assert list(links_in(root)) == [root / "stage" / "key" / "away"]
    assert by_link(root / "stage" / "key" / "away" / "x", root)
    assert list(links_in(tmp_path / "other")) == [], "what it leads to is not looked at"


def test_a_stage_with_a_link_in_it_is_not_begun(tmp_path):
    """Checkpoints of somebody else would be removed where ``checkpoints`` leads."""
    run = tmp_path / "run.yaml"
    run.write_text(harness.RUN)
    config = load_run(run, [*harness.LOCAL, f"runtime.root={tmp_path / 'root'}"])
    stage = build(config)["tokenizer"]
    victim = tmp_path / "victim" / "step-00000001"
    written(victim, "state.json", {"step": 1, "files": {}})
    folder = stage.folder(tmp_path / "root")
    written(folder, "identity.json", {"format": "proseco-stage", "label": stage.label, "identity": stage.identity})
    (folder / "checkpoints").symlink_to(victim.parent)
    before = tree(tmp_path / "victim")
    with pytest.raises(StoreError, match=r"checkpoints is a link to .*victim.* Remove the link"):
        execute("run", [stage], config.runtime, Screen(quiet=True))
    assert tree(tmp_path / "victim") == before
    (folder / "checkpoints").unlink()
    execute("run", [stage], config.runtime, Screen(quiet=True))
    assert read_manifest(folder) is not None


@pytest.mark.parametrize("linked", [".leases", ".leases/train-0"])
def test_a_lease_is_kept_in_its_root_only(linked, tmp_path):
    victim = tmp_path / "victim" / "train-0" if linked == ".leases" else tmp_path / "victim"
    victim.mkdir(parents=True)
    (victim / "00000001.json").write_text("somebody's data")
    place = tmp_path / "root" / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="reached by a link"):
        Lease(tmp_path / "root", "train-0", "test").take()
    assert [p.name for p in victim.iterdir()] == ["00000001.json"]


@pytest.mark.parametrize("linked", ["folder", "shards", "file", "manifest"])
def test_tables_show_what_lies_in_their_root_only(linked, tmp_path):
    from tests.service.test_tables import made

    private = made(tmp_path / "private", KEY, (2,))
    public = tmp_path / "public" / "generate" / KEY
    public.parent.mkdir(parents=True)
    if linked == "folder":
        public.symlink_to(private)
    else:
        (public / "shards").mkdir(parents=True)
        for name in ("manifest.json", "shards/seed-0-00000.parquet"):
            (public / name).write_bytes((private / name).read_bytes())
        assert find_table(tmp_path / "public", KEY).rows == 2
        name = {"shards": "shards", "file": "shards/seed-0-00000.parquet", "manifest": "manifest.json"}[linked]
        there = public / name
        there.rename(tmp_path / "away")
        there.symlink_to(private / name)
    with pytest.raises((CorruptArtifact, ApiError)):
        _ = find_table(tmp_path / "public", KEY).rows
    assert find_table(tmp_path / "private", KEY).rows == 2

"""A service that follows the champion of a nightly run: tried, taken or refused, without a request that fails."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from cluster.service.app import build_app
from cluster.service.follow import Follower, history_at, is_history
from cluster.service.limits import ServiceLimits
from cluster.service.model import open_model
from cluster.service.replica import Replica
from cluster.service.shelf import Shelf
from components.errors import StoreError
from components.models.device import Placement
from components.store.history import Entry, read_history
from tests.cluster.service import OPEN
from tests.components.test_export import exported
from tests.waiting import until

BODY = {"options": {"steps": 2}}


class Failing:
    """Replicas that write rows until they are told to fail."""

    def __init__(self, replica: Replica):
        self.replica, self.num_replicas, self.asked, self.fails = replica, 1, 0, False

    async def sample(self, job):
        self.asked += 1
        if self.fails:
            raise RuntimeError("the network gave no numbers")
        async for news in self.replica.sample(job):
            yield news

    async def numbers(self):
        return await self.replica.numbers()

    async def ready(self):
        return True


class Following:
    """A service of the model ``tiny`` that follows the history of the same name; replicas are in this process."""

    def __init__(self, root: Path, **limits: Any):
        self.root = root
        self.limits = ServiceLimits(**{"follow_s": 0.05, "trial_s": 0.3, "trial_share": 0.5, "grace_s": 5.0} | limits)
        self.opened: dict[Path, Replica] = {}
        self.ended: list[Path] = []
        self.said: list[str] = []
        self.wrap: Any = lambda replica: replica
        self.export("a", 0)
        self.history = read_history(root, "tiny").add(Entry("2026-11-16", "first", "a"))
        folder = self.history.export("a")
        self.shelf = Shelf([open_model("tiny", folder, self.start(folder), 0)])
        stop = threading.Event()
        self.follower = Follower(
            "tiny", self.history.folder, self.shelf, self.start, self.end, self.limits, self.said.append, stop, "a"
        )

    def export(self, key: str, seed: int) -> Path:
        torch.manual_seed(seed)
        folder = self.root / "export" / key
        folder.parent.mkdir(exist_ok=True)
        exported(folder)
        weights = load_file(folder / "model.safetensors")
        save_file({k: v + seed * 0.01 for k, v in weights.items()}, folder / "model.safetensors")
        return folder

    def promote(self, key: str, seed: int) -> None:
        self.export(key, seed)
        self.history = self.history.add(Entry(f"2026-11-{17 + seed}", "promoted", key))

    def start(self, folder: Path) -> Any:
        self.opened[folder] = Replica(str(folder), Placement(), 1, self.limits)
        return self.wrap(self.opened[folder])

    def end(self, backend: Any) -> None:
        replica = getattr(backend, "replica", backend)
        self.ended.append(Path(replica.exported))
        replica.close()

    @property
    def version(self) -> str:
        return self.shelf.places["tiny"].model.version

    def close(self) -> None:
        self.follower.stop.set()
        for folder, replica in self.opened.items():
            if folder not in self.ended:
                replica.close()


@pytest.fixture
def following(tmp_path) -> Iterator[Following]:
    made = Following(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(following) -> Iterator[TestClient]:
    app = build_app(following.shelf, following.limits, OPEN)
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as found:
        yield found


def versions_of(client: TestClient, number: int) -> list[str]:
    """The versions that answered requests; each has to be answered."""
    answers = [client.post("/v1/completions", json=BODY | {"seed": seed}) for seed in range(number)]
    assert [a.status_code for a in answers] == [200] * number
    return [a.json()["system_fingerprint"] for a in answers]


def version(following: Following, key: str) -> str:
    from components.models.weights import version_of

    return version_of(following.root / "export" / key)


def test_a_new_champion_has_a_share_of_the_requests_and_then_all(following, client):
    before = version(following, "a")
    assert set(versions_of(client, 4)) == {before}
    following.promote("b", 1)
    after = version(following, "b")
    following.follower.limits = dataclasses.replace(following.limits, trial_s=60.0)
    looking = threading.Thread(target=following.follower.look)
    looking.start()
    until(lambda: following.shelf.places["tiny"].trial is not None)
    meanwhile = versions_of(client, 12)
    assert {meanwhile.count(before), meanwhile.count(after)} == {6}
    following.follower.limits = following.limits
    looking.join(60)
    assert set(versions_of(client, 4)) == {after}
    assert following.ended == [following.root / "export" / "a"], "the old one is ended, and not before"
    assert following.shelf.outcomes == {("tiny", "taken"): 1}
    following.follower.look()
    assert len(following.opened) == 2, "nothing is new"
    text = client.get("/metrics").text
    assert f'proseco_model_version{{model="tiny",on_trial="no",version="{after}"}} 1.0' in text
    assert "proseco_trials_total{model=\"tiny\",outcome=\"taken\"} 1.0" in text, [x for x in text.splitlines() if "trials" in x]
    assert client.get("/v1/models").json()["data"][0]["version"] == after


@pytest.mark.parametrize(("share", "of_twenty"), [(0.0, 0), (0.1, 2), (0.25, 5), (0.7, 14), (1.0, 20)])
def test_the_share_of_a_version_on_trial_is_what_it_is_told(following, share, of_twenty):
    following.promote("b", 1)
    model = open_model("tiny", following.root / "export" / "b", following.shelf.places["tiny"].model.backend, 0)
    following.shelf.try_out(model, share)
    assert sum(following.shelf.pick("tiny").version == model.version for _ in range(20)) == of_twenty


def test_a_step_back_is_followed_like_any_other_change(following, client):
    following.promote("b", 1)
    following.follower.look()
    following.history = following.history.add(Entry("2026-11-18", "rolled back", "b"))
    following.follower.look()
    assert set(versions_of(client, 2)) == {version(following, "a")}


def test_nobody_notices_that_the_version_changes(following, client):
    """Many ask all the time while three versions come; all are answered, each wholly by one version."""
    stop = threading.Event()

    def asking(seed: int) -> set[tuple[int, str]]:
        found = set()
        while not stop.is_set():
            answer = client.post("/v1/completions", json=BODY | {"seed": seed})
            found.add((answer.status_code, answer.json().get("system_fingerprint", answer.text)))
        return found

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(asking, seed) for seed in range(4)]
        for seed, key in enumerate("bcd", 1):
            following.promote(key, seed)
            following.follower.look()
        stop.set()
        found = set().union(*(a.result() for a in asked))
    assert {code for code, _ in found} == {200}, found
    assert {v for _, v in found} == {version(following, key) for key in "abcd"}


def test_what_can_not_be_started_is_refused_once_and_the_old_one_goes_on(following, client):
    following.promote("b", 1)
    (following.root / "export" / "b" / "model.safetensors").write_bytes(b"cut off")
    following.follower.look()
    assert set(versions_of(client, 2)) == {version(following, "a")}
    assert "was refused" in following.said[-1]
    number = len(following.said)
    following.follower.look()
    assert len(following.said) == number, "it is not tried again and again"
    following.promote("c", 2)
    following.follower.look()
    assert set(versions_of(client, 2)) == {version(following, "c")}
    assert following.shelf.outcomes == {("tiny", "refused"): 1, ("tiny", "taken"): 1}


def test_what_fails_by_itself_is_never_shown_to_anybody(following, client):
    following.promote("b", 1)

    def broken(replica: Replica) -> Failing:
        made = Failing(replica)
        made.fails = True
        return made

    following.wrap = broken
    following.follower.look()
    assert "was refused" in following.said[-1]
    assert following.ended == [following.root / "export" / "b"]
    assert set(versions_of(client, 4)) == {version(following, "a")}


def test_what_fails_on_trial_is_taken_back_at_once(tmp_path):
    following = Following(tmp_path, trial_s=60.0)
    following.wrap = Failing
    following.promote("b", 1)
    app = build_app(following.shelf, following.limits, OPEN)
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        looking = threading.Thread(target=following.follower.look)
        looking.start()
        until(lambda: following.shelf.places["tiny"].trial is not None)
        following.shelf.places["tiny"].trial.backend.backend.fails = True
        codes = [client.post("/v1/completions", json=BODY).status_code for _ in range(2)]
        looking.join(30)
        assert not looking.is_alive(), "it does not wait for the end of the trial"
        assert sorted(codes) == [200, 500]
        assert set(versions_of(client, 4)) == {version(following, "a")}
    assert "1 of" in following.said[-1]
    assert following.shelf.outcomes == {("tiny", "refused"): 1}
    following.close()


def test_no_room_on_a_version_on_trial_is_no_failure(tmp_path):
    following = Following(tmp_path, max_rows=1, trial_share=1.0)
    following.promote("b", 1)
    app = build_app(following.shelf, following.limits, OPEN)
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        looking = threading.Thread(target=following.follower.look)
        looking.start()
        until(lambda: following.shelf.places["tiny"].trial is not None or not looking.is_alive())
        if looking.is_alive():
            client.post("/v1/completions", json=BODY | {"n": 8})
        looking.join(60)
    following.close()
    assert following.shelf.outcomes == {("tiny", "refused"): 1}, "four rows are probed, and one has room"


def test_a_history_is_told_from_an_export_and_needs_a_champion(following, tmp_path):
    assert is_history(following.history.folder)
    assert not is_history(following.history.export("a"))
    with pytest.raises(StoreError, match="no champion yet"):
        history_at(tmp_path / "nightly" / "nobody")


def test_a_look_that_fails_is_told_and_the_next_one_comes(following):
    place = following.history.folder / "00000001.json"
    whole = place.read_text()
    place.write_text("{")
    threading.Thread(target=following.follower.follow, daemon=True).start()
    until(lambda: following.said)
    assert "was not followed" in following.said[0]
    place.write_text(whole)
    following.promote("b", 1)
    until(lambda: following.version == version(following, "b"))
    assert json.loads(whole)["candidate"] == "a"

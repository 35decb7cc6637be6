"""The client against the real service."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing

import pytest

from cluster.service.limits import ServiceLimits
from components.api import load, sample, score
from components.client import Client, Done, Edits, Replay, Start
from components.errors import ClusterError, ConfigError
from tests.components.test_export import exported
from tests.served import served


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "model"
    exported(folder)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    with served(folder) as url:
        yield Client(url, wait=lambda s: pytest.fail("the service was busy"))


def test_completions_are_the_samples_of_the_python_api(folder, client):
    rows = sample(load(folder), "proseco", 3, ["12"], seed=4, steps=4, corrector={"passes": 2})
    found = client.complete("12", n=3, seed=4, sampler="proseco", options={"steps": 4, "corrector": {"passes": 2}})
    assert [c.text for c in found] == [r.text for r in rows]
    assert [c.tokens for c in found] == [r.sample.tokens for r in rows]
    assert [(c.calls, c.edits) for c in found] == [(r.sample.calls, r.sample.edits) for r in rows]
    assert found[0].row_id == f"{rows[0].sample.id:016x}-4"


def test_a_stream_replayed_ends_in_the_tokens_of_the_answer(client):
    rows: dict[int, Replay] = {}
    for event in client.stream("1", n=2, seed=1, sampler="proseco", options={"steps": 5}):
        match event:
            case Start():
                rows[event.index] = Replay(event)
                assert (event.tokens[0], event.pieces[0], rows[event.index].num_masked) == (4, "1", 8)
            case Edits():
                rows[event.index].apply(event)
            case Done():
                assert [tuple(rows[c.index].tokens) for c in event.choices] == [c.tokens for c in event.choices]
                assert event.usage["calls"] == sum(c.calls for c in event.choices)
    assert sorted(rows) == [0, 1]
    assert all(row.num_masked == 0 for row in rows.values())


def test_whoever_leaves_a_stream_takes_its_row_along(folder):
    """There is room for one row, and this one would take a hundred thousand calls."""
    with served(folder, limits=ServiceLimits(max_rows=1)) as url:
        client = Client(url, retries=100, wait=lambda s: time.sleep(0.02))
        with closing(client.stream("", sampler="proseco", options={"steps": 50_000})) as stream:
            assert isinstance(next(stream), Start)
            with pytest.raises(ClusterError, match="max_rows"):
                Client(url, retries=0).complete("")
        assert client.complete("", options={"steps": 2})


def test_templates_keep_what_they_hold(client):
    (found,) = client.complete(template=["12", 4, "31"], options={"steps": 3})
    assert (found.text[:2], found.tokens[-2:], len(found.tokens)) == ("12", (6, 4), 8)


def test_scores_and_models(folder, client):
    assert client.score(["123231312"], ["nelbo", "entropy"]) == score(load(folder), ["123231312"], ["nelbo", "entropy"])
    (model,) = client.models()
    assert (model["id"], "proseco" in model["samplers"]) == ("tiny", True)


def test_refusals_have_the_words_of_the_service(client):
    with pytest.raises(ConfigError, match="did you mean proseco"):
        client.complete("12", sampler="prosecco")
    with pytest.raises(ConfigError, match=r"options\.steps = -1"):
        client.complete("12", options={"steps": -1})
    with pytest.raises(ConfigError, match="symbols that tiny knows"):
        list(client.stream("x"))


def test_keys_are_sent_and_a_used_up_one_waits_as_long_as_it_is_told(folder, tmp_path):
    digest = hashlib.sha256(b"secret").hexdigest()
    keys = tmp_path / "keys.yaml"
    keys.write_text(json.dumps([{"name": "me", "sha256": digest, "samples_per_minute": 4}]))
    waits: list[float] = []
    with served(folder, keys=keys) as url:
        with pytest.raises(ConfigError, match="key"):
            Client(url, wait=waits.append).models()
        assert waits == []
        mine = Client(url, "secret", retries=1, wait=waits.append)
        assert len(mine.complete("", n=3, options={"steps": 2})) == 3
        with pytest.raises(ClusterError):
            mine.complete("", n=3, options={"steps": 2})
    assert len(waits) == 1
    assert 25 <= waits[0] <= 60, "2 rows come back in half a minute"


def test_a_body_that_is_too_large_is_refused_with_a_reason(folder):
    with served(folder, limits=ServiceLimits(max_body_bytes=1000)) as url, pytest.raises(ConfigError, match="1000"):
        Client(url).complete("1" * 2000)

"""What the service answers: the same rows as Python, streams that do not lie, and reasons instead of answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cluster.service.app import build_app
from cluster.service.limits import ServiceLimits
from cluster.service.model import open_model
from cluster.service.shelf import Shelf
from components.api import load, sample, score
from components.models.config import ModelConfig
from components.samplers import PRESETS
from tests.cluster.service import OPEN, WHOLE, events_of, made, replicas, served
from tests.components.test_export import MODELS

COMPLETIONS = "/v1/completions"
ON_NOISE = ("dsl", "dsl_sde")
"""Presets for networks on noisy embeddings, which no network on tokens can run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("service") / "m")


@pytest.fixture(scope="module")
def client(folder):
    with served(folder) as found:
        yield found


def test_completions_are_the_rows_that_python_makes(client, folder):
    model = load(folder)
    body = {"prompt": ["12", ""], "n": 2, "sampler": "proseco", "options": {"steps": 3}, "seed": 5}
    answer = client.post(COMPLETIONS, json=body).json()
    rows = sample(model, "proseco", 2, ["12", ""], seed=5, steps=3)
    assert [c["proseco"]["tokens"] for c in answer["choices"]] == [list(r.sample.tokens) for r in rows]
    assert [c["text"] for c in answer["choices"]] == [r.text for r in rows]
    assert [c["proseco"]["row_id"] for c in answer["choices"]] == [f"{r.sample.id:016x}-5" for r in rows]
    assert [(c["proseco"]["calls"], c["proseco"]["edits"]) for c in answer["choices"]] == [
        (r.sample.calls, r.sample.edits) for r in rows
    ]
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 2
    assert usage["total_tokens"] == 2 + usage["completion_tokens"]
    assert usage["calls"] == sum(r.sample.calls for r in rows)
    assert (answer["object"], answer["model"]) == ("text_completion", "toy")
    again = client.post(COMPLETIONS, json=body).json()
    assert again["choices"] == answer["choices"]
    assert again["id"] != answer["id"]


def test_a_text_is_one_prompt_and_equal_prompts_are_different_samples(client):
    one = client.post(COMPLETIONS, json={"prompt": "12", "options": {"steps": 3}}).json()["choices"]
    same = client.post(COMPLETIONS, json={"prompt": ["12", "12"], "options": {"steps": 3}}).json()["choices"]
    assert len(one) == 1
    assert one[0]["proseco"] == same[0]["proseco"]
    assert same[0]["proseco"]["row_id"] != same[1]["proseco"]["row_id"]
    two = client.post(COMPLETIONS, json={"prompt": "12", "n": 2, "options": {"steps": 3}}).json()["choices"]
    assert two == same


def test_max_tokens_and_length_say_how_long_a_row_is(client):
    def tokens(**body):
        return client.post(COMPLETIONS, json={"prompt": "12", "options": {"steps": 2}} | body).json()["choices"][0][
            "proseco"
        ]["tokens"]

    assert len(tokens()) == 9
    assert len(tokens(max_tokens=3)) == 5
    assert len(tokens(length=5)) == 5
    assert tokens(length=5) == tokens(max_tokens=3)
    assert all(t[:2] == [4, 5] for t in (tokens(), tokens(max_tokens=3)))


def test_a_template_is_filled_and_is_the_whole_row(client):
    answer = client.post(COMPLETIONS, json={"template": ["1", 3, "23", 1], "options": {"steps": 2}}).json()
    tokens = answer["choices"][0]["proseco"]["tokens"]
    assert len(tokens) == 7
    assert (tokens[0], tokens[4:6]) == (4, [5, 6])
    assert 0 not in tokens
    assert answer["usage"]["prompt_tokens"] == 3
    longer = client.post(COMPLETIONS, json={"template": ["1", 3], "max_tokens": 2, "options": {"steps": 2}}).json()
    assert len(longer["choices"][0]["proseco"]["tokens"]) == 6


def test_echo_gives_the_prompt_in_front(client):
    body = {"prompt": "12", "options": {"steps": 2}}
    plain, echoed = (
        client.post(COMPLETIONS, json=body | {"echo": e}).json()["choices"][0]["text"] for e in (False, True)
    )
    assert echoed == "12" + plain


def test_a_text_that_ends_by_itself_says_stop_and_counts_what_is_in_it(client):
    """Ids: 1 is padding, 2 the end."""
    seen = set()
    for seed in range(12):
        answer = client.post(COMPLETIONS, json={"seed": seed, "max_tokens": 1, "options": {"steps": 1}}).json()
        (choice,) = answer["choices"]
        tokens = choice["proseco"]["tokens"]
        text = tokens[: tokens.index(2)] if 2 in tokens else tokens
        assert choice["finish_reason"] == ("stop" if {1, 2} & set(tokens) else "length")
        assert answer["usage"]["completion_tokens"] == len([t for t in text if t != 1]) == len(choice["text"])
        seen.add(choice["finish_reason"])
    assert seen == {"stop", "length"}


def test_temperature_and_top_p_are_options_of_the_draw(client):
    def tokens(**body):
        answer = client.post(COMPLETIONS, json={"sampler": "confidence", "n": 8, "seed": 3} | body).json()
        return [c["proseco"]["tokens"] for c in answer["choices"]]

    assert tokens(temperature=0) == tokens(options={"draw": {"temperature": 0}}) != tokens()
    assert tokens(top_p=0.3) == tokens(options={"draw": {"top_p": 0.3}}) != tokens()
    assert tokens(temperature=0.5, options={"draw": {"top_p": 0.3}}) == tokens(
        options={"draw": {"temperature": 0.5, "top_p": 0.3}}
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with served(made(tmp_path_factory.mktemp("service") / "whole", WHOLE, chat=True)) as found:
        yield found


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    config = ModelConfig(dim=16, depth=1, heads=2, num_classes=3, encoder="dsl", noise_dim=8)
    with served(made(tmp_path_factory.mktemp("service") / "noisy", config)) as found:
        yield found


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_stream_replayed_gives_exactly_the_answer_for_every_preset(whole, noisy, name):
    body = {"prompt": "12", "n": 2, "sampler": name, "label": 1, "seed": 2}
    whole = noisy if name in ON_NOISE else whole
    plain = whole.post(COMPLETIONS, json=body)
    assert plain.status_code == 200, plain.text
    with whole.stream("POST", COMPLETIONS, json=body | {"stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, done = events_of("".join(answer.iter_text()))
    assert done == "[DONE]"
    starts, edits, last = events[:2], events[2:-1], events[-1]
    assert {e["id"] for e in events} == {last["id"]}
    assert [e["object"] for e in starts] == ["text_completion.start"] * 2
    assert all(e["object"] == "text_completion.edit" for e in edits)
    shown = {e["index"]: list(e["tokens"]) for e in starts}
    pieces = {e["index"]: list(e["pieces"]) for e in starts}
    assert pieces[0] == ["1", "2", *[None] * 7]
    assert starts[0]["mask_id"] == 0
    for event in edits:
        for edit in event["edits"]:
            row = shown[event["index"]]
            assert row[edit["position"]] == edit["old"] != edit["new"]
            row[edit["position"]] = edit["new"]
            pieces[event["index"]][edit["position"]] = edit["text"]
    for choice in last["choices"]:
        index = choice["index"]
        assert shown[index] == choice["proseco"]["tokens"]
        end = shown[index].index(2) if 2 in shown[index] else None
        assert "".join(pieces[index][2:end]) == choice["text"]
    assert last["choices"] == plain.json()["choices"]
    assert last["usage"] == plain.json()["usage"]


def test_a_conversation_goes_through_the_models_own_template(whole):
    """The template of this model writes 1 for a user, 2 for an assistant, and 3 at the end."""
    turns = [{"role": "user", "content": "12"}, {"role": "assistant", "content": "3"}]
    body = {"messages": turns, "max_tokens": 3, "options": {"steps": 2}}
    answer = whole.post("/v1/chat/completions", json=body).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["proseco"]["tokens"][:6] == [4, 4, 5, 5, 6, 6]
    assert answer["choices"][0]["message"]["role"] == "assistant"
    plain = whole.post(COMPLETIONS, json={"prompt": "112233", "max_tokens": 3, "options": {"steps": 2}}).json()
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
    streamed = events_of(whole.post("/v1/chat/completions", json=body | {"stream": True}).text)
    assert streamed[0]["object"] == "chat.completion.start"
    assert streamed[-2]["choices"] == answer["choices"]


def test_a_conversation_can_not_hold_what_ends_turns(whole, client):
    found = whole.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "1[EOS]2"}]})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "messages.0.content")
    found = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "1"}]})
    assert (found.status_code, found.json()["error"]["code"]) == (400, "no_chat_template")


def test_scores_are_those_that_python_gives(client, folder):
    answer = client.post("/v1/score", json={"texts": ["123231312", "1"], "scorers": ["nelbo", "entropy"]}).json()
    assert answer["scores"] == score(load(folder), ["123231312", "1"], ["nelbo", "entropy"])
    assert client.post("/v1/score", json={"texts": "12"}).status_code == 200


def test_models_say_what_they_can_do(client, whole):
    (plain,), (full,) = (c.get("/v1/models").json()["data"] for c in (client, whole))
    assert (plain["id"], plain["object"], plain["length"], plain["default_sampler"]) == ("toy", "model", 9, "proseco")
    assert "learned_policy" in full["samplers"]
    assert "learned_policy" not in plain["samplers"]
    assert (full["num_classes"], full["chat"]) == (3, True)


REASONS = {
    "unknown field": ({"temprature": 1}, "temprature", "did you mean temperature?"),
    "unknown sampler": ({"sampler": "prosecco"}, "sampler", "did you mean proseco?"),
    "sampler of another type": ({"sampler": 3}, "sampler", "a text, not a whole number"),
    "unknown option": ({"options": {"corrector": {"draft": "argmx"}}}, "options.corrector.draft", "did you mean argmax?"),
    "option of another type": ({"options": {"steps": "x"}}, "options.steps", "a whole number, not a text"),
    "top-level option": ({"steps": 4}, "steps", "one of"),
    "lanes": ({"num_lanes": 10**9}, "num_lanes", "one of"),
    "judge": ({"judge": "/etc/passwd"}, "judge", "one of"),
    "untrained": ({"allow_untrained": True}, "allow_untrained", "one of"),
    "lanes in options": ({"options": {"num_lanes": 10**9}}, "options.num_lanes", "one of"),
    "a scorer that needs a file": ({"sampler": "fk_steering", "options": {"search": {"reward": "judge"}}}, "options.search.reward", "one of"),
    "a reward that is none": ({"sampler": "fk_steering", "options": {"search": {"reward": "x"}}}, "options.search.reward", "one of"),
    "numbers as prompts": ({"prompt": 12}, "prompt", "a list"),
    "no prompt at all": ({"prompt": []}, "prompt", "at least 1 of them"),
    "unknown symbol": ({"prompt": "9"}, "prompt", "symbols that toy knows"),
    "a mask in a prompt": ({"prompt": "1[MASK]"}, "prompt", "use template"),
    "a template of very many positions": ({"template": ["1", 2**31 - 1, 2**31 - 1]}, "template", "no row has more than 1048576"),
    "no room": ({"prompt": "123123123"}, "prompt[0]", "leaves none to write"),
    "label without classes": ({"label": 1}, "label", "without classes"),
    "negative label": ({"label": -1}, "label", "trained without classes or values"),
    "no rows": ({"n": 0}, "n", "at least 1"),
    "a huge seed": ({"seed": 2**63}, "seed", "in [0, 9223372036854775808)"),
    "two temperatures": ({"temperature": 0, "options": {"draw": {"temperature": 1}}}, "temperature", "give one of them"),
    "two lengths": ({"length": 5, "max_tokens": 3}, "length", "give one of them"),
    "temperature below 0": ({"temperature": -1}, "temperature", "at least 0"),
    "a template of nothing": ({"template": [0]}, "template", "at least 1"),
    "template beside prompt": ({"template": [3], "prompt": "1"}, "template", "put the prompt in"),
    "preset twice": ({"options": {"preset": "mdlm"}}, "options.preset", 'use "sampler"'),
    "stop": ({"stop": ["x"]}, "stop", "cut the text"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty", "leave it out"),
    "logprobs": ({"logprobs": 3}, "logprobs", "/v1/score"),
    "suffix": ({"suffix": "x"}, "suffix", "template"),
    "best_of": ({"best_of": 3}, "best_of", "best_of_n"),
    "tools": ({"tools": [{}]}, "tools", "no tools"),
    "a sampler that the model can not run": ({"sampler": "learned_policy"}, "sampler", "Use another sampler"),
    "parts that do not fit": ({"options": {"schedule": "cosine"}, "sampler": "dsl_sde"}, "options.schedule.name", "at_end"),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_what_can_not_be_done_gets_a_reason_and_a_remedy(client, case):
    body, param, words = REASONS[case]
    answer = client.post(COMPLETIONS, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


def test_values_of_parameters_that_change_nothing_are_taken(client):
    plain = {"prompt": "12", "options": {"steps": 2}}
    neutral = {
        "best_of": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logprobs": None,
        "stop": None,
        "suffix": "",
    }
    first, second = (client.post(COMPLETIONS, json=body).json() for body in (plain, plain | neutral))
    assert first["choices"] == second["choices"]


RAW = {
    "no JSON": (b"{", "broken JSON"),
    "no object": (b"[1]", "an object"),
    "NaN": (b'{"temperature": NaN}', "NaN is no number"),
    "infinity": (b'{"temperature": -Infinity}', "no number"),
    "too large": (b'{"temperature": 1e999}', "too large"),
    "a long number": (b'{"seed": ' + b"1" * 6000 + b"}", "digits"),
    "deep": (b'{"options": ' + b'{"a": ' * 60 + b"1" + b"}" * 61, "nested too deeply; at most 16 levels"),
    "very deep": (b"[" * 200_000 + b"]" * 200_000, "nested too deeply; at most 16 levels"),
    "half a character": (rb'{"prompt": "\ud800"}', "surrogate"),
    "no UTF-8": (b'{"prompt": "\xff"}', "UTF-8"),
    "empty": (b"", "broken JSON"),
}


@pytest.mark.parametrize("case", RAW)
@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/score", "/v1/chat/completions"])
def test_hostile_json_gets_a_reason(client, path, case):
    raw, words = RAW[case]
    answer = client.post(path, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]


def test_paths_methods_and_kinds_of_bodies_that_are_not_known(client):
    assert client.get("/nowhere").status_code == 404
    assert client.get(COMPLETIONS).status_code == 405
    assert client.post("/v1/nowhere", json={}).status_code == 404
    assert client.post(COMPLETIONS, json={"model": "other"}).status_code == 404
    assert client.post(COMPLETIONS, content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert all("error" in client.get(path).json() for path in ("/nowhere", COMPLETIONS))


def test_two_models_stand_side_by_side_and_have_to_be_named(tmp_path, folder):
    folders = {"one": folder, "two": made(tmp_path / "two", MODELS["conditioned"], trained_with="mdlm")}
    with replicas(folders, ServiceLimits()) as opened:
        models = [open_model(name, path, opened[name], 0) for name, path in folders.items()]
        client = TestClient(build_app(Shelf(models), ServiceLimits(), OPEN), base_url="http://127.0.0.1")
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["one", "two"]
        unnamed = client.post(COMPLETIONS, json={})
        assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "model")
        first, second = (client.post(COMPLETIONS, json={"model": n, "options": {"steps": 2}}).json() for n in folders)
        assert (first["model"], second["model"]) == ("one", "two")
        assert first["choices"] != second["choices"]
        assert client.post(COMPLETIONS, json={"model": "two", "label": 2}).status_code == 200
        assert client.post(COMPLETIONS, json={"model": "two", "label": 3}).status_code == 400
        assert 'model="two"' in client.get("/metrics").text


def test_the_schema_is_published_and_its_page_needs_nothing_from_elsewhere(client):
    schema = client.get("/openapi.json").json()
    body = schema["paths"][COMPLETIONS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) >= {"prompt", "template", "sampler", "options", "stream", "deadline_s"}
    assert body["properties"]["seed"]["description"]
    assert {"400", "401", "413", "429", "503", "504"} <= set(schema["paths"][COMPLETIONS]["post"]["responses"])
    for path in ("/docs", "/"):
        page = client.get(path)
        assert page.status_code == 200
        assert not re.search(r"https?://", page.text)
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["x-frame-options"] == "DENY"
    assert COMPLETIONS in client.get("/docs").text
    assert client.get("/../pyproject.toml").status_code == 404
    assert json.loads(client.get("/healthz").text) == {"status": "ok"}


def computed(calls: list[int], equal: tuple[int, ...]) -> tuple[int, int]:
    """Forwards and their inputs, of rows that are called in every step until they end, eight inputs a full forward, where
    those of some sizes have equal bits: each size is tried beside a full one when it is first wanted."""
    forwards = lanes = 0
    tried = set()
    for step in range(max(calls)):
        live = sum(step < number for number in calls)
        size = 1 << (live - 1).bit_length()
        while size < 8:
            if size not in tried:
                tried.add(size)
                forwards, lanes = forwards + 2, lanes + 8 + size
            if size in equal:
                break
            size *= 2
        forwards, lanes = forwards + 1, lanes + size
    return forwards, lanes


def test_metrics_count_what_was_asked_and_what_was_computed(folder):
    with served(folder) as client:
        body = {"prompt": "12", "n": 3, "options": {"steps": 4}}
        answer = client.post(COMPLETIONS, json=body).json()
        client.post(COMPLETIONS, json={"n": 0})
        found = dict(re.findall(r"^(\w+(?:{[^}]*})?) (\S+)$", client.get("/metrics").text, re.M))
    of = {
        name.partition("{")[0]: float(value)
        for name, value in found.items()
        if "replica=" in name and "lane=" not in name
    }
    choices = answer["choices"]
    assert of["proseco_rows_total"] == 3
    assert of["proseco_calls_total"] == answer["usage"]["calls"]
    assert of["proseco_useful_tokens_total"] == answer["usage"]["completion_tokens"]
    assert of["proseco_corrections_total"] == sum(c["proseco"]["edits"] for c in choices)
    calls = [c["proseco"]["calls"] for c in choices]
    made = of["proseco_forwards_total"], of["proseco_forward_lanes_total"]
    assert made in [computed(calls, equal) for n in range(4) for equal in itertools.combinations((1, 2, 4), n)]
    assert of["proseco_forward_lanes_idle_total"] == of["proseco_forward_lanes_total"] - of["proseco_calls_total"]
    assert of["proseco_padding_waste"] == pytest.approx(
        of["proseco_forward_lanes_idle_total"] / of["proseco_forward_lanes_total"]
    )
    assert found['proseco_requests_total{code="200",route="/v1/completions"}'] == "1.0"
    assert found['proseco_requests_total{code="400",route="/v1/completions"}'] == "1.0"
    assert found['proseco_request_seconds_count{route="/v1/completions"}'] == "2.0"
    lanes = [name for name in found if "lane=" in name]
    assert len(lanes) == 6
    assert all(float(found[name]) == 0 for name in lanes)


def test_the_page_about_the_service_names_every_limit_and_every_number(client):
    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(ServiceLimits):
        assert re.search(rf"^\| `{field.name}` \|.*\| {re.escape(str(field.default))} \|$", page, re.M), field.name
    client.post(COMPLETIONS, json={"options": {"steps": 2}})
    numbers = set(re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", client.get("/metrics").text, re.M))
    numbers = {n for n in numbers if not n.endswith("_created")}
    assert len(numbers) >= 15
    assert not [n for n in numbers if f"`{n}`" not in page]

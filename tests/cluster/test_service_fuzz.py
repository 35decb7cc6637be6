"""Whatever the published schema allows, and whatever it does not: an answer or a reason, and never a failure."""

from __future__ import annotations

import json
import threading

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.cluster.service import WHOLE, made, served

EXAMPLES = 150
FIXED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
LIMITS = {"max_cost": 20_000, "deadline_s": 5.0, "max_deadline_s": 5.0, "max_length": 40, "max_rows": 512}
AS_DESIGNED = (503, 504)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with served(made(tmp_path_factory.mktemp("fuzz") / "m", WHOLE, chat=True), **LIMITS) as found:
        yield found
        assert found.replica.engine.alive
        assert not [t for t in threading.enumerate() if t.name == "engine" and not t.is_alive()]
        assert found.replica.engine.numbers.failed == 0


def answered(client, path: str, body: object) -> int:
    """The status of an answer, which is JSON and says why where it is no text."""
    raw = body if isinstance(body, bytes) else json.dumps(body, default=repr).encode()
    answer = client.post(path, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code < 500 or answer.status_code in AS_DESIGNED, (body, answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    return answer.status_code


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/score"])
def test_bodies_made_of_the_schema_and_against_it_never_fail(client, path):
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operation = schema[path]["POST"]
    for mode in GenerationMode:
        codes = set()

        @given(case=operation.as_strategy(generation_mode=mode))
        @FIXED
        def check(case):
            codes.add(answered(client, path, b"" if isinstance(case.body, schemathesis.core.NotSet) else case.body))  # noqa: B023

        check()
        assert codes


@pytest.mark.parametrize("template", [[""], ["", ""]])
def test_a_template_without_a_position_is_refused(client, template):
    assert answered(client, "/v1/completions", {"template": template, "options": {}}) == 400


NUMBERS = st.one_of(
    st.integers(-3, 12), st.sampled_from([-1.5, 0.0, 0.3, 0.9, 1.0, 1e-300, 1e300, 10**9, 2**31, 2**62])
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.lists(NUMBERS, max_size=3))


def sections() -> st.SearchStrategy[dict]:
    """Options of samplers as people write them: known names, with values that fit, and those that do not."""
    from components.options import json_schema
    from components.samplers import PARTS
    from components.samplers.config import SamplerConfig

    def of(names: dict) -> st.SearchStrategy[dict]:
        return st.dictionaries(st.sampled_from(sorted(names)), PLAIN, max_size=3)

    parts = {}
    for field, family in PARTS.items():
        kinds = [
            of(json_schema(card).get("properties", {}) or {"x": 0}).map(lambda own, name=name: {"name": name, **own})
            for name, card in family.items()
        ]
        parts[field] = st.one_of(st.sampled_from(sorted(family)), *kinds, PLAIN)
    for field in ("draw", "guidance", "blocks", "guard"):
        parts[field] = of(json_schema(SamplerConfig)["properties"][field]["properties"])
    parts["steps"] = NUMBERS
    return st.fixed_dictionaries({}, optional=parts)


def test_options_of_samplers_never_fail(client):
    from components.samplers import PRESETS

    codes = []

    @given(
        sampler=st.sampled_from(sorted(PRESETS)),
        options=sections(),
        stream=st.booleans(),
        label=st.sampled_from([None, 0, 2]),
    )
    @settings(FIXED, max_examples=3 * EXAMPLES)
    def check(sampler, options, stream, label):
        body = {
            "sampler": sampler,
            "options": options,
            "stream": stream,
            "label": label,
            "prompt": "1",
            "max_tokens": 6,
        }
        codes.append(answered(client, "/v1/completions", body))

    check()
    assert codes.count(200) > EXAMPLES // 3
    assert codes.count(400) > EXAMPLES // 3

from __future__ import annotations

import dataclasses
import pickle
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from components.errors import ConfigError
from components.options import Count, Share, collect, describe, json_schema, options, parse
from components.plugins import Card, Family
from components.samplers import PARTS, preset


@options
class Shape(Card):
    """What toys share."""


@options
class Ball(Shape):
    """A round one."""

    name: ClassVar[str] = "ball"

    radius: Count = 1
    """Of the ball."""


@options
class Box(Shape):
    """One with corners."""

    name: ClassVar[str] = "box"

    sides: tuple[int, int] = (1, 2)


SHAPES: Family[Shape] = Family("shape", Shape, Ball, Box)


@options
class Toy:
    """A toy."""

    shape: Annotated[Shape, SHAPES.slot()] = Ball()
    share: Share = 0.5
    spare: float | None = None
    parts: dict[str, Ball] = dataclasses.field(default_factory=dict)


def told(plain, kind=Toy) -> dict[str, tuple[str, str]]:
    """Path to (rule, remedy) of everything that is wrong."""
    with pytest.raises(ConfigError) as found:
        parse(kind, plain)
    return {p.path: (p.rule, p.remedy) for p in found.value.problems}


def test_plain_values_become_options_and_nothing_is_coerced_but_whole_numbers_to_others():
    assert parse(Toy, {"shape": "box", "share": 1, "spare": 2}) == Toy(Box(), 1.0, 2.0)
    assert parse(Toy, {"shape": {"name": "box", "sides": [3, 4]}}).shape == Box((3, 4))
    for wrong in ("0.5", True, None, [0.5]):
        assert "share" in told({"share": wrong})


def test_everything_that_is_wrong_is_said_at_once_with_rule_and_remedy():
    found = told({"shape": {"name": "ball", "radius": 0}, "share": 2, "sharre": 1, "parts": {"a": {"radius": "x"}}})
    assert found["shape.radius"] == ("at least 1", "write such a number; the default is 1")
    assert found["share"][0] == "in [0, 1]"
    assert found["sharre"][1] == "did you mean share?"
    assert found["parts.a.radius"][0] == "a whole number, not a text"
    assert told({"shape": "bal"})["shape.name"] == ("one of ball, box", "did you mean ball?")
    assert told({"shape": {"radius": 1}})["shape"][0] == "a section with the name of a shape"
    assert told([1])[""][0].startswith("a section with options")


def test_what_does_not_fit_stands_at_its_default_so_that_rules_can_be_checked():
    problems = []
    toy = collect(Toy, {"shape": {"name": "box", "sides": [1]}, "share": 0.25, "spare": "x"}, "toy", problems)
    assert toy == Toy(Box(), 0.25)
    assert sorted(p.path for p in problems) == ["toy.shape.sides[1]", "toy.spare"]


@options
class Wanting:
    """One that has to be given."""

    texts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Without a default."""


@pytest.mark.parametrize("plain", [{"texts": []}, {"texts": 3}, {}, [], 3])
def test_what_has_no_default_and_does_not_fit_is_a_problem_like_any_other(plain):
    with pytest.raises(ConfigError) as found:
        parse(Wanting, plain, "wanting")
    assert found.value.problems[0].path in ("wanting", "wanting.texts")


def test_options_are_checked_in_code_as_well():
    with pytest.raises(ValueError, match="greater than or equal"):
        Ball(0)
    with pytest.raises(ValueError, match="less than or equal"):
        dataclasses.replace(Toy(), share=1.5)


def test_options_travel_to_other_processes():
    assert pickle.loads(pickle.dumps(Toy(Box((5, 6))))) == Toy(Box((5, 6)))


def test_typed_options_may_stand_inside_plain_ones():
    assert parse(Toy, {"shape": Box((7, 8))}).shape == Box((7, 8))


def test_options_describe_themselves():
    (radius,) = describe(Ball)
    assert (radius.name, radius.default, radius.text) == ("radius", "1", "Of the ball.")
    schema = json_schema(Toy)
    assert schema["additionalProperties"] is False
    named = [s for s in schema["properties"]["shape"]["anyOf"] if "properties" in s]
    assert [s["properties"]["name"]["const"] for s in named] == ["ball", "box"]
    assert named[0]["properties"]["radius"]["minimum"] == 1
    assert named[0]["properties"]["radius"]["description"] == "Of the ball."
    assert (
        schema["properties"]["parts"]["additionalProperties"]["properties"]["radius"]["description"] == "Of the ball."
    )


def test_every_option_of_every_part_says_what_it_is():
    for family in PARTS.values():
        for card in family.values():
            assert card.summary(), card
            assert all(o.text for o in describe(card)), [o.name for o in describe(card) if not o.text]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"foo": 1}, "sampler.foo"),
        ({"corrector": {"name": "nope"}}, "sampler.corrector.name"),
        ({"corrector": {"draft": "argmx"}}, "sampler.corrector.draft"),
        ({"steps": "8"}, "sampler.steps"),
        ({"steps": True}, "sampler.steps"),
        ({"schedule": {"t_end": 2}}, "sampler.schedule.t_end"),
        ({"draw": {"temperature": -1}}, "sampler.draw.temperature"),
        ({"corrector": 3}, "sampler.corrector"),
        ({"unmask": "confidence"}, "sampler.unmask.name"),
    ],
)
def test_a_wrong_option_in_python_is_a_problem_with_a_remedy_and_not_another_sampler(options, path):
    with pytest.raises(ConfigError) as found:
        preset("proseco", **options)
    assert [p.path for p in found.value.problems] == [path]
    assert found.value.problems[0].remedy

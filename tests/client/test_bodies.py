"""Bodies: what goes in comes out, and what does not fit is told clearly."""

import dataclasses
import datetime
import enum
import json
import math
import pathlib

import attrs
import msgspec
import pytest

from msg.client import bodies
from msg.client.errors import BodyMismatch


@attrs.define
class Article:
    title: str
    words: int = 0
    tags: list[str] = attrs.field(factory=list)


@attrs.define
class Positive:
    n: int = attrs.field(validator=attrs.validators.gt(0))
    name: str = attrs.field(default="", converter=str.strip)


@dataclasses.dataclass
class Job:
    article: Article
    at: datetime.datetime
    path: pathlib.Path = pathlib.Path()


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


def decode(data: bytes, type_: object = None, converter=None):
    return bodies.decoder(type_, converter)(msgspec.Raw(data))


@pytest.mark.parametrize(
    "body",
    [None, True, 0, -1.5, 2**80, "", "ümläut\n", [], {}, {"a": [1, {"b": None}]}, "null"],
)
def test_any_json_comes_back_as_it_was(body):
    assert decode(bodies.encode(body)) == body


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap", [lambda n: n, lambda n: {"a": [None, n]}, Point], ids=["bare", "nested", "struct"]
)
def test_numbers_that_json_does_not_know_are_refused(number, wrap):
    with pytest.raises(ValueError, match="must be JSON"):
        bodies.encode(wrap(number))


def test_none_is_no_reason_to_refuse():
    assert bodies.encode({"a": None, "b": [None]}) == b'{"a":null,"b":[null]}'


def test_an_object_without_a_meaning_in_json_is_refused():
    with pytest.raises(TypeError, match="object"):
        bodies.encode({"a": object()})


def test_a_body_is_one_line():
    assert b"\n" not in bodies.encode("a\nb\r\n")


class Colour(enum.Enum):
    RED = "red"


def test_typed_bodies_go_out_as_json():
    at = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
    job = Job(Article("cats", tags=["a"]), at, pathlib.Path("/tmp/x"))
    assert json.loads(bodies.encode(job)) == {
        "article": {"title": "cats", "words": 0, "tags": ["a"]},
        "at": "2026-11-23T00:00:00Z",
        "path": "/tmp/x",
    }
    assert bodies.encode({"p": Point(1), "c": Colour.RED}) == b'{"p":{"x":1,"y":0.0},"c":"red"}'


@pytest.mark.parametrize(
    "value",
    [
        Article("cats", 3, ["x"]),
        Point(1.0, 2.0),
        Job(
            Article("cats"),
            datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC),
            pathlib.Path("x"),
        ),
    ],
    ids=["attrs", "msgspec", "dataclass"],
)
def test_typed_bodies_come_back(value):
    assert decode(bodies.encode(value), type(value)) == value


def test_containers_are_types_too():
    assert decode(b'[{"title":"a"}]', list[Article]) == [Article("a")]
    assert decode(b'{"a":1}', dict[str, int]) == {"a": 1}


def test_converters_of_a_class_are_run():
    assert decode(b'{"n":1,"name":" x "}', Positive) == Positive(1, "x")


@pytest.mark.parametrize(
    ("data", "type_", "why"),
    [
        (b'{"title":5}', Article, r"no Article: expected str, not int @ \$.title"),
        (b"{}", Article, r"no Article: a required field is missing @ \$.title"),
        (b'{"title":"a","words":"5"}', Article, r"expected int, not str @ \$.words"),
        (b'{"title":"a","words":true}', Article, r"expected int, not bool @ \$.words"),
        (b'{"title":"a","tags":["x",1]}', Article, r"expected str, not int @ \$.tags\[1\]"),
        (b"[]", Article, "no Article"),
        (b"null", Article, "no Article"),
        (b'{"n":0}', Positive, "'n' must be > 0"),
        (b'{"x":"1"}', Point, r"no Point: Expected `float`, got `str` - at `\$.x`"),
        (b"{}", Point, "missing required field `x`"),
        (b'{"a":"b"}', dict[str, int], "expected int, not str"),
    ],
)
def test_a_body_that_does_not_fit_says_where(data, type_, why):
    with pytest.raises(BodyMismatch, match=why):
        decode(data, type_)


def test_an_integer_is_a_float():
    assert decode(b'{"x":1}', Point) == Point(1.0)
    assert decode(b"1", float) == 1


def test_a_converter_of_the_program_is_used_both_ways():
    from cattrs.preconf.json import make_converter

    converter = make_converter()
    converter.register_unstructure_hook(Article, lambda article: article.title)
    converter.register_structure_hook(Article, lambda value, _: Article(value.upper()))
    assert bodies.encoder(converter)(Article("cats")) == b'"cats"'
    assert decode(b'"cats"', Article, converter) == Article("CATS")
    assert decode(b'{"any":1}', None, converter) == {"any": 1}


def test_bytes_travel_as_base64():
    data = bytes(range(256))
    text = json.loads(bodies.encode_binary(data))
    assert bodies.decode_binary(text) == data
    with pytest.raises(BodyMismatch, match="base64"):
        bodies.decode_binary("no base64!")
    with pytest.raises(BodyMismatch, match="base64"):
        bodies.decode_binary(5)

"""Bytes from outside: what is read, and the limits at which it is not, each to the last byte, level and digit."""

from __future__ import annotations

import json
import random

import pytest

from components.data.corpora.records import parsed
from components.data.tokenizer import load_tokenizer
from components.errors import DataError
from components.outside import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, as_json, from_json, from_request
from tests.components.test_export import exported


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(("read", "levels"), [(from_json, MAX_DEPTH), (lambda raw: from_request(raw, 16), 16), (lambda raw: from_json(raw, 3), 3)])
def test_levels_are_counted_exactly(read, levels):
    assert read(nested(levels))
    for deeper in (levels + 1, 100_000):
        with pytest.raises(ValueError, match=f"at most {levels} levels"):
            read(nested(deeper))


@pytest.mark.parametrize(
    ("raw", "part"),
    [(b"NaN", "NaN is no number"), (b"[-Infinity]", "no number"), (b"1e999", "too large"), (b"1" * (MAX_DIGITS + 2), "it may have 19"),
     (rb'"\ud800"', "no Unicode text"), (b"\xff", "not UTF-8 at byte 0"), (b"{", "broken JSON"), (b"", "broken JSON")],
)  # fmt: skip
def test_a_request_says_nothing_that_json_can_not_write(raw, part):
    with pytest.raises(ValueError, match=part):
        from_request(raw, 16)


def test_a_request_is_read_as_it_is():
    assert from_request(b'{"a": [1.5, -9223372036854775807, "\xc3\xa9", null, true]}', 16) == {"a": [1.5, -(2**63) + 1, "\u00e9", None, True]}


def test_values_of_records_are_written_as_json_has_them():
    found = as_json({1: float("inf"), "a": (b"x", "\u00e9", [1, 2.5, None, True]), "b": {"c": complex(1)}})
    assert found == {"1": None, "a": [None, "\u00e9", [1, 2.5, None, True]], "b": {"c": "(1+0j)"}}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_tokenizer_is_read_within_the_limits_of_all_json(tmp_path):
    exported(tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    text = file.read_bytes()
    size = load_tokenizer(file).vocab_size
    file.write_bytes(text + b" " * (MAX_BYTES - len(text)))
    assert load_tokenizer(file).vocab_size == size
    for raw, part in (
        (text + b" " * (MAX_BYTES - len(text) + 1), "longer than 64 MiB"), (nested(MAX_DEPTH + 1), "64 levels"), (b"{", "broken JSON"),
        (b"\xff", "UTF-8|utf-8"), (b"[1]", "`tokenizers` library"), (b"{}", "`tokenizers` library"),
    ):  # fmt: skip
        file.write_bytes(raw)
        with pytest.raises(DataError, match=part):
            load_tokenizer(file)


LINES = [
    b'{"text": "a", "n": [1, 2.5, null, true]}', '{"é": "Ω😀", "b": 1, "b": 2}'.encode(), b' {"a": "\\ud83d\\ude00 \\u00e9 \\/"}\r', b"[]",
    b"NaN", b"-NaN", b"-Infinity", b"nan", b"01", b"-0", b"-0.0", b".5", b"1.", b"1e999", b"5e-324", b"0." + b"1" * 900, b"9" * 40,
    b"9" * 4300, b"9" * 4301, b"18446744073709551616", b'"\\ud800"', b'{"a": "\\uD83D\\u0041"}', b'"\\u0000"', b'"\x01"', b'"\\x"', b'"\\u00G0"',
    b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b"\xef\xbb\xbf1", b"1\x0c", b"\xc2\xa01", b"[1,]", b"{a:1}", b"{}x", b"tru", b"[1 2]", b'"a',
    b"[" * 64 + b"]" * 64, b"[" * 65 + b"]" * 65, b"[" * 150 + b"]" * 150, b"[" * 300 + b"]" * 300, b"[" * 100_000,
]  # fmt: skip


def said(read, line: bytes) -> str:
    try:
        return repr(read(line))
    except ValueError as error:
        return f"refused: {error}"


def test_lines_are_read_as_python_reads_json_and_refused_in_the_same_words():
    """By whatever parser: those above, and what becomes of them where bytes are lost, doubled and put elsewhere."""
    rng = random.Random(0)
    bent = []
    for _ in range(5000):
        line = bytearray(rng.choice([x for x in LINES if len(x) < 100]))
        for _ in range(rng.randint(1, 3)):
            at, other = rng.randrange(len(line) + 1), rng.choice(LINES)
            line[at : at + rng.randint(0, 2)] = other[rng.randrange(len(other)) :][: rng.randint(0, 3)]
        bent.append(bytes(line))
    for line in LINES + bent:
        assert said(parsed, line) == said(from_json, line), line[:80]

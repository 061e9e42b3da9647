"""Lines as they are read, with and without constraints."""

from __future__ import annotations

import io
import sys

import pytest

from vanilla_transformer.deployment.line_input import Line, lines_of, parsed
from vanilla_transformer.training.corpus_files import CorpusError

BYTES = "\ufeffa\r\n\ufeffb\rc\u2028d\x00\x85\n\n e".encode()
EXPECTED = ["a", "\ufeffb\rc\u2028d\x00\x85", "", " e"]


def test_a_file_and_standard_input_are_read_alike(tmp_path, monkeypatch):
    (tmp_path / "lines").write_bytes(BYTES)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BYTES), encoding="ascii"))
    assert list(lines_of(str(tmp_path / "lines"))) == list(lines_of("-")) == EXPECTED


def test_a_byte_that_is_no_utf8_is_named_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xe4\n")))
    with pytest.raises(CorpusError, match=r"standard input, line 2: invalid UTF-8 \(byte 0xE4\)"):
        list(lines_of("-"))
    (tmp_path / "lines").write_bytes(b"a\nb\xe4\n")
    with pytest.raises(CorpusError, match=r"lines:2: invalid UTF-8 \(byte 0xE4"):
        list(lines_of(str(tmp_path / "lines")))


def test_constraints():
    assert parsed('{"source": "x"}', 3, "text") == Line(3, '{"source": "x"}')
    assert parsed('{"source": "x"}', 3, "jsonl") == Line(3, "x")
    assert parsed(" ", 3, "jsonl", "in.jsonl") == Line(3, " ", file="in.jsonl")
    assert parsed("x", 3, "text", "in.txt").place == "in.txt:3"
    row = '{"source": "\\u00e9", "prefix": "P", "required": ["a b"], "banned": ["c", "d"]}'
    assert parsed(row, 4, "jsonl", "in.jsonl") == Line(4, "é", "P", ("a b",), ("c", "d"), "in.jsonl")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "line 5: broken JSON"),
        ('["a"]', 'line 5: expected an object with a text "source"'),
        ('{"source": 1}', 'line 5: expected an object with a text "source"'),
        ('{"source": "a", "requires": []}', "line 5: unknown field 'requires'"),
        ('{"source": "a", "prefix": 1}', "line 5: prefix must be a text, and is 1"),
        ('{"source": "a", "banned": "b"}', "line 5: banned must be a list of texts that are not empty, and is 'b'"),
        ('{"source": "a", "required": [" "]}', "line 5: required must be a list of texts"),
        ('{"source": "\\ud83d"}', "line 5: half of a surrogate pair"),
    ],
)
def test_rows_that_are_none(text, message):
    with pytest.raises(CorpusError, match=f"^standard input, {message}"):
        parsed(text, 5, "jsonl")
    with pytest.raises(CorpusError, match=message.replace("line 5", "^in.jsonl:5")):
        parsed(text, 5, "jsonl", "in.jsonl")

r"""Lines to translate, from a file or standard input, as text or with constraints as JSON Lines.

text     every line is a source; lines end at "\n" only
jsonl    {"source": "A man.", "prefix": "Ein", "required": ["Mann"], "banned": ["Herr"]}: what the translation must begin
         with, must hold, and must not hold; all but the source may be left out
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Literal

from vanilla_transformer.deployment.translated_lines import Line
from vanilla_transformer.training.corpus_files import CorpusError, read_lines

InputFormat = Literal["text", "jsonl"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines_of(name: str) -> Iterator[str]:
    """The lines of a file or of standard input ("-"), one at a time. CorpusError, with the line, if it is no UTF-8."""
    if name != "-":
        for _, line in read_lines(name):
            yield line
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        if number == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        try:
            yield raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(f"standard input, line {number}: invalid UTF-8 (byte 0x{raw[error.start]:02X})") from None


def parsed(text: str, number: int, format: InputFormat) -> Line:
    """A line as it was read -> what to translate. CorpusError, with the line's number, if it is no such JSON."""
    if format == "text" or not text.strip():
        return Line(number, text)
    try:
        row: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(f"line {number}: broken JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict) or not isinstance(row.get("source"), str):
        raise CorpusError(f'line {number}: expected an object with a text "source", as {{"source": "A man."}}')
    unknown = sorted(row.keys() - {"source", "prefix", "required", "banned"})
    if unknown:
        raise CorpusError(f"line {number}: unknown field {unknown[0]!r}; there are source, prefix, required and banned")
    prefix = row.get("prefix", "")
    if not isinstance(prefix, str):
        raise CorpusError(f"line {number}: prefix must be a text, and is {prefix!r}")
    phrases = [_phrases(row.get(name, []), name, number) for name in ("required", "banned")]
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CorpusError(
            f"line {number}: half of a surrogate pair (\\ud800 to \\udfff alone) is not text; remove it"
        ) from None
    return Line(number, row["source"], prefix, *phrases)


def _phrases(value: Any, name: str, number: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(phrase, str) and phrase.strip() for phrase in value):
        raise CorpusError(f"line {number}: {name} must be a list of texts that are not empty, and is {value!r}")
    return tuple(value)

r"""Lines to translate, from a file or standard input, as text or with constraints as JSON Lines.

text     every line is a source; lines end at "\n" only
jsonl    {"source": "A man.", "prefix": "Ein", "required": ["Mann"], "banned": ["Herr"]}: what the translation must begin
         with, must hold, and must not hold; all but the source may be left out
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from vanilla_transformer.training.corpus_files import CorpusError, read_lines

InputFormat = Literal["text", "jsonl"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line to translate, and what its translation must begin with, must hold and must not hold.

    Attributes:
        number: from 1.
        file: where it stands; "-" for standard input.
    """

    number: int
    text: str
    prefix: str = ""
    required: tuple[str, ...] = ()
    banned: tuple[str, ...] = ()
    file: str = "-"

    @property
    def is_constrained(self) -> bool:
        return bool(self.prefix or self.required or self.banned)

    @property
    def place(self) -> str:
        """For errors: "input.jsonl:7", or "standard input, line 7"."""
        return _place(self.file, self.number)


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
            raise CorpusError(f"{_place(name, number)}: invalid UTF-8 (byte 0x{raw[error.start]:02X})") from None


def parsed(text: str, number: int, format: InputFormat, file: str = "-") -> Line:
    """A line as it was read -> what to translate. CorpusError, with the line's place, if it is no such JSON."""
    if format == "text" or not text.strip():
        return Line(number, text, file=file)
    place = _place(file, number)
    try:
        row: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{place}: broken JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict) or not isinstance(row.get("source"), str):
        raise CorpusError(f'{place}: expected an object with a text "source", as {{"source": "A man."}}')
    unknown = sorted(row.keys() - {"source", "prefix", "required", "banned"})
    if unknown:
        raise CorpusError(f"{place}: unknown field {unknown[0]!r}; there are source, prefix, required and banned")
    prefix = row.get("prefix", "")
    if not isinstance(prefix, str):
        raise CorpusError(f"{place}: prefix must be a text, and is {prefix!r}")
    phrases = [_phrases(row.get(name, []), name, place) for name in ("required", "banned")]
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{place}: half of a surrogate pair (\\ud800 to \\udfff alone) is not text; remove it") from None
    return Line(number, row["source"], prefix, *phrases, file=file)


def _phrases(value: Any, name: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(phrase, str) and phrase.strip() for phrase in value):
        raise CorpusError(f"{place}: {name} must be a list of texts that are not empty, and is {value!r}")
    return tuple(value)


def _place(file: str, number: int) -> str:
    return f"standard input, line {number}" if file == "-" else f"{file}:{number}"

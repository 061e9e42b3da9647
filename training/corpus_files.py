"""Files of text -> rows, one at a time, each error with its file and line.

`datasets` has readers of its own; these exist because its text reader splits lines at U+2028 and other
Unicode separators (which silently shifts one side of a corpus), and because its errors name neither the line
nor the fields.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


class CorpusError(ValueError):
    """Something about the user's data, in one line: file and row, what is wrong, what to do."""


def file_format(path: str) -> str:
    """The file's suffix without `.gz`, in lower case: ".jsonl", ".en", ..."""
    return Path(path.removesuffix(".gz")).suffix.lower()


def split_pair(entry: str) -> tuple[str, str] | None:
    """("train.en", "train.de") for "train.en,train.de"; None for an entry that names one file."""
    if "," not in entry or Path(entry).exists():
        return None
    parts = entry.split(",")
    if len(parts) != 2 or not all(parts):
        raise CorpusError(f"{entry!r}: a pair of plain text files is written SOURCE,TARGET with exactly one comma")
    return parts[0], parts[1]


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end). Only "\\n" ends a line; one "\\r" before it is taken off,
    and so is a byte order mark at the beginning of the file.
    """
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    line = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{path}:{number}: invalid UTF-8 (byte 0x{raw[error.start]:02X} at position "
                        f"{error.start + 1} of the line); convert the file first, "
                        f"for example: iconv -f LATIN1 -t UTF-8"
                    ) from None
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}: not a complete gzip file ({error}); make or copy it again") from None
    except OSError as error:
        raise unreadable(path, error) from None


def read_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, row) of a JSON Lines, JSON, CSV or Parquet file."""
    kind = file_format(path)
    if kind == ".parquet":
        return _parquet_rows(path)
    if kind == ".csv":
        return _csv_rows(path)
    if kind in ROW_FORMATS:
        return _json_rows(path)
    raise CorpusError(f"{path}: rows are read from {', '.join(ROW_FORMATS)} files (JSON and CSV also .gz)")


def unreadable(path: str, error: OSError) -> CorpusError:
    """The error for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return CorpusError(f"{path}: no such file")
    return CorpusError(f"{path}: cannot be read ({error.strerror or error})")


def _json_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = read_lines(path)
    for number, line in lines:
        if not line or line.isspace():
            continue
        if number == 1 and line.lstrip().startswith("[") and file_format(path) == ".json":
            text = "\n".join([line, *(rest for _, rest in lines)])
            for row, value in enumerate(_parse_json(path, 1, text), start=1):
                yield row, _checked_row(path, row, value, may_hold_surrogates=True)
            return
        # A lone surrogate ("\ud83d") is legal JSON but no text: it cannot be written as UTF-8. It can only
        # come from an escape.
        yield (
            number,
            _checked_row(path, number, _parse_json(path, number, line), may_hold_surrogates="\\u" in line),
        )


def _parse_json(path: str, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{path}:{number + error.lineno - 1}: broken JSON ({error.msg}, column {error.colno})"
        ) from None


def _checked_row(path: str, number: int, row: Any, may_hold_surrogates: bool) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise CorpusError(f"{path}:{number}: expected a JSON object with named fields, found {type(row).__name__}")
    if may_hold_surrogates:
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise CorpusError(
                f"{path}:{number}: half of a surrogate pair (\\ud800 to \\udfff alone) is not text; remove it"
            ) from None
    return row


def _csv_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if header is None:
                header = fields
            elif fields and len(fields) != len(header):
                raise CorpusError(
                    f"{path}:{reader.line_num}: {len(fields)} fields where the header has {len(header)} "
                    f"({', '.join(header)}); a text with a comma must be quoted"
                )
            elif fields:
                yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: broken CSV ({error})") from None


def _parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CorpusError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    except OSError as error:
        raise unreadable(path, error) from None

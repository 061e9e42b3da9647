"""What the readers of labelled data share: rows with their places, and the field of a row that is looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from vanilla_transformer.training.cached_rows import cached_dataset, describe, file_list, load_hub
from vanilla_transformer.training.conllu_files import parse_block, read_blocks
from vanilla_transformer.training.corpus_files import CorpusError, file_format, read_rows

Places = Iterator[tuple[str, dict[str, Any]]]
"""(where a row stands, for messages; the row)"""


class Source:
    """Where rows come from: files, or a data set of the Hub (`hub`: name, configuration, split).

    Raises:
        CorpusError: no files; files and a data set; a data set that cannot be had.
    """

    def __init__(self, files: Sequence[str] | None, name: str | None, config: str | None, split: str):
        self.hub: tuple[str, str | None, str] | None = None
        self.files: tuple[str, ...] = ()
        self.features: Features | None = None
        self.fingerprint = ""
        if name is None:
            self.files = file_list(files)
            self.features = _parquet_features(self.files)
        else:
            data = load_hub(files, name, config, split)
            self.hub, self.features, self.fingerprint = (name, config, split), data.features, data._fingerprint

    def first_row(self) -> tuple[str, dict[str, Any]]:
        """The first row and its place; CorpusError if there is none."""
        return next(_places(self.files, self.hub))

    def dataset(
        self, convert: Callable[..., Iterator[dict[str, Any]]], options: dict[str, Any], features: Features
    ) -> Dataset:
        """The rows that `convert(places, **options)` makes, from the cache if the same were made before."""
        arguments = {"convert": convert, "options": options, "files": self.files, "hub": self.hub}
        return cached_dataset(_generate, arguments | {"fingerprint": self.fingerprint}, features)


def _parquet_features(files: tuple[str, ...]) -> Features | None:
    # A Parquet file that `datasets` wrote knows the names of its classes; its rows hold only their numbers.
    if not all(file_format(path) == ".parquet" for path in files):
        return None
    try:
        found = [Features.from_arrow_schema(pq.read_schema(path)) for path in files]
    except (pa.ArrowInvalid, OSError):
        return None  # reading its rows will say what is wrong
    if any(features != found[0] for features in found):
        raise CorpusError(f"{', '.join(files)}: columns or classes of these files differ; write them alike")
    return found[0]


def _generate(
    convert: Callable[..., Iterator[dict[str, Any]]],
    options: dict[str, Any],
    files: tuple[str, ...],
    hub: tuple[str, str | None, str] | None,
    fingerprint: str,
    contents: tuple[str, ...] = (),
    version: int = 0,
) -> Iterator[dict[str, Any]]:
    return convert(_places(files, hub), **options)


def _places(files: tuple[str, ...], hub: tuple[str, str | None, str] | None) -> Places:
    if hub is not None:
        for number, row in enumerate(load_hub(None, *hub), start=1):
            yield f"{hub[0]} ({hub[2]}), row {number}", row
        return
    count = 0
    for path in files:
        rows = _conllu_rows(path) if file_format(path) == ".conllu" else read_rows(path)
        for number, row in rows:
            count += 1
            yield f"{path}:{number}", row
    if not count:
        raise CorpusError(f"{', '.join(files)}: the corpus is empty (no rows)")


def _conllu_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, block in read_blocks(path):
        words = parse_block(block, f"{path}:{number}")
        row = {"tokens": words.tokens, "upos": words.upos, "head": words.head, "deprel": words.deprel, "conllu": block}
        yield number, {name: value for name, value in row.items() if value is not None}


def field_of(row: dict[str, Any], name: str, place: str, flag: str) -> Any:
    """The value of a field. CorpusError, with the fields there are, if the row has no such field."""
    if name not in row:
        raise CorpusError(f"{place}: no `{name}`; found: {', '.join(row) or 'nothing'}; name the field with {flag}")
    return row[name]


def tokens_of(row: dict[str, Any], name: str, place: str) -> list[str]:
    """A field of tokens: a list of texts, none of them empty (a blank, " ", is a token)."""
    tokens = field_of(row, name, place, "token_field")
    if not isinstance(tokens, list):
        raise CorpusError(f"{place}: `{name}` is not a list of tokens but {describe(tokens)}")
    for number, token in enumerate(tokens, start=1):
        if not isinstance(token, str) or not token:
            found = "empty" if token == "" else f"not a text but {describe(token)}"
            raise CorpusError(
                f"{place}: token {number} of {len(tokens)} in `{name}` is {found}; every token needs its text"
            )
    return tokens


def same_length(tokens: list[str], values: Any, name: str, place: str) -> list[Any]:
    """A field with one value for every token. CorpusError with both lengths."""
    if not isinstance(values, list):
        raise CorpusError(f"{place}: `{name}` is not a list but {describe(values)}")
    if len(values) != len(tokens):
        raise CorpusError(f"{place}: {len(tokens)} tokens but {len(values)} in `{name}`; every token needs exactly one")
    return values

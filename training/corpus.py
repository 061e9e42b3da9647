"""Corpora: files or Hub data sets -> a memory-mapped `datasets.Dataset` of texts -> the same of token ids.

    pairs = load_pairs(["train.jsonl.gz"], "en", "de")                     # columns source, target
    encoded, dropped = encode_pairs(pairs, tokenizer, max_source_length=256, max_target_length=256)
    batches = TokenBatches(pair_lengths(encoded), max_tokens=4096, seed=1)

Nothing is truncated, and nothing is left out without being counted (`DroppedRows`). Arrow files go to the
ordinary cache (`cached_rows.py`). Row numbers in messages count from 1.

What `load_pairs` and `load_texts` return is annotated as Any: `datasets` annotates rows and columns as one union,
which a type checker cannot use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from datasets import Features, Value, get_dataset_split_names

from vanilla_transformer.training.cached_rows import at_revision, cached_dataset, cannot_load, describe, file_list
from vanilla_transformer.training.corpus_files import (
    ROW_FORMATS,
    CorpusError,
    file_format,
    read_lines,
    read_rows,
    split_pair,
)
from vanilla_transformer.training.encoding import DroppedRows, encode_pairs, encode_texts, pair_lengths
from vanilla_transformer.training.hub_data import FAILURES, load_part

__all__ = [
    "CorpusError",
    "DroppedRows",
    "encode_pairs",
    "encode_texts",
    "has_part",
    "iterate_texts",
    "load_pairs",
    "load_texts",
    "pair_lengths",
]


def load_pairs(
    files: Sequence[str] | None,
    source_lang: str,
    target_lang: str,
    *,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
    streaming: bool = False,
) -> Any:
    """Sentence pairs in file order: columns `source` and `target`.

    Args:
        files: read one after the other; each is a JSON Lines, JSON, CSV or Parquet file (text formats also
            `.gz`) whose rows have `translation` ({language: text}), or a column per language, or `source` and
            `target`; or "train.en,train.de", a pair of plain text files (also `.gz`). A pair whose suffixes
            are the two languages is ordered by them, any other is source,target.
        dataset_name: a data set on the Hub, or a folder, instead of files, with `dataset_config` and `split`.
        streaming: an `IterableDataset` that reads while it is iterated and stores nothing; of a data set a `HubStream`.

    Raises:
        CorpusError: with file and row, what was found and what to do.
    """
    if dataset_name is not None:

        def pairs(data: Any) -> Any:
            return _pairs_from_hub(data, dataset_name, source_lang, target_lang)

        return load_part(files, dataset_name, dataset_config, split, streaming, pairs)
    arguments = {"files": file_list(files), "source_lang": source_lang, "target_lang": target_lang}
    return cached_dataset(
        _generate_pairs,
        arguments,
        Features({"source": Value("string"), "target": Value("string")}),
        streaming,
    )


def load_texts(
    files: Sequence[str] | None,
    *,
    fields: Sequence[str] = (),
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
    streaming: bool = False,
) -> Any:
    """Raw text, column `text`: each line of a plain text file; of a row the fields named in `fields`, or else
    its `text`, every language of its `translation`, or its `source` and `target` (one text each). Arguments
    and errors as in `load_pairs`.
    """
    features = Features({"text": Value("string")})
    if dataset_name is not None:

        def texts_of(columns: dict[str, list[Any]]) -> dict[str, list[str]]:
            rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
            return {"text": [text for row in rows for text in _texts_of(row, dataset_name, fields)]}

        def texts(data: Any) -> Any:
            return data.map(texts_of, batched=True, remove_columns=list(data.features or []), features=features)

        return load_part(files, dataset_name, dataset_config, split, streaming, texts)
    return cached_dataset(_generate_texts, {"files": file_list(files), "fields": tuple(fields)}, features, streaming)


def iterate_texts(
    files: Sequence[str] | None,
    *,
    fields: Sequence[str] = (),
    dataset_name: str | None = None,
    dataset_config: str | None = None,
) -> Iterator[str]:
    """Every text of any number of files in any format of `load_texts`, or of the training part of a data set, in
    constant memory and without a cache (for `learn_vocabulary`).
    """
    if dataset_name is not None:
        rows: Iterable[Any] = load_texts(
            files, fields=fields, dataset_name=dataset_name, dataset_config=dataset_config, streaming=True
        )
    else:
        rows = _generate_texts(file_list(files), tuple(fields))
    for row in rows:
        yield row["text"]


def has_part(dataset_name: str, dataset_config: str | None, part: str) -> bool:
    """Whether a data set on the Hub, or a folder, has a part (a split) of that name. CorpusError if it has none at all."""
    path, revision = at_revision(dataset_name)
    try:
        return part in get_dataset_split_names(path, dataset_config, revision=revision)
    except (ValueError, *FAILURES) as error:
        raise cannot_load(error, f"data set {dataset_name!r}, configuration {dataset_config!r}") from None


# -- reading -------------------------------------------------------------------------------------------------


def _generate_pairs(
    files: tuple[str, ...],
    source_lang: str,
    target_lang: str,
    contents: tuple[str, ...] = (),
    version: int = 0,
) -> Iterator[dict[str, str]]:
    count = 0
    for entry in files:
        pair = split_pair(entry)
        if pair is not None:
            if [file_format(path) for path in pair] == [f".{target_lang}".lower(), f".{source_lang}".lower()]:
                pair = pair[1], pair[0]
            rows = _parallel_lines(*pair)
        elif file_format(entry) in ROW_FORMATS:
            rows = (_pair_of(row, f"{entry}:{number}", source_lang, target_lang) for number, row in read_rows(entry))
        else:
            raise CorpusError(
                f"{entry}: pairs are read from {', '.join(ROW_FORMATS)} files, "
                f"or from two plain text files given as SOURCE,TARGET"
            )
        for row in rows:
            count += 1
            yield row
    if not count:
        raise CorpusError(f"{', '.join(files)}: the corpus is empty (no rows)")


def _parallel_lines(source: str, target: str) -> Iterator[dict[str, str]]:
    counts = [0, 0]
    for lines in zip_longest(read_lines(source), read_lines(target)):
        for side, line in enumerate(lines):
            counts[side] += line is not None
        if lines[0] is not None and lines[1] is not None:
            yield {"source": lines[0][1], "target": lines[1][1]}
    if counts[0] != counts[1]:
        raise CorpusError(
            f"{source} has {counts[0]:,} lines but {target} has {counts[1]:,}: "
            f"line n of one must translate line n of the other"
        )


def _pair_of(row: dict[str, Any], place: str, source_lang: str, target_lang: str) -> dict[str, str]:
    texts = row.get("translation", row)
    if not isinstance(texts, dict):
        raise CorpusError(f"{place}: `translation` must be {{language: text}}, found {type(texts).__name__}")
    if texts is row and not (source_lang in row or target_lang in row) and {"source", "target"} <= row.keys():
        names = ("source", "target")
    else:
        names = (source_lang, target_lang)
    for name in names:
        if name not in texts:
            found = ", ".join(texts) or "nothing"
            where = "in its `translation`" if texts is not row else "(nor `translation`, nor `source` and `target`)"
            raise CorpusError(f"{place}: no `{name}` {where}; found: {found}")
        if not isinstance(texts[name], str):
            raise CorpusError(f"{place}: `{name}` is not a text but {describe(texts[name])}")
    return {"source": texts[names[0]], "target": texts[names[1]]}


def _generate_texts(
    files: tuple[str, ...], fields: tuple[str, ...], contents: tuple[str, ...] = (), version: int = 0
) -> Iterator[dict[str, str]]:
    count = 0
    for path in (path for entry in files for path in split_pair(entry) or (entry,)):
        if file_format(path) in ROW_FORMATS:
            texts: Iterable[str] = (
                text for n, row in read_rows(path) for text in _texts_of(row, f"{path}:{n}", fields)
            )
        else:
            texts = (line for _, line in read_lines(path))
        for text in texts:
            count += 1
            yield {"text": text}
    if not count:
        raise CorpusError(f"{', '.join(files)}: the corpus is empty (no text)")


def _texts_of(row: dict[str, Any], place: str, fields: Sequence[str]) -> list[str]:
    texts = row
    names = list(fields)
    if not names and isinstance(row.get("translation"), dict):
        texts = row["translation"]
        names = list(texts)
    if not names:
        names = [name for name in ("text", "source", "target") if name in row]
    if not names or not set(names) <= texts.keys():
        wanted = ", ".join(names) or "`text`, `translation` or `source` and `target`"
        raise CorpusError(f"{place}: expected {wanted}; found: {', '.join(row) or 'nothing'}")
    for name in names:
        if not isinstance(texts[name], str):
            raise CorpusError(f"{place}: `{name}` is not a text but {describe(texts[name])}")
    return [texts[name] for name in names]


# -- data sets by name ---------------------------------------------------------------------------------------


def _pairs_from_hub(data: Any, name: str, source_lang: str, target_lang: str) -> Any:
    def pairs(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[str]]:
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        found = [
            _pair_of(row, f"{name}, row {i + 1}", source_lang, target_lang)
            for i, row in zip(indices, rows, strict=True)
        ]
        return {side: [pair[side] for pair in found] for side in ("source", "target")}

    features = Features({"source": Value("string"), "target": Value("string")})
    return data.map(pairs, batched=True, with_indices=True, remove_columns=list(data.features or []), features=features)

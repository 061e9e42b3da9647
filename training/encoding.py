"""Corpora of texts -> corpora of token ids (see `corpus.py`). Nothing is truncated; what is left out is
counted (`DroppedRows`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from vanilla_transformer.training.corpus_files import CorpusError

# Part of the cache name: raise it when the same texts and tokenizer would give other ids than before.
_ENCODING_VERSION = 1
_SHOWN_ROWS = 5
# Fewer rows are encoded by one process before several have started. (The tokenizer's own threads busy one core and a bit:
# most of the time goes into making lists of what it returns.)
_WORTH_PROCESSES = 100_000


class StreamPart:
    """The next `count` rows of a stream, or as many as are left: read once, batch by batch, and never all in memory.

    Where a corpus is refused, because nothing of it is left, a part of one is not: the next may be better.
    """

    def __init__(self, rows: Iterator[dict[str, Any]], count: int):
        self.rows, self.count = rows, count

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        """Columns of up to `batch_size` rows at a time."""
        left = self.count
        while left and (batch := list(islice(self.rows, min(batch_size, left)))):
            left -= len(batch)
            yield {name: [row[name] for row in batch] for name in batch[0]}


@dataclass(frozen=True)
class DroppedRows:
    """What `encode_pairs` or `encode_texts` left out. `str()` is one line for the log."""

    rows: int
    """rows read"""
    empty: int
    """rows with an empty (or blank) side"""
    empty_rows: tuple[int, ...]
    """the first of them, numbered from 1 in the corpus"""
    over_long: int
    """rows with a side longer than its limit"""
    over_long_rows: tuple[int, ...]
    limits: tuple[int | None, ...]
    """the longest length kept, in tokens with `</s>`: (source, target) or (text,)"""
    kept_rows: Sequence[int] | np.ndarray = field(repr=False, compare=False, default=())
    """corpus row (from 1) of each encoded example, to say which line of the user's file an index means"""
    cut: int = 0
    """rows that were too long, and were cut"""
    pieces: int = 0
    """into so many, together"""
    notes: tuple[str, ...] = ()
    """what else was done with the rows, each a line's part for the log"""

    @property
    def kept(self) -> int:
        return self.rows - self.empty - self.over_long

    def __str__(self) -> str:
        cut = f"cut {self.cut:,} longer than {self.limits[0]} tokens into {self.pieces:,} pieces" if self.cut else ""
        return "; ".join(part for part in (self._kept_and_dropped(), cut, *self.notes) if part)

    def _kept_and_dropped(self) -> str:
        if self.kept == self.rows:
            return f"kept all {self.rows:,} rows"
        reasons = []
        if self.empty:
            reasons.append(f"{self.empty:,} empty ({_row_list(self.empty, self.empty_rows)})")
        if self.over_long:
            limits = ", ".join(
                f"{limit} {side} tokens"
                for side, limit in zip(
                    ("source", "target") if len(self.limits) == 2 else ("text",), self.limits, strict=True
                )
            )
            reasons.append(
                f"{self.over_long:,} longer than {limits} ({_row_list(self.over_long, self.over_long_rows)})"
            )
        return f"kept {self.kept:,} of {self.rows:,} rows; dropped {' and '.join(reasons)}"


def encode_pairs(
    pairs: Dataset | StreamPart,
    tokenizer: Any,
    *,
    max_source_length: int | None,
    max_target_length: int | None,
    source_prefix: str = "",
    num_proc: int | None = None,
) -> tuple[Dataset, DroppedRows]:
    """Token ids of pairs: columns `input_ids` and `labels` (int32 lists that end with `</s>`), nothing cut
    off.

    Args:
        pairs: as from `load_pairs`; of a part of a stream the ids are kept in memory.
        max_source_length, max_target_length: the longest kept, in tokens with `</s>` and prefix; None keeps
            all.
        source_prefix: put before each source text as it is, e.g. a language tag with its space.

    Raises:
        CorpusError: there are no rows, or none is left (of a whole corpus).
    """

    def encode(columns: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        sources, targets = columns["source"], columns["target"]
        ids = tokenizer(
            [source_prefix + text for text in sources],
            text_target=targets,
            return_attention_mask=False,
            verbose=False,
        )
        blank = [not (a.strip() and b.strip()) for a, b in zip(sources, targets, strict=True)]
        return {name: _without_blank(ids[name], blank) for name in ("input_ids", "labels")}

    return _encode(
        pairs,
        encode,
        ("input_ids", "labels"),
        (max_source_length, max_target_length),
        tokenizer,
        source_prefix,
        num_proc,
    )


def encode_texts(
    texts: Dataset | StreamPart, tokenizer: Any, *, max_length: int | None, num_proc: int | None = None
) -> tuple[Dataset, DroppedRows]:
    """Token ids of raw text: column `input_ids`; the rest as in `encode_pairs`."""

    def encode(columns: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(columns["text"], return_attention_mask=False, verbose=False)
        return {"input_ids": _without_blank(ids["input_ids"], [not text.strip() for text in columns["text"]])}

    return _encode(texts, encode, ("input_ids",), (max_length,), tokenizer, "", num_proc)


def pair_lengths(encoded: Dataset) -> np.ndarray:
    """(N, k) int64: tokens of each row in each of `input_ids` and `labels` (k = 2), or in `input_ids` alone
    (k = 1).
    """
    names = [name for name in ("input_ids", "labels") if name in encoded.column_names]
    tables: Any = encoded.select_columns(names).with_format("arrow").iter(batch_size=10_000)
    parts = [
        np.stack([pc.call_function("list_value_length", [table[name]]).to_numpy() for name in names], axis=1)
        for table in tables
    ]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros((0, len(names)), dtype=np.int64)


def _without_blank(ids: list[list[int]], blank: list[bool]) -> list[list[int]]:
    """An empty list marks a row without text: a real one has at least `</s>`."""
    return [[] if empty else row for row, empty in zip(ids, blank, strict=True)]


def _encode(
    data: Dataset | StreamPart,
    encode: Callable[[dict[str, list[str]]], dict[str, list[list[int]]]],
    names: tuple[str, ...],
    limits: tuple[int | None, ...],
    tokenizer: Any,
    prefix: str,
    num_proc: int | None,
) -> tuple[Dataset, DroppedRows]:
    features = Features({name: List(Value("int32")) for name in names})
    # The limits are not part of the cache name, for they are applied to the stored ids.
    encoded = stored_rows(
        data, lambda columns, _: encode(columns), features, tokenizer, (*names, prefix), num_proc=num_proc
    )
    lengths = pair_lengths(encoded)
    if not len(lengths):
        raise CorpusError("the corpus is empty (no rows)")
    empty = (lengths == 0).any(axis=1)
    most = np.array([np.iinfo(np.int64).max if limit is None else limit for limit in limits])
    over_long = ~empty & (lengths > most).any(axis=1)
    kept = np.flatnonzero(~empty & ~over_long)
    dropped = DroppedRows(
        rows=len(lengths),
        empty=int(empty.sum()),
        empty_rows=first_rows(empty),
        over_long=int(over_long.sum()),
        over_long_rows=first_rows(over_long),
        limits=limits,
        kept_rows=range(1, len(lengths) + 1) if len(kept) == len(lengths) else kept + 1,
    )
    if not len(kept) and not isinstance(data, StreamPart):
        raise CorpusError(f"no row of the corpus is left: {dropped}")
    return (encoded if len(kept) == len(lengths) else encoded.select(kept)), dropped


def stored_rows(
    data: Dataset | StreamPart,
    encode: Callable[[dict[str, list[str]], list[int]], dict[str, Any]],
    features: Features,
    tokenizer: Any,
    name_parts: tuple[Any, ...],
    *,
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> Dataset:
    """Rows of texts -> rows of ids: memory-mapped from the cache, or, of a part of a stream, in memory.

    Args:
        encode: (columns, row numbers from 0) of a batch -> columns of any number of rows.
        name_parts: what the ids depend on besides texts and tokenizer: parts of the cache name.
        batch_size: texts that are in memory together.
        num_proc: processes to share the work; None: as many as there are cores, if it is worth their start.
    """
    if isinstance(data, StreamPart):
        return _rows_in_memory(data, encode, features, batch_size)
    # Hashing a tokenizer through pickle is slow, and differs from call to call: it remembers its last padding.
    name = None
    if hasattr(tokenizer, "fingerprint"):
        parts = (data._fingerprint, tokenizer.fingerprint, *name_parts, _ENCODING_VERSION)
        name = hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
    if num_proc is None and len(data) >= _WORTH_PROCESSES:
        num_proc = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return data.map(
        encode, batched=True, with_indices=True, batch_size=batch_size, remove_columns=data.column_names,
        features=features, new_fingerprint=name, num_proc=num_proc, desc="Encoding",
    )  # fmt: skip


def _rows_in_memory(
    part: StreamPart,
    encode: Callable[[dict[str, list[str]], list[int]], dict[str, Any]],
    features: Features,
    batch_size: int,
) -> Dataset:
    buffer = pa.BufferOutputStream()
    rows = 0
    with ArrowWriter(stream=buffer, features=features) as writer:
        for columns in part.iter(batch_size):
            count = len(next(iter(columns.values())))
            writer.write_batch(encode(columns, list(range(rows, rows + count))))
            rows += count
        writer.finalize(close_stream=False)
    return Dataset.from_buffer(buffer.getvalue())


def together(parts: Sequence[DroppedRows]) -> DroppedRows:
    """What was left out of corpora that stand one behind the other. Rows count through; `kept_rows` and notes are not kept."""
    starts = np.cumsum([0, *(part.rows for part in parts)]).tolist()
    counts = {name: sum(getattr(part, name) for part in parts) for name in ("rows", "empty", "over_long", "cut", "pieces")}
    rows = {
        name: [row + start for part, start in zip(parts, starts, strict=False) for row in getattr(part, name)]
        for name in ("empty_rows", "over_long_rows")
    }
    shown: dict[str, Any] = {name: tuple(found[:_SHOWN_ROWS]) for name, found in rows.items()}
    return DroppedRows(**counts, **shown, limits=parts[0].limits)


def first_rows(marked: np.ndarray) -> tuple[int, ...]:
    """The numbers, from 1, of the first few rows that are marked."""
    return tuple((np.flatnonzero(marked)[:_SHOWN_ROWS] + 1).tolist())


def _row_list(count: int, first: tuple[int, ...]) -> str:
    return f"row{'s' if count > 1 else ''} {', '.join(map(str, first))}{', ...' if count > len(first) else ''}"

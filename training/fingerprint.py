"""What the training rows are, as one short text: resuming with other rows would be another run."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.types as types
from datasets import Dataset

from vanilla_transformer.training.documents import Blocks

_ROWS_AT_ONCE = 10_000


def fingerprint_of(rows: Dataset | Blocks) -> str:
    """32 hexadecimal digits, of all values in their order: the same wherever the rows lie, and however they are stored."""
    hashed = hashlib.blake2b(digest_size=16)
    if isinstance(rows, Blocks):
        for numbers in (rows.first, rows.last, rows.corpus):
            hashed.update(numbers.astype("int64").tobytes())
        rows = rows.rows
    for name in sorted(rows.column_names):
        hashed.update(f"{name} {len(rows)}".encode())
        column: Any = rows.select_columns([name]).with_format("arrow")
        for batch in column.iter(batch_size=_ROWS_AT_ONCE):
            _add(hashed, batch.column(0).combine_chunks())
    return hashed.hexdigest()


def _add(hashed: Any, values: pa.Array) -> None:
    if types.is_list(values.type) or types.is_large_list(values.type):
        hashed.update(values.value_lengths().to_numpy(zero_copy_only=False).astype("int64").tobytes())
        _add(hashed, values.flatten())
    elif values.null_count == 0 and (types.is_integer(values.type) or types.is_floating(values.type)):
        hashed.update(values.to_numpy(zero_copy_only=False).tobytes())
    else:
        hashed.update(repr(values.to_pylist()).encode())

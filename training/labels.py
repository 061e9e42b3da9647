"""Labels as they stand in data -> one column of one type: whole numbers, numbers, truth values, texts, or named classes.

While rows are read, each label is kept as text beside its kind, because the type of the column is only known at the end:
`4` may be a class, until a later row says `3.8`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, List, Value

from vanilla_transformer.training.cached_rows import describe
from vanilla_transformer.training.corpus_files import CorpusError

KINDS = (None, "classes", "regression")
_WHOLE = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?$"


class LabelReader:
    """Checks labels one after the other: all of one kind, and none missing where they are required.

    Args:
        name: of the field, for messages.
        kind: None as the data say; "classes"; "regression": every label must be a number.
        flag: what the user writes to name another field.
    """

    def __init__(self, name: str, kind: str | None = None, flag: str = "label_field"):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} must be None, 'classes' or 'regression'")
        self.name, self.kind, self.flag = name, kind, flag
        self.first: tuple[str, str] | None = None

    def read(self, value: Any, place: str) -> tuple[str, str]:
        """(the label as text, its kind: "text", "number" or "bool").

        Raises:
            CorpusError: with the place: no such value, NaN, a kind that differs from the labels before.
        """
        kinds = {bool: "bool", int: "number", float: "number", str: "text"}
        kind = kinds.get(type(value))
        if kind is None or (kind == "text" and not value.strip()):
            raise CorpusError(f"{place}: `{self.name}` is no label but {describe(value)}")
        if kind == "number" and not math.isfinite(value):
            raise CorpusError(f"{place}: `{self.name}` is {value}; a label must be a finite number")
        if self.first is None:
            self.first = kind, place
        if kind != self.first[0]:
            raise CorpusError(
                f"{place}: `{self.name}` is {describe(value)}, a {kind}, where {self.first[1]} has a {self.first[0]}; "
                f"write all labels alike"
            )
        text = value if kind == "text" else json.dumps(value)
        if self.kind == "regression" and (kind == "bool" or not _is_number(text)):
            raise CorpusError(f"{place}: `{self.name}` is {describe(value)}, but regression needs numbers")
        return text, kind


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def typed(dataset: Dataset, column: str, kind: str | None = None, names: list[str] | None = None) -> Dataset:
    """The column of label texts with its type, and without the column `kind` beside it; or without both, if no row has
    a label. Texts that are all numbers (CSV knows no others) count as numbers.

    int64: whole numbers, or ClassLabel where `names` are given; bool; float64: numbers that are not all whole, or any if
    kind is "regression"; string: all else. Lists of labels likewise.
    """
    values = dataset.data.column(column)
    if nested := isinstance(dataset.features[column], List):
        values = pc.call_function("list_flatten", [values])
    found = set(dataset.unique("kind")) - {None}
    dataset = dataset.remove_columns("kind")
    if not found:
        return dataset.remove_columns(column)
    new: Any = Value("string")
    if found == {"bool"}:
        new = Value("bool")
    elif _all_match(values, _WHOLE):
        new = Value("float64" if kind == "regression" else "int64")
    elif _all_match(values, _NUMBER):
        numbers = values.cast("float64")
        whole = pc.call_function(
            "all", [pc.call_function("equal", [numbers, pc.call_function("floor", [numbers])])]
        ).as_py()
        if kind == "regression" or not (whole or kind == "classes"):
            new = Value("float64")
        elif whole:
            new = Value("int64")
            dataset = _cast(dataset, column, Value("float64"), nested)
    dataset = _cast(dataset, column, new, nested)
    if names is not None and new == Value("int64"):
        dataset = _cast(dataset, column, ClassLabel(names=names), nested)
    return dataset


def class_names_of(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them; None for any other feature."""
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _all_match(values: Any, pattern: str) -> bool:
    matched = pc.call_function("match_substring_regex", [values], pc.MatchSubstringOptions(pattern))
    return bool(pc.call_function("all", [matched]).as_py())


def _cast(dataset: Dataset, column: str, new: Any, nested: bool) -> Dataset:
    wanted = List(new) if nested else new
    if dataset.features[column] == wanted:
        return dataset
    return dataset.cast(Features({**dataset.features, column: wanted}))

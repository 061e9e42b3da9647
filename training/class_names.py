"""Which classes there are, in which order, and what a label is among them: names <-> ids for `id2label`, `label2id`.

    classes = ClassNames.of_column(train, "label")          # or ClassNames.of_model(config.id2label)
    model_config.id2label, model_config.label2id = classes.id2label, classes.label2id
    validation = classes.encode(validation, "label", "validation")   # the column holds ids 0, 1, ...

The order depends on nothing but the set of labels: named classes as the data set numbers them, whole numbers by value,
false before true, texts by code point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from vanilla_transformer.modeling.loss import IGNORED
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.labels import class_names_of

_SHOWN = 20
NO_CLASS = "(none of the classes)"


@dataclass(frozen=True)
class ClassNames:
    """The names of the classes; a class's id is its place."""

    names: tuple[str, ...]

    def __post_init__(self):
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ValueError(
                f"class names: {twice[0]!r} stands for several classes; every class needs a name of its own"
            )

    @classmethod
    def of_column(cls, dataset: Dataset, column: str) -> ClassNames:
        """The classes of a column of labels, or of lists of tags: those of the training part.

        All names of a ClassLabel, also those that no row has; else every label that occurs.

        Raises:
            CorpusError: numbers that are not whole (that is regression); no label at all, or a single one.
        """
        feature: Any = dataset.features[column]
        names = class_names_of(feature)
        if names is None:
            kind = getattr(feature, "feature", feature).dtype
            if kind.startswith("float"):
                raise CorpusError(f"`{column}` holds numbers that are not whole, not classes: learn them by regression")
            names = [_name(value) for value in sorted(_different(dataset, column))]
        if len(names) < 2:
            raise CorpusError(
                f"`{column}` has {len(names)} class{'es' * (not names)} ({', '.join(names)}): nothing to tell apart"
            )
        return cls(tuple(names))

    @classmethod
    def of_model(cls, id2label: Mapping[Any, str]) -> ClassNames:
        """The classes of a loaded model's configuration. ValueError if their ids are not 0, 1, ..."""
        numbered = {int(number): str(name) for number, name in id2label.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(f"id2label: the ids must be 0 to {len(numbered) - 1}; found {sorted(numbered)[:_SHOWN]}")
        return cls(tuple(numbered[number] for number in range(len(numbered))))

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def name(self, number: int) -> str:
        """A class's name; of IGNORED, a name that no class has, so that it never equals a prediction."""
        return NO_CLASS if number == IGNORED else self.names[number]

    def unknown(self, dataset: Dataset, column: str) -> dict[str, int]:
        """The labels of a column that are none of the classes, and how often each stands there."""
        ids = self._ids(dataset, column)
        counts = _flat(_stored(dataset, column)).value_counts().to_pylist() if IGNORED in ids.values() else []
        found = {
            self._given(dataset, column, c["values"]): c["counts"] for c in counts if ids.get(c["values"]) == IGNORED
        }
        return dict(sorted(found.items()))

    def encode(self, dataset: Dataset, column: str, part: str, refuse_unknown: bool = True) -> Dataset:
        """The data set with ids, int64, in place of the labels (or of the lists of tags); a missing label stays missing.

        A label is found by its name. Whole numbers without names may also be ids, where the classes have names that are
        no numbers ("negative", "positive").

        Args:
            part: what to call the data in messages: "validation", or a file.
            refuse_unknown: False: a label that is none of the classes becomes IGNORED. Official test sets have such labels
                (two of the Korean treebanks do); the loss cannot tell of them, and a score must count them as wrong. Report
                what `unknown` finds.

        Raises:
            CorpusError: a label that is none of the classes: with part, row (from 1), label and the known ones.
        """
        ids = self._ids(dataset, column)
        for value, number in ids.items():
            if number == IGNORED and refuse_unknown:
                raise self._unknown(dataset, column, part, value)
        return _replaced(dataset, column, ids)

    def _ids(self, dataset: Dataset, column: str) -> dict[Any, int]:
        """The id of every label that occurs; IGNORED for one that is none of the classes."""
        known = self.label2id
        # Where a name is a number, 1 must mean the class "1", never the second one.
        named = class_names_of(dataset.features[column]) is not None
        by_id = not named and not any(_is_number(name) for name in self.names)
        ids: dict[Any, int] = {}
        for value in _different(dataset, column):
            fits = by_id and type(value) is int and 0 <= value < len(self)
            ids[value] = known.get(self._given(dataset, column, value), value if fits else IGNORED)
        return ids

    @staticmethod
    def _given(dataset: Dataset, column: str, value: Any) -> str:
        names = class_names_of(dataset.features[column])
        return _name(value) if names is None or not 0 <= value < len(names) else names[value]

    def _unknown(self, dataset: Dataset, column: str, part: str, value: Any) -> CorpusError:
        name = self._given(dataset, column, value)
        row = next(
            number
            for number, found in enumerate(dataset[column], start=1)
            if found == value or (isinstance(found, list) and value in found)
        )
        known = ", ".join(self.names[:_SHOWN]) + (f", ... ({len(self):,} in all)" if len(self) > _SHOWN else "")
        return CorpusError(
            f"{part}, row {row}: `{column}` {name!r} is none of the classes: {known}; correct it, or train with it"
        )


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _different(dataset: Dataset, column: str) -> list[Any]:
    return [value for value in _flat(_stored(dataset, column)).unique().to_pylist() if value is not None]


def _stored(dataset: Dataset, column: str) -> pa.Array:
    """The column as one Arrow array, of the rows selected."""
    table: Any = dataset.select_columns(column).with_format("arrow")[:]
    return table[column].combine_chunks()


def _flat(values: Any) -> Any:
    return pc.call_function("list_flatten", [values]) if isinstance(values, pa.ListArray) else values


def _replaced(dataset: Dataset, column: str, ids: dict[Any, int]) -> Dataset:
    def replace(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {column: [number(value) for value in columns[column]]}

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [ids[one] for one in value]
        return None if value is None else ids[value]

    nested = isinstance(dataset.features[column], List)
    features = Features({**dataset.features, column: List(Value("int64")) if nested else Value("int64")})
    return dataset.map(replace, batched=True, features=features, desc="Numbering classes")

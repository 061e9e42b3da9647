"""Labelled data for fine-tuning: files or Hub data sets -> a memory-mapped `datasets.Dataset` with columns of one type.

    load_classification(["train.jsonl"])     text, text_pair (of pairs), label
    load_tagging(["train.parquet"])          tokens, tags
    load_parsing(["train.conllu"])           tokens, upos, head, deprel, conllu   (labelled_trees.py)
    load_dialogues(["train.jsonl.gz"])       dialog                               (dialogues.py)

Every row of the data is a row of the result, also an empty one: what cannot be learned from is left out, and counted, when
rows are encoded (`labelled_task.py`). Errors are CorpusErrors that name file and row. For the options that all share:

    files: one after the other; JSON Lines, JSON, CSV (text formats also .gz) or Parquet; trees also CoNLL-U.
    dataset_name, dataset_config, split: a data set on the Hub, or a folder, instead of files.
    labels_required: False where labels are to be predicted: rows may lack them. A column that no row has is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset, Features, List, Value

from vanilla_transformer.training.cached_rows import describe
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.dialogues import load_dialogues
from vanilla_transformer.training.labelled_files import Places, Source, field_of, same_length, tokens_of
from vanilla_transformer.training.labelled_trees import load_parsing
from vanilla_transformer.training.labels import LabelReader, class_names_of, typed

__all__ = ["CorpusError", "load_classification", "load_dialogues", "load_parsing", "load_tagging"]

TEXT_PAIRS = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
)
TEXTS = ("text", "sentence", "tokens")
TAG_FIELDS = ("ner_tags", "pos_tags", "upos", "tags", "slots", "chunk_tags")


def load_classification(
    files: Sequence[str] | None,
    *,
    text_fields: Sequence[str] | None = None,
    label_field: str = "label",
    kind: str | None = None,
    labels_required: bool = True,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
) -> Dataset:
    """Texts, or pairs of texts, with one label each: columns `text`, `text_pair` (only of pairs) and `label`.

    Args:
        text_fields: one field or two; else the first of TEXT_PAIRS or else of TEXTS that the first row has. A list of
            tokens is joined by spaces (single characters with blanks among them, by nothing).
        label_field: a text, a whole number, a truth value (classes), or a number (regression).
        kind: "regression" or "classes"; None: regression if any label of these files is a number that is not whole.
            The other parts of a corpus are loaded with the kind of its training part.

    The type of `label` tells what it is (`labels.typed`): float64 is regression, all else are classes. ClassLabels keep
    their names; a ClassLabel of -1 is no label.
    """
    source = Source(files, dataset_name, dataset_config, split)
    place, first = source.first_row()
    fields = _text_fields(first, place, text_fields)
    names = class_names_of((source.features or {}).get(label_field))
    options: dict[str, Any] = {"fields": fields, "label_field": label_field, "kind": kind, "required": labels_required}
    columns = ("text", "text_pair")[: len(fields)]
    features = Features({name: Value("string") for name in (*columns, "label", "kind")})
    options |= {"columns": columns, "no_label": None if names is None else -1}
    return typed(source.dataset(_classification, options, features), "label", kind, names)


def _text_fields(row: dict[str, Any], place: str, named: Sequence[str] | None) -> tuple[str, ...]:
    if named is not None:
        fields = (named,) if isinstance(named, str) else tuple(named)
        if len(fields) not in (1, 2):
            raise CorpusError(f"text_fields names {len(fields)} fields, {', '.join(fields) or 'none'}; name one or two")
        return fields
    pairs = [pair for pair in TEXT_PAIRS if set(pair) <= row.keys()]
    if len(pairs) > 1:
        raise CorpusError(
            f"{place}: both {' and '.join('+'.join(pair) for pair in pairs)} could be the texts; name them with text_fields"
        )
    found = pairs or [(name,) for name in TEXTS if name in row]
    if not found:
        known = ", ".join([*TEXTS, *("+".join(pair) for pair in TEXT_PAIRS)])
        raise CorpusError(
            f"{place}: no field of texts (known: {known}); found: {', '.join(row) or 'nothing'}; name one or two with text_fields"
        )
    return found[0]


def _classification(
    places: Places,
    fields: tuple[str, ...],
    columns: tuple[str, ...],
    label_field: str,
    kind: str | None,
    required: bool,
    no_label: int | None,
) -> Iterator[dict[str, Any]]:
    reader = LabelReader(label_field, kind)
    for place, row in places:
        made: dict[str, Any] = {"label": None, "kind": None}
        for column, name in zip(columns, fields, strict=True):
            made[column] = _text_of(field_of(row, name, place, "text_fields"), name, place)
        value = field_of(row, label_field, place, "label_field") if required else row.get(label_field)
        missing = value is None or value == "" or (no_label is not None and value == no_label)
        if missing and required:
            raise CorpusError(
                f"{place}: `{label_field}` is {'missing' if value in (None, '') else value}: an unlabelled row; leave it out"
            )
        if not missing:
            made["label"], made["kind"] = reader.read(value, place)
        yield made


def _text_of(value: Any, name: str, place: str) -> str:
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        return ("" if any(token.isspace() for token in value) else " ").join(value)
    if not isinstance(value, str):
        raise CorpusError(f"{place}: `{name}` is not a text but {describe(value)}")
    return value


def load_tagging(
    files: Sequence[str] | None,
    *,
    token_field: str = "tokens",
    tag_field: str | None = None,
    labels_required: bool = True,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
) -> Dataset:
    """Sentences with one tag for every token: columns `tokens` and `tags`.

    Args:
        tag_field: texts, whole numbers or ClassLabels; else the one of TAG_FIELDS that the first row has, which must be
            the only one.
    """
    source = Source(files, dataset_name, dataset_config, split)
    place, first = source.first_row()
    tag_field = tag_field or _tag_field(first, place, labels_required)
    names = class_names_of((source.features or {}).get(tag_field))
    options = {"token_field": token_field, "tag_field": tag_field, "required": labels_required}
    features = Features({"tokens": List(Value("string")), "tags": List(Value("string")), "kind": Value("string")})
    return typed(source.dataset(_tagging, options, features), "tags", "classes", names)


def _tag_field(row: dict[str, Any], place: str, required: bool) -> str:
    found = [name for name in TAG_FIELDS if name in row]
    if len(found) == 1 or (not found and not required):
        return (found or ["tags"])[0]
    what = (
        f"several fields could be the tags: {', '.join(found)}"
        if found
        else f"no field of tags ({', '.join(TAG_FIELDS)})"
    )
    raise CorpusError(f"{place}: {what}; found: {', '.join(row) or 'nothing'}; name it with tag_field")


def _tagging(places: Places, token_field: str, tag_field: str, required: bool) -> Iterator[dict[str, Any]]:
    reader = LabelReader(tag_field, "classes", "tag_field")
    for place, row in places:
        tokens = tokens_of(row, token_field, place)
        values = field_of(row, tag_field, place, "tag_field") if required else row.get(tag_field)
        if values is None and required:
            raise CorpusError(f"{place}: `{tag_field}` is missing (null): an unlabelled row; leave it out")
        tags = kind = None
        if values is not None:
            checked = [
                reader.read(value, f"{place}, token {number}")
                for number, value in enumerate(same_length(tokens, values, tag_field, place), start=1)
            ]
            tags, kind = [text for text, _ in checked], (checked[0][1] if checked else "text")
        yield {"tokens": tokens, "tags": tags, "kind": kind}

"""Dependency trees: rows or CoNLL-U files -> a memory-mapped `datasets.Dataset`, every tree checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset, Features, List, Value

from vanilla_transformer.training.cached_rows import describe
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.labelled_files import Places, Source, field_of, same_length, tokens_of
from vanilla_transformer.training.spanning_tree import tree_fault

_FEATURES = Features(
    {
        "tokens": List(Value("string")),
        "upos": List(Value("string")),
        "head": List(Value("int32")),
        "deprel": List(Value("string")),
        "conllu": Value("string"),
    }
)


def load_parsing(
    files: Sequence[str] | None,
    *,
    token_field: str = "tokens",
    head_field: str = "head",
    deprel_field: str = "deprel",
    labels_required: bool = True,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
) -> Dataset:
    """Sentences with their trees. Columns:

        tokens   the words
        upos     universal parts of speech, where the rows have them
        head     for each word the number of its head from 1, or 0 for the root
        deprel   for each word the label of the arc to its head
        conllu   the sentence's lines as they stand in the file, for `conllu_files.with_tree`; None for other rows

    Args: as in `labelled_rows.py`; of a CoNLL-U file the words with whole numbers are the tokens.

    Raises:
        CorpusError: with file and row, also for what is no tree: several roots, a cycle (with its words), a head out of range.
    """
    source = Source(files, dataset_name, dataset_config, split)
    options = {"token_field": token_field, "head_field": head_field, "deprel_field": deprel_field}
    dataset = source.dataset(_parsing, options | {"required": labels_required}, _FEATURES)
    absent = [name for name in ("upos", "head", "deprel") if dataset.data.column(name).null_count == len(dataset)]
    return dataset.remove_columns(absent)


def _parsing(
    places: Places, token_field: str, head_field: str, deprel_field: str, required: bool
) -> Iterator[dict[str, Any]]:
    for place, row in places:
        tokens = tokens_of(row, token_field, place)
        if required:
            field_of(row, head_field, place, "head_field")
            field_of(row, deprel_field, place, "deprel_field")
        head, deprel, upos, block = (row.get(name) for name in (head_field, deprel_field, "upos", "conllu"))
        if required and (head is None or deprel is None):
            name = head_field if head is None else deprel_field
            raise CorpusError(f"{place}: `{name}` is missing: a sentence without its tree; leave it out")
        for name, column, kind in ((head_field, head, int), (deprel_field, deprel, str), ("upos", upos, str)):
            if column is not None:
                _check(same_length(tokens, column, name, place), kind, name, place)
        if head is not None and (fault := tree_fault(head, tokens)):
            raise CorpusError(f"{place}: `{head_field}` is no tree, for {fault}; correct the sentence or take it out")
        yield {
            "tokens": tokens,
            "upos": upos,
            "head": head,
            "deprel": deprel,
            "conllu": block if isinstance(block, str) else None,
        }


def _check(values: list[Any], kind: type, name: str, place: str) -> None:
    for number, value in enumerate(values, start=1):
        if type(value) is not kind:
            what = "a whole number" if kind is int else "a text"
            raise CorpusError(f"{place}: `{name}` of word {number} is not {what} but {describe(value)}")

"""Dialogues: rows of turns -> a memory-mapped `datasets.Dataset` with the column `dialog`, a list of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset, Features, List, Value

from vanilla_transformer.training.cached_rows import describe
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.labelled_files import Places, Source

# What the text of a turn is called where a turn is an object: Hub data sets, and chat templates.
_TURN_FIELDS = ("text", "content", "utterance")
_QUESTION, _ANSWER = "question", "answer"


def load_dialogues(
    files: Sequence[str] | None,
    *,
    dialog_field: str = "dialog",
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
) -> Dataset:
    """Dialogues: the column `dialog`, a list of the turns' texts in order.

    Args:
        dialog_field: a list of texts, or of objects with `text`, `content` or `utterance` (what else they hold, such as the
            speaker, is left out: turns are taken to alternate). A row without that field may have `question` and `answer`.
        others: as in `labelled_rows.py`.

    Every row is kept, also one with a single turn (it may be one to be answered) or an empty turn: who makes pairs of
    history and reply of them for training leaves those out, and counts them.
    """
    source = Source(files, dataset_name, dataset_config, split)
    return source.dataset(_dialogues, {"field": dialog_field}, Features({"dialog": List(Value("string"))}))


def _dialogues(places: Places, field: str) -> Iterator[dict[str, Any]]:
    for place, row in places:
        if field in row:
            turns = row[field]
        elif {_QUESTION, _ANSWER} <= row.keys():
            turns = [row[_QUESTION], row[_ANSWER]]
        else:
            raise CorpusError(
                f"{place}: no `{field}`, nor `{_QUESTION}` and `{_ANSWER}`; found: {', '.join(row) or 'nothing'}; "
                f"name the field with dialog_field"
            )
        if not isinstance(turns, list):
            raise CorpusError(f"{place}: `{field}` is not a list of turns but {describe(turns)}")
        yield {"dialog": [_text_of(turn, number, place) for number, turn in enumerate(turns, start=1)]}


def _text_of(turn: Any, number: int, place: str) -> str:
    text = turn
    if isinstance(turn, dict):
        names = [name for name in _TURN_FIELDS if name in turn]
        if len(names) != 1:
            raise CorpusError(
                f"{place}: turn {number} must have one of {', '.join(_TURN_FIELDS)}; found: {', '.join(turn) or 'nothing'}"
            )
        text = turn[names[0]]
    if not isinstance(text, str):
        raise CorpusError(f"{place}: turn {number} is not a text but {describe(text)}")
    return text

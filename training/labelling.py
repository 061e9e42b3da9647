"""Ways to label texts: all that differs between classification, tagging and parsing, for training, scoring and predicting.

    rows --encode--> examples --collate--> a batch --model--> output --answers--> an answer for each example
                                                                     --merged---> an answer for each row

A row whose text is longer than the model allows is several examples, windows; it still gets one answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Features, List, Value

from vanilla_transformer.modeling.loss import IGNORED

Example = dict[str, Any]


class Labelling(ABC):
    """One of these ways.

    Args:
        tokenizer: of the model.
        pad_token_id: fills batches.
    """

    model_class: ClassVar[type[Any]]
    column: ClassVar[str]
    """of a row, that holds the class, or the classes"""
    classes: Any
    """`ClassNames`; None in regression"""
    best_metric: str
    metrics: tuple[str, ...]
    """what `measure` finds, in per cent; more is better"""

    def __init__(self, tokenizer: Any, pad_token_id: int):
        self.tokenizer, self.pad_token_id = tokenizer, pad_token_id

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """The settings of the model's head that the data decide."""

    @abstractmethod
    def features(self, has_labels: bool) -> Features:
        """Of an example; `input_ids` among them."""

    @abstractmethod
    def encode(self, rows: Sequence[dict[str, Any]], limit: int | None, first_row: int = 1) -> list[list[Example]]:
        """The examples of each row: one, whatever its length, if `limit` is None; else as many of at most so many tokens as it
        takes. Their `input_ids` end in `</s>`; they have `labels` where the rows have them.

        Args:
            first_row: the number of the first of these rows, for messages.

        Raises:
            ValueError: a row, named by its number, that cannot be cut.
        """

    @abstractmethod
    def is_empty(self, row: dict[str, Any]) -> bool:
        """Whether there is nothing in it to learn from."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Padded on the right: input_ids and attention_mask (B, S), and what else the model takes."""

    @abstractmethod
    def answers(self, output: Any, examples: Sequence[Example]) -> list[Any]:
        """From a model's output, one for each example."""

    @abstractmethod
    def merged(self, answers: Sequence[Any]) -> Any:
        """Of the windows of one row, in order."""

    @abstractmethod
    def measure(self, answers: Sequence[Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Scores of the answers to rows that have labels."""

    @abstractmethod
    def written(self, answer: Any, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the answer in the fields of its labels, for a file."""


IDS = List(Value("int32"))


def padded(rows: Sequence[Any], value: int) -> torch.Tensor:
    """(B, longest) int64."""
    width = max(map(len, rows))
    filled = np.full((len(rows), width), value, dtype=np.int64)
    for i, row in enumerate(rows):
        filled[i, : len(row)] = row
    return torch.from_numpy(filled)


def texts_of(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask (B, S) of a batch."""
    ids = [example["input_ids"] for example in examples]
    return {"input_ids": padded(ids, pad_token_id), "attention_mask": padded([np.ones(len(row)) for row in ids], 0)}


def per_cent(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(100 * score, 2) for name, score in scores.items()}


__all__ = ["IDS", "IGNORED", "Example", "Labelling", "padded", "per_cent", "texts_of"]

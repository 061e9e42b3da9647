"""Answers of a trained classifier, tagger or parser to rows that it has not seen: in order, a row in gives an answer out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import PreTrainedModel

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.dependency_parsing import DependencyParsing
from vanilla_transformer.training.labelled_task import encode, merged
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.sequence_classification import SequenceClassification
from vanilla_transformer.training.starting_model import load_from
from vanilla_transformer.training.token_batches import cut_batches
from vanilla_transformer.training.token_classification import TokenClassification

TASK_OF_CLASS = {
    VanillaTransformerForConditionalGeneration: "translation",
    VanillaTransformerForSequenceClassification: "sequence-classification",
    VanillaTransformerForTokenClassification: "token-classification",
    VanillaTransformerForDependencyParsing: "dependency-parsing",
}


def task_of(model: str) -> tuple[str, type[Any], dict[str, Any]]:
    """(task, class, the flags of its training) of a saved model; no flags if they are not beside it.

    Raises:
        ValueError: it is no model of ours, or has no head.
    """
    config = load_from(VanillaTransformerConfig, model, "model")
    named = config.architectures or []
    found = next((kind for kind in TASK_OF_CLASS if kind.__name__ in named), None)
    if found is None:
        what = ", ".join(named) or "model without a named class"
        raise ValueError(f"{model} is a {what}, which has no task; fine-tune it first")
    description = Path(model) / "training.yaml"
    told = yaml.safe_load(description.read_text(encoding="utf-8")) if description.is_file() else None
    flags = told.get("flags") if isinstance(told, dict) else None
    flags = flags if isinstance(flags, dict) else {}
    task = flags.get("task") if found is VanillaTransformerForConditionalGeneration else None
    return task or TASK_OF_CLASS[found], found, flags


def labelling_of(model: PreTrainedModel, tokenizer: Any) -> Labelling:
    """How a loaded model labels texts, from its configuration alone."""
    config, pad = model.config, tokenizer.pad_token_id
    if isinstance(model, VanillaTransformerForSequenceClassification) and config.problem_type == "regression":
        return SequenceClassification(tokenizer, pad, None)
    classes = ClassNames.of_model(config.id2label or {})
    if isinstance(model, VanillaTransformerForSequenceClassification):
        return SequenceClassification(tokenizer, pad, classes)
    if isinstance(model, VanillaTransformerForTokenClassification):
        return TokenClassification(tokenizer, pad, classes, config.tokens_are_characters)
    return DependencyParsing(tokenizer, pad, classes)


@torch.no_grad()
def predict(
    model: PreTrainedModel, labelling: Labelling, rows: Dataset, *, max_tokens: int = 4096, chunk_rows: int = 2000
) -> Iterator[Any]:
    """An answer for each row, in order.

    Args:
        rows: the fields that `labelling` reads; labels are not looked at.
        max_tokens: of a batch, padding counted.
        chunk_rows: so many rows are sorted by length and answered together; memory does not grow with the number of rows.

    Raises:
        ValueError: a sentence to be parsed is longer than the model allows.
    """
    model.eval()
    limit = model.config.max_position_embeddings
    for first in range(0, len(rows), chunk_rows):
        examples = encode(rows.select(range(first, min(first + chunk_rows, len(rows)))), labelling, limit, has_labels=False)
        ids = examples["input_ids"]
        lengths = [[len(row)] for row in ids]
        answered: dict[int, Any] = {}
        for part in cut_batches(lengths, max(max_tokens, max(map(max, lengths))), None):  # pyright: ignore[reportArgumentType]
            columns: Any = examples[part.tolist()]
            batch = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            tensors = {name: tensor.to(model.device) for name, tensor in labelling.collate(batch).items()}
            answered |= zip(part.tolist(), labelling.answers(model(**tensors), batch), strict=True)
        yield from merged(zip(examples["row"], (answered[index] for index in range(len(ids))), strict=True), labelling)

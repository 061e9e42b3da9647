"""Answers of a trained classifier, tagger or parser to rows that it has not seen: in order, a row in gives an answer out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
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
from vanilla_transformer.training.labelled_task import merged, rows_of
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


def task_name(kind: type[Any], flags: dict[str, Any]) -> str | None:
    """What a model does: one of `finetune`'s tasks, or "denoising"; None if it writes texts and nothing tells which.

    Args:
        kind: its class.
        flags: of the run, as in training.yaml, also of runs older than the flag `task`; empty if they are not known.

    Raises:
        ValueError: it is no model for a task.
    """
    if kind not in TASK_OF_CLASS:
        raise ValueError(f"{kind.__name__} has no task; give a model that was trained for one")
    if kind is not VanillaTransformerForConditionalGeneration:
        return TASK_OF_CLASS[kind]
    if "mask_share" in flags:
        return "denoising"
    return flags.get("task") or ("translation" if flags.get("source_lang") else None)


def task_of(model: str) -> tuple[str, type[Any], dict[str, Any]]:
    """(task, class, the flags of its training) of a saved model; no flags if they are not beside it.

    See `task_name`; a model that writes texts, and of which nothing more is known, is taken for a translator.

    Raises:
        ValueError: it is no model of ours, or has no head.
    """
    config = load_from(VanillaTransformerConfig, model, "model")
    named = config.architectures or []
    found = next((kind for kind in TASK_OF_CLASS if kind.__name__ in named), None)
    if found is None:
        what = ", ".join(named) or "model without a named class"
        raise ValueError(f"{model} is a {what}, which has no task; fine-tune it first")
    flags = training_flags(model)
    return task_name(found, flags) or TASK_OF_CLASS[found], found, flags


def training_flags(model: str) -> dict[str, Any]:
    """The flags of the run that a model comes from, out of the training.yaml that lies beside it, also on the Hub; a checkpoint's
    is its run's. Empty if there is none.
    """
    folder = Path(model)
    if folder.is_dir():
        of_checkpoint = folder.absolute().parent.name == "checkpoints"
        description = (folder.absolute().parents[1] if of_checkpoint else folder) / "training.yaml"
        if not description.is_file():
            return {}
    else:
        try:
            description = Path(hf_hub_download(model, "training.yaml"))
        except EntryNotFoundError:  # also where the Hub cannot be reached and the cache does not hold it
            return {}
    told = yaml.safe_load(description.read_text(encoding="utf-8"))
    flags = told.get("flags") if isinstance(told, dict) else None
    return flags if isinstance(flags, dict) else {}


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
        ValueError: a sentence to be parsed is longer than the model allows, or a pair of texts both are.
    """
    model.eval()
    limit = model.config.max_position_embeddings
    fields = [name for name in ("text", "text_pair", "tokens") if name in rows.column_names]
    all_rows = enumerate(rows_of(rows.select_columns(fields)), start=1)
    for chunk in iter(lambda: list(islice(all_rows, chunk_rows)), []):
        found = labelling.encode([row for _, row in chunk], limit, first_row=chunk[0][0])
        examples = [(number, example) for number, windows in enumerate(found) for example in windows]
        lengths = np.array([len(example["input_ids"]) for _, example in examples])
        answered: dict[int, Any] = {}
        for part in cut_batches(lengths, max(max_tokens, int(lengths.max())), None):
            batch = [examples[index][1] for index in part]
            tensors = {name: tensor.to(model.device) for name, tensor in labelling.collate(batch).items()}
            answered |= zip(part.tolist(), labelling.answers(model(**tensors), batch), strict=True)
        yield from merged(((number, answered[n]) for n, (number, _) in enumerate(examples)), labelling)

"""From the flags of `finetune` to a model and its task: data first, because classes decide the shape of a head."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from vanilla_transformer.training.arguments import DataArguments, ModelArguments, RunArguments, TaskArguments
from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.corpus import CorpusError, has_part
from vanilla_transformer.training.dependency_parsing import DependencyParsing
from vanilla_transformer.training.labelled_rows import load_classification, load_parsing, load_tagging
from vanilla_transformer.training.labelled_task import LabelledTask
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.sequence_classification import SequenceClassification
from vanilla_transformer.training.starting_model import starting_model
from vanilla_transformer.training.task import Task
from vanilla_transformer.training.token_classification import TokenClassification
from vanilla_transformer.training.word_pieces import has_blanks

PARTS = ("train", "validation", "test")


def model_and_task(
    what: TaskArguments, model: ModelArguments, data: DataArguments, run: RunArguments, tokenizer: Any
) -> tuple[Any, Task]:
    """What `Training` takes.

    Raises:
        ValueError: see `starting_model` and the readers of the task's data.
    """
    if what.task in ("translation", "dialogue"):
        from vanilla_transformer.training.dialogue import DialogueTask
        from vanilla_transformer.training.translation import TranslationTask

        made = starting_model(model, tokenizer, run.seed, run.attention)
        if what.task == "dialogue":
            return made, DialogueTask(data, tokenizer, made, run, what.dialog_field)
        return made, TranslationTask(data, tokenizer, made, run)
    _refuse_text_flags(what, data)
    rows = labelled_rows(what, data)
    labelling, rows = with_numbered_classes(what, rows, tokenizer)
    made = starting_model(
        model, tokenizer, run.seed, run.attention, kind=labelling.model_class, head=labelling.head()
    )
    return made, LabelledTask(labelling, rows, data, made, run)


def labelled_rows(what: TaskArguments, data: DataArguments, labels_required: bool = True) -> dict[str, Dataset]:
    """The parts there are, by name, as their reader gives them."""
    rows: dict[str, Dataset] = {}
    for part in PARTS:
        files: list[str] = getattr(data, f"{part}_file")
        by_name = not files and data.dataset_name is not None
        if not files and not (by_name and (part == "train" or has_part(str(data.dataset_name), data.dataset_config, part))):
            continue
        where: dict[str, Any] = {"files": files or None, "split": part, "labels_required": labels_required}
        if by_name:
            where |= {"dataset_name": data.dataset_name, "dataset_config": data.dataset_config}
        if what.task == "sequence-classification":
            kind = None if what.problem == "auto" else what.problem
            if part != "train" and "train" in rows:
                kind = "regression" if is_regression(rows["train"]) else "classes"
            fields = what.text_fields or None
            rows[part] = load_classification(text_fields=fields, label_field=what.label_field, kind=kind, **where)
        elif what.task == "token-classification":
            rows[part] = load_tagging(token_field=what.token_field, tag_field=what.tag_field, **where)
        else:
            rows[part] = load_parsing(token_field=what.token_field, **where)
    if "train" not in rows:
        raise CorpusError("give --train-file or --dataset-name: there is nothing to train on")
    return rows


def is_regression(rows: Dataset) -> bool:
    return rows.features["label"].dtype == "float64"


LABEL_COLUMNS = {"sequence-classification": "label", "token-classification": "tags", "dependency-parsing": "deprel"}


def with_numbered_classes(
    what: TaskArguments, rows: dict[str, Dataset], tokenizer: Any
) -> tuple[Labelling, dict[str, Dataset]]:
    """How the rows are labelled, and the rows with the classes of the training part as numbers.

    Raises:
        CorpusError: a class of another part that no training row has.
    """
    column, pad = LABEL_COLUMNS[what.task], tokenizer.pad_token_id
    if what.task == "sequence-classification" and is_regression(rows["train"]):
        return SequenceClassification(tokenizer, pad, None), rows
    classes = ClassNames.of_column(rows["train"], column)
    rows = {part: classes.encode(data, column, part) for part, data in rows.items()}
    if what.task == "sequence-classification":
        return SequenceClassification(tokenizer, pad, classes), rows
    if what.task == "token-classification":
        return TokenClassification(tokenizer, pad, classes, has_blanks(rows["train"]["tokens"])), rows
    return DependencyParsing(tokenizer, pad, classes), rows


def _refuse_text_flags(what: TaskArguments, data: DataArguments) -> None:
    for name in ("source_lang", "target_lang", "target_tag", "train_languages", "train_weights", "sampling_temperature"):
        if getattr(data, name):
            raise ValueError(f"{name} is for tasks whose output is text, and {what.task} has classes; leave it out")
    if data.bpe_dropout or data.streaming:
        raise ValueError(f"{'bpe_dropout' if data.bpe_dropout else 'streaming'} cannot be had with {what.task}; leave it out")

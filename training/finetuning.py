"""From the flags of `finetune` to a model and its task: data first, because classes decide the shape of a head."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from vanilla_transformer.training.arguments import (
    TRANSLATION_FLAGS,
    DataArguments,
    ModelArguments,
    RunArguments,
    TaskArguments,
    refuse_flags_of_others,
)
from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.corpus import CorpusError, has_part
from vanilla_transformer.training.dependency_parsing import DependencyParsing
from vanilla_transformer.training.dialogue import DialogueTask
from vanilla_transformer.training.labelled_rows import load_classification, load_parsing, load_tagging
from vanilla_transformer.training.labelled_task import LabelledTask
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.sequence_classification import SequenceClassification
from vanilla_transformer.training.starting_model import starting_model
from vanilla_transformer.training.task import Task
from vanilla_transformer.training.token_classification import TokenClassification
from vanilla_transformer.training.translation import TranslationTask
from vanilla_transformer.training.word_pieces import has_blanks

# Flags that some tasks alone know; to the others they would say nothing.
OWN_FLAGS = {
    "translation": ("bpe_dropout",),
    "dialogue": ("bpe_dropout", "dialog_field"),
    "sequence-classification": (
        *("bpe_dropout", "text_fields", "label_field", "problem", "unknown_labels", "classifier_dropout"),
    ),
    "token-classification": ("token_field", "tag_field", "unknown_labels", "classifier_dropout"),
    "dependency-parsing": ("token_field", "unknown_labels", "arc_width", "relation_width", "biaffine_dropout"),
}
# Flags of texts that are written.
TEXT_FLAGS = (
    *(*TRANSLATION_FLAGS, "max_target_length", "streaming", "shuffle_buffer", "label_smoothing", "label_smoothing_kind"),
    *("eval_num_beams", "test_num_beams"),
)


def model_and_task(
    what: TaskArguments, model: ModelArguments, data: DataArguments, run: RunArguments, tokenizer: Any
) -> tuple[Any, Task]:
    """What `Training` takes.

    Raises:
        ValueError: a flag is not for this task; see `starting_model` and the readers of the task's data.
    """
    refuse_flags_of_other_tasks(what, model, data, run)
    if what.task in ("translation", "dialogue"):
        made = starting_model(model, tokenizer, run.seed, run.attention)
        if what.task == "dialogue":
            return made, DialogueTask(data, tokenizer, made, run, what.dialog_field)
        return made, TranslationTask(data, tokenizer, made, run)
    train = load_rows(what, data, "train")
    if train is None:
        raise CorpusError("give --train-file or --dataset-name: there is nothing to train on")
    labelling = labelling_of_data(what, train, tokenizer)
    kind = None if what.task != "sequence-classification" else "regression" if is_regression(train) else "classes"
    parts = {part: load_rows(what, data, part, kind) for part in ("validation", "test")}
    rows = {part: found for part, found in {"train": train, **parts}.items() if found is not None}
    unknown = {part: unknown_classes(labelling, found) for part, found in rows.items()}
    is_refused = what.unknown_labels == "refuse"
    rows = {part: with_class_numbers(labelling, found, part, is_refused) for part, found in rows.items()}
    made = starting_model(model, tokenizer, run.seed, run.attention, kind=labelling.model_class, head=labelling.head())
    return made, LabelledTask(labelling, rows, data, made, run, unknown)


def load_rows(what: TaskArguments, data: DataArguments, part: str, kind: str | None = None) -> Dataset | None:
    """The rows of "train", "validation" or "test", as their reader gives them; None if there is no such part.

    `kind`, for classification: "classes" or "regression"; if None, as `what.problem` or else the rows say.
    """
    files: list[str] = getattr(data, f"{part}_file")
    name = None if files else data.dataset_name
    if not files and (name is None or (part != "train" and not has_part(name, data.dataset_config, part))):
        return None
    where: dict[str, Any] = {"files": files or None, "split": part}
    if name is not None:
        where |= {"dataset_name": name, "dataset_config": data.dataset_config}
    if what.task == "sequence-classification":
        kind = kind or (None if what.problem == "auto" else what.problem)
        return load_classification(text_fields=what.text_fields or None, label_field=what.label_field, kind=kind, **where)
    if what.task == "token-classification":
        return load_tagging(token_field=what.token_field, tag_field=what.tag_field, **where)
    return load_parsing(token_field=what.token_field, **where)


def labelling_of_data(what: TaskArguments, rows: Dataset, tokenizer: Any) -> Labelling:
    """How the rows of the training part are labelled."""
    pad = tokenizer.pad_token_id
    if what.task == "sequence-classification" and is_regression(rows):
        return SequenceClassification(tokenizer, pad, None)
    if what.task == "sequence-classification":
        return SequenceClassification(tokenizer, pad, ClassNames.of_column(rows, SequenceClassification.column))
    if what.task == "token-classification":
        classes = ClassNames.of_column(rows, TokenClassification.column)
        return TokenClassification(tokenizer, pad, classes, has_blanks(rows["tokens"]))
    return DependencyParsing(tokenizer, pad, ClassNames.of_column(rows, DependencyParsing.column))


def with_class_numbers(labelling: Labelling, rows: Dataset, part: str, refuse_unknown: bool = True) -> Dataset:
    """The rows with numbers in place of their classes; as they are in regression.

    Raises:
        CorpusError: a class that `labelling` does not know, with its row and `part`; unless these become IGNORED.
    """
    if labelling.classes is None:
        return rows
    try:
        return labelling.classes.encode(rows, labelling.column, part, refuse_unknown)
    except CorpusError as error:
        raise CorpusError(f"{error}; or count such labels as wrong: --unknown-labels wrong") from None


def unknown_classes(labelling: Labelling, rows: Dataset) -> dict[str, int]:
    """Classes that `labelling` does not know, and how often each stands in the rows."""
    return {} if labelling.classes is None else labelling.classes.unknown(rows, labelling.column)


def is_regression(rows: Dataset) -> bool:
    return rows.features["label"].dtype == "float64"


def refuse_flags_of_other_tasks(
    what: TaskArguments, model: ModelArguments, data: DataArguments, run: RunArguments
) -> None:
    """ValueError if a flag is given that the task does not look at."""
    refuse_flags_of_others(OWN_FLAGS, [what.task], [what, model, data], f"the task is {what.task}")
    written = "tasks whose output is text"
    chosen = [written] if what.task in ("translation", "dialogue") else []
    refuse_flags_of_others({written: TEXT_FLAGS}, chosen, [model, data, run], f"{what.task} has classes")

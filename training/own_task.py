"""The task that a saved model was trained for, set up again on given data: to score it once more, or another in its place."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import DataArguments, RunArguments, TaskArguments
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.dialogue import DialogueTask
from vanilla_transformer.training.directions import directions_of
from vanilla_transformer.training.finetuning import load_rows, unknown_classes, with_class_numbers
from vanilla_transformer.training.labelled_task import LabelledTask
from vanilla_transformer.training.objectives import NoiseArguments, make_noise
from vanilla_transformer.training.prediction import labelling_of, task_name
from vanilla_transformer.training.task import Task
from vanilla_transformer.training.translation import TranslationTask


def own_task(model: PreTrainedModel, tokenizer: Any, flags: dict[str, Any], files: list[str], part: str = "test") -> Task:
    """The task whose part `test` is made of `files`, prepared as the run prepared its own. Nothing in it is for training.

    Args:
        flags: of the run, as in training.yaml.
        files: with the fields that the run's files have.
        part: "test" or "validation": that of the run which the files are, or stand for; the two may be in other languages.

    Raises:
        ValueError: the flags do not tell what the model was trained for; or as the readers of the task's data.
    """
    kind = task_name(type(model), flags)
    if kind is None:
        raise ValueError("training.yaml does not tell what the model was trained for, nor with which noise")
    known = flags | {"train_file": files, "test_file": files, "validation_file": [], "dataset_name": None}
    known |= {"streaming": False, "bpe_dropout": 0.0, "train_weights": [], "sampling_temperature": None}
    if kind == "translation" and flags.get("train_languages"):
        read = replace(_filled(DataArguments, flags), **{f"{part}_file": files})
        known["train_languages"] = known["test_languages"] = [str(direction) for direction in directions_of(read, part)]
    data, run, what = (_filled(group, known) for group in (DataArguments, RunArguments, TaskArguments))
    if kind == "translation":
        return TranslationTask(data, tokenizer, model, run)
    if kind == "dialogue":
        return DialogueTask(data, tokenizer, model, run, what.dialog_field)
    if kind == "denoising":
        noise = NoiseArguments.of_run(flags)
        return DenoisingTask(data, tokenizer, model, run, make_noise(noise, tokenizer), noise.documents)
    labelling = labelling_of(model, tokenizer)
    rows = load_rows(replace(what, task=kind), data, "test", "regression" if labelling.classes is None else "classes")
    assert rows is not None  # there are files
    unknown = {"test": unknown_classes(labelling, rows)}
    name = ", ".join(Path(file).name for file in files)
    rows = with_class_numbers(labelling, rows, name, what.unknown_labels == "refuse")
    return LabelledTask(labelling, {"train": rows, "test": rows}, data, model, run, unknown)


def _filled(part: type[Any], flags: dict[str, Any]) -> Any:
    return part(**{f.name: flags[f.name] for f in fields(part) if f.name in flags})

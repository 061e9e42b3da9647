"""The task that a saved model was trained for, set up again on given data: to score it once more, or another in its place."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import DataArguments, RunArguments, TaskArguments
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.dialogue import DialogueTask
from vanilla_transformer.training.finetuning import load_rows, with_class_numbers
from vanilla_transformer.training.labelled_task import LabelledTask
from vanilla_transformer.training.objectives import NoiseArguments, make_noise
from vanilla_transformer.training.prediction import TASK_OF_CLASS, labelling_of
from vanilla_transformer.training.task import Task
from vanilla_transformer.training.translation import TranslationTask


def own_task(model: PreTrainedModel, tokenizer: Any, flags: dict[str, Any], files: list[str]) -> Task:
    """The task whose part `test` is made of `files`, prepared as the run prepared its own.

    Args:
        flags: of the run, as in training.yaml.
        files: with the fields that the run's files have.

    Raises:
        ValueError: the flags do not tell what the model was trained for; or as the readers of the task's data.
    """
    known = flags | {"train_file": files, "test_file": files, "validation_file": [], "dataset_name": None}
    known |= {"streaming": False, "bpe_dropout": 0.0, "train_weights": [], "sampling_temperature": None}
    data, run, what, noise = (_filled(part, known) for part in (DataArguments, RunArguments, TaskArguments, NoiseArguments))
    kind = TASK_OF_CLASS.get(type(model))
    if kind is None:
        raise ValueError(f"{type(model).__name__} has no task; give a model that was trained for one")
    if kind != "translation":
        labelling = labelling_of(model, tokenizer)
        rows = load_rows(replace(what, task=kind), data, "test")
        assert rows is not None  # there are files
        rows = with_class_numbers(labelling, rows, ", ".join(Path(file).name for file in files))
        return LabelledTask(labelling, {"train": rows, "test": rows}, data, model, run)
    if flags.get("task") == "dialogue":
        return DialogueTask(data, tokenizer, model, run, what.dialog_field)
    if flags.get("task") == "translation" or flags.get("source_lang"):
        return TranslationTask(data, tokenizer, model, run)
    if "mask_share" not in flags:
        raise ValueError("training.yaml does not tell what the model was trained for, nor with which noise")
    return DenoisingTask(data, tokenizer, model, run, make_noise(noise, tokenizer), noise.documents)


def _filled(part: type[Any], flags: dict[str, Any]) -> Any:
    return part(**{f.name: flags[f.name] for f in fields(part) if f.name in flags})

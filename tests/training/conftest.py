"""Runs of a model that is trained in milliseconds, with everything else as a user has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vanilla_transformer.training.accelerator import make_accelerator
from vanilla_transformer.training.arguments import (
    DataArguments,
    ModelArguments,
    RunArguments,
    TaskArguments,
    TransferArguments,
)
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.finetuning import model_and_task
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.noising import TextInfilling
from vanilla_transformer.training.starting_model import load_tokenizer, starting_model
from vanilla_transformer.training.translation import TranslationTask

MakeTraining = Callable[..., Training]
TINY: dict[str, Any] = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 32},
    **{"max_position_embeddings": 64, "source_lang": "en", "target_lang": "de"},
    **{"max_tokens": 128, "learning_rate": 3e-3, "warmup_steps": 4, "eval_steps": 1000, "save_steps": 0},
}


class Unscored(TranslationTask):
    """Judged by the loss alone: decoding takes most of a tiny run's time."""

    best_metric = "loss"

    def score(self, *arguments: Any) -> dict[str, Any]:
        return {}


@pytest.fixture
def training(toy: Path, tmp_path: Path, fresh_accelerator: Callable[[], None]) -> MakeTraining:
    """`training("folder", kind=Unscored, any_flag=...)`: a run that is ready for `.run()`."""

    def make(folder: str = "run", kind: type = Unscored, **flags: Any) -> Training:
        fresh_accelerator()
        data = "text.txt" if kind is DenoisingTask else "train.jsonl"
        given = {
            **TINY,
            "tokenizer": str(toy / "tokenizer"),
            "train_file": [str(toy / data)],
            "validation_file": [] if kind is DenoisingTask else [str(toy / "validation.jsonl")],
            "output_dir": str(tmp_path / folder),
            **flags,
        }
        parts = [
            part(**{f.name: given.pop(f.name) for f in fields(part) if f.name in given})
            for part in (ModelArguments, DataArguments, RunArguments, TransferArguments)
        ]
        assert not given, f"no such flags: {given}"
        model_arguments, data_arguments, run, _ = parts
        accelerator = make_accelerator(run)
        tokenizer = load_tokenizer(model_arguments)
        model = starting_model(model_arguments, tokenizer, run.seed, run.attention)
        noise = [TextInfilling(tokenizer.mask_token_id)] if kind is DenoisingTask else []
        task = kind(data_arguments, tokenizer, model, run, *noise)
        made = Training(accelerator, model, tokenizer, task, run, parts)
        if kind is not TranslationTask:
            made.folder.tell = lambda model: None  # drawing takes longer than training
        return made

    return make


LEARNED: dict[str, Any] = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 64, "dropout": 0.0},
    **{"arc_width": 16, "relation_width": 16, "biaffine_dropout": 0.0, "max_position_embeddings": 32},
    **{"max_tokens": 600, "learning_rate": 1e-2, "warmup_steps": 5, "max_steps": 40, "eval_steps": 1000, "save_steps": 0},
}
FILES = {
    "sequence-classification": "classification.jsonl",
    "token-classification": "tagging.jsonl",
    "dependency-parsing": "parsing.jsonl",
    "dialogue": "dialogue.jsonl",
}


@pytest.fixture
def finetuning(
    toy: Path, labelled_toy: Path, tmp_path: Path, fresh_accelerator: Callable[[], None]
) -> Callable[..., Training]:
    """`finetuning("dependency-parsing", "folder", any_flag=...)`: a run that learns the toy data of a task by heart."""

    def make(task: str, folder: str = "run", **flags: Any) -> Training:
        fresh_accelerator()
        data = [str(labelled_toy / FILES[task])]
        given = {
            **LEARNED,
            "task": task,
            "tokenizer": str(toy / "tokenizer"),
            "train_file": data,
            "validation_file": data,
            "output_dir": str(tmp_path / folder),
            **flags,
        }
        if task != "dependency-parsing":
            for name in ("arc_width", "relation_width", "biaffine_dropout"):
                given.pop(name)
        if given.get("model"):
            for name in ("d_model", "encoder_layers", "decoder_layers", "num_attention_heads", "d_ff", "tokenizer"):
                given.pop(name)
            given.pop("max_position_embeddings")
        parts = [
            part(**{f.name: given.pop(f.name) for f in fields(part) if f.name in given})
            for part in (TaskArguments, ModelArguments, DataArguments, RunArguments, TransferArguments)
        ]
        assert not given, f"no such flags: {given}"
        what, model_arguments, data_arguments, run, _ = parts
        accelerator = make_accelerator(run)
        tokenizer = load_tokenizer(model_arguments)
        model, task_made = model_and_task(what, model_arguments, data_arguments, run, tokenizer)
        made = Training(accelerator, model, tokenizer, task_made, run, parts)
        made.folder.tell = lambda model: None  # drawing takes longer than training
        return made

    return make


@pytest.fixture(scope="session")
def write_rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`write_rows({"text": "a", "label": 1}, ...)`: a file of rows."""

    def write(*rows: dict[str, Any]) -> str:
        path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def saved_state() -> Callable[[Path], dict[str, Any]]:
    """All that a checkpoint holds and that could differ between two runs; times left out."""

    def read(checkpoint: Path) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name in ("model", "optimizer", "random_state_0"):
            for key, tensor in load_file(checkpoint / f"{name}.safetensors").items():
                # As bytes: NaN must equal NaN, and -0.0 must not equal 0.0.
                state[f"{name}: {key}"] = (
                    tensor.contiguous().view(torch.uint8).tolist() if tensor.dim() else tensor.item()
                )
        state |= json.loads((checkpoint / "progress.json").read_text())
        del state["seconds"]
        return state

    return read

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import (
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForSequenceClassification,
)
from vanilla_transformer.training.arguments import ModelArguments
from vanilla_transformer.training.prediction import labelling_of, predict
from vanilla_transformer.training.starting_model import load_tokenizer, starting_model


@pytest.fixture
def pretrained(toy: Path, tmp_path: Path) -> str:
    """A model that writes text, of the sizes of `finetuning`."""
    sizes: dict[str, Any] = {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_attention_heads": 2,
        "d_ff": 64,
    }
    arguments = ModelArguments(tokenizer=str(toy / "tokenizer"), max_position_embeddings=32, **sizes)
    tokenizer = load_tokenizer(arguments)
    starting_model(arguments, tokenizer, 3).save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    return str(tmp_path / "pretrained")


def body(model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("model.encoder")}


def test_a_pretrained_body_gets_a_new_head_then_that_goes_on_then_another(finetuning, pretrained, write_rows):
    start = finetuning("sequence-classification", model=pretrained)
    own = body(VanillaTransformerForConditionalGeneration.from_pretrained(pretrained))
    assert all(torch.equal(value, own[name]) for name, value in body(start.plain).items())
    start.run()
    folder = str(start.folder.path)
    assert start.folder.metrics()[0]["accuracy"] == 100.0

    again = finetuning("sequence-classification", "again", model=folder)
    saved = VanillaTransformerForSequenceClassification.from_pretrained(folder)
    for name, value in again.plain.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), f"{name} was drawn anew"
    answers = list(predict(again.plain, labelling_of(saved, again.tokenizer), again.task.validation.texts))
    assert again.task.labelling.measure(answers, list(again.task.validation.texts))["accuracy"] == 100.0

    other = [write_rows({"text": "the cat", "label": "x"}, {"text": "the dog", "label": "y"})]
    data = {"train_file": other, "validation_file": other}
    said = re.escape(f"{folder} tells animal, thing apart, and the data x, y; give --new-head to begin a new head")
    with pytest.raises(ValueError, match=said):
        finetuning("sequence-classification", "refused", model=folder, **data)
    new = finetuning("sequence-classification", "new", model=folder, new_head=True, **data)
    assert list(new.plain.config.id2label.values()) == ["x", "y"]
    key = "classification_head.dense.weight"
    assert not torch.equal(new.plain.state_dict()[key], saved.state_dict()[key])
    assert all(torch.equal(value, body(saved)[name]) for name, value in body(new.plain).items())


def test_a_head_of_another_task_is_new(finetuning, pretrained):
    first = finetuning("sequence-classification", model=pretrained, max_steps=1)
    first.run()
    second = finetuning("token-classification", "second", model=str(first.folder.path))
    assert list(second.plain.config.id2label.values()) == ["B-animal", "B-thing", "I-animal", "I-thing", "O"]
    assert all(torch.equal(value, body(first.plain)[name]) for name, value in body(second.plain).items())


def test_classes_are_those_of_the_training_part(finetuning, write_rows):
    train = write_rows({"text": "a", "label": 2}, {"text": "b", "label": 10})
    validation = write_rows({"text": "a", "label": 10})
    run = finetuning("sequence-classification", train_file=[train], validation_file=[validation])
    assert run.plain.config.id2label == {0: "2", 1: "10"}, "whole numbers by value"
    assert list(run.task.validation.texts["label"]) == [1]


def test_whole_numbers_are_hit_if_the_training_part_has_others(finetuning, write_rows):
    train = write_rows({"text": "a", "label": 2.5}, {"text": "b", "label": 1.0})
    validation = write_rows({"text": "a", "label": 2}, {"text": "b", "label": 1})
    run = finetuning("sequence-classification", train_file=[train], validation_file=[validation])
    assert run.task.best_metric == "pearson" and list(run.task.validation.texts["label"]) == [2.0, 1.0]
    named = finetuning(
        "sequence-classification", "named", train_file=[validation], validation_file=[], problem="regression"
    )
    assert named.task.best_metric == "pearson"


def test_a_text_that_shall_be_hit_is_refused_with_its_row(finetuning, write_rows):
    train = write_rows({"text": "a", "label": 2.5}, {"text": "b", "label": 1.0})
    validation = write_rows({"text": "a", "label": "high"})
    with pytest.raises(ValueError, match=r"rows.jsonl:1: `label` is .*high.*, but regression needs numbers"):
        finetuning("sequence-classification", train_file=[train], validation_file=[validation])


@pytest.mark.parametrize(
    "task, flags, said",
    [
        ("token-classification", {"source_lang": "en"}, "source_lang is for tasks whose output is text, and token-class"),
        ("token-classification", {"max_target_length": 9}, "max_target_length is for tasks whose output is text"),
        ("token-classification", {"bpe_dropout": 0.1}, "bpe_dropout is for translation and dialogue and sequence-class"),
        ("dependency-parsing", {"label_smoothing": 0.1}, "label_smoothing is for tasks whose output is text"),
        ("token-classification", {"test_num_beams": 5}, "test_num_beams is for tasks whose output is text, and token-class"),
        ("sequence-classification", {"eval_num_beams": 2}, "eval_num_beams is for tasks whose output is text"),
        ("token-classification", {"text_fields": ["x"]}, "text_fields is for sequence-classification, and the task is token"),
        ("sequence-classification", {"tag_field": "x"}, "tag_field is for token-classification, and the task is seq"),
        ("dialogue", {"token_field": "x"}, "token_field is for token-classification and dependency-parsing, and the task"),
        ("dialogue", {"new_head": True}, "new_head is for a task with a head"),
        ("sequence-classification", {"new_head": True}, "new_head is for a task with a head .* and with --model; leave it out"),
        ("dialogue", {"head_reads": "encoder"}, "head_reads is for tasks with a head"),
        ("dialogue", {"classifier_dropout": 0.1}, "classifier_dropout is for sequence-classification and token-class"),
    ],
)  # fmt: skip
def test_flags_of_other_tasks_are_refused(finetuning, task, flags, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        finetuning(task, **flags)


def test_a_flag_of_other_tasks_with_its_default_value_says_nothing(finetuning):
    finetuning("sequence-classification", test_num_beams=4, eval_num_beams=1, tag_field=None, source_lang=None)


@pytest.mark.parametrize(
    "task, row, said",
    [
        ("token-classification", {"tokens": ["a", "b"], "tags": ["O"]}, "rows.jsonl:2: 2 tokens but 1 in `tags`"),
        (
            "sequence-classification",
            {"text": "a", "label": 1},
            "rows.jsonl:2: `label` is int 1, a number, where .*:1 has a text",
        ),
        ("sequence-classification", {"text": None, "label": "x"}, "rows.jsonl:2: `text` is not a text but missing"),
        (
            "sequence-classification",
            {"text": "a", "label": None},
            "rows.jsonl:2: `label` is missing: an unlabelled row",
        ),
    ],
)
def test_bad_rows_are_named(finetuning, write_rows, task, row, said):
    good = {"tokens": ["a", "b"], "tags": ["O", "X"], "text": "a", "label": "x"}
    if task == "sequence-classification":
        good = {"text": "a", "label": "x"}
    with pytest.raises(ValueError, match=said):
        finetuning(task, train_file=[write_rows(good, row)])


def test_a_tagger_that_goes_on_with_characters_says_so(finetuning, write_rows):
    words = [write_rows({"tokens": ["a", "b"], "tags": ["X", "O"]})]
    first = finetuning("token-classification", train_file=words, validation_file=[], max_steps=1)
    first.run()
    assert not first.plain.config.tokens_are_characters
    characters = [write_rows({"tokens": list("a b"), "tags": ["X", "O", "O"]})]
    data = {"train_file": characters, "validation_file": []}
    second = finetuning("token-classification", "second", model=str(first.folder.path), **data)
    assert second.task.labelling.pieces.characters and second.plain.config.tokens_are_characters
    assert torch.equal(second.plain.classifier.weight, first.plain.classifier.weight), "the head goes on"

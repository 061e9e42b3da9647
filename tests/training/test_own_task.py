"""A saved model's task on given data: as the run had it, without what belongs to training only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerModel,
)
from vanilla_transformer.training.noising import TokenDeletion
from vanilla_transformer.training.own_task import own_task
from vanilla_transformer.training.prediction import task_name

RUN: dict[str, Any] = {"max_tokens": 128, "seed": 3}


def model(toy: Path, kind: type[Any] = VanillaTransformerForConditionalGeneration, **fields: Any) -> tuple[Any, Any]:
    tokenizer: Any = AutoTokenizer.from_pretrained(toy / "tokenizer")
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 1, "d_ff": 8, **fields}
    return kind(VanillaTransformerConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)), tokenizer


def sources(task: Any) -> list[int]:
    return [ids[0] for ids in task.test.examples.encoded["input_ids"]]


@pytest.mark.parametrize(
    "flags, part, directions",
    [
        ({"train_languages": ["en-de", "ko-de"]}, "test", None),  # as many files as for training, or it cannot be known
        ({"train_languages": ["en-de", "ko-de"], "test_languages": ["en-de"]}, "test", ["en-de"]),
        ({"train_languages": ["en-de", "ko-de"], "validation_languages": ["en-de"]}, "validation", ["en-de"]),
        ({"train_languages": ["en-de", "ko-de"], "source_lang": "en", "target_lang": "de"}, "test", ["en-de"]),
    ],
)
def test_the_directions_are_those_of_the_part(toy, flags, part, directions):
    known = RUN | {"task": "translation", "train_file": ["one.jsonl", "two.jsonl"], "train_weights": [4.0, 1.0], **flags}
    made, tokenizer = model(toy)
    files = [str(toy / "validation.jsonl")]
    if directions is None:
        with pytest.raises(ValueError, match="test_file: 1 files, where the training files are 2"):
            own_task(made, tokenizer, known, files, part)
        return
    task = own_task(made, tokenizer, known, files, part)
    assert [str(one) for one, _ in task.test.directions] == directions
    tag = tokenizer.convert_tokens_to_ids(">>de<<")
    assert len(sources(task)) == 6 and set(sources(task)) == {tag}


def test_without_several_directions_there_is_no_tag_unless_asked_for(toy):
    made, tokenizer = model(toy)
    known = RUN | {"source_lang": "en", "target_lang": "de", "bpe_dropout": 0.5}  # of a run older than the flag `task`
    tag = tokenizer.convert_tokens_to_ids(">>de<<")
    for has_tag in (False, True):
        task = own_task(made, tokenizer, known | {"target_tag": has_tag}, [str(toy / "validation.jsonl")])
        assert (set(sources(task)) == {tag}) == has_tag and task.bpe_dropout is None


def test_the_noise_is_that_of_the_run(toy):
    made, tokenizer = model(toy)
    files = [str(toy / "text.txt")]
    old = own_task(made, tokenizer, RUN | {"mask_share": 0.5, "poisson_lambda": 2.0}, files)
    assert (old.noise.mask_share, old.noise.poisson_lambda, old.documents) == (0.5, 2.0, "as-is")
    flags = {"mask_share": 0.3, "poisson_lambda": 3.0, "objective": ["token-deletion"], "documents": "pack"}
    new = own_task(made, tokenizer, RUN | flags, files)
    assert isinstance(new.noise, TokenDeletion) and new.documents == "pack"


def test_classes_that_training_had_not_are_refused_or_wrong_as_in_the_run(toy, tmp_path):
    names = {"id2label": {0: "bad", 1: "good"}, "problem_type": "single_label_classification"}
    made, tokenizer = model(toy, VanillaTransformerForSequenceClassification, **names)
    file = tmp_path / "rows.jsonl"
    rows = [{"text": "the red cat", "label": label} for label in ("good", "odd", "bad")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="rows.jsonl, row 2: `label` 'odd' is none of the classes: bad, good"):
        own_task(made, tokenizer, RUN, [str(file)])
    task = own_task(made, tokenizer, RUN | {"unknown_labels": "wrong"}, [str(file)])
    assert task.test.examples.encoded["labels"][:] == [1, -100, 0] and "odd (1)" in str(task.test.dropped)


def test_whole_numbers_are_numbers_where_the_model_says_numbers(toy, tmp_path):
    made, tokenizer = model(
        toy, VanillaTransformerForSequenceClassification, problem_type="regression", id2label={0: "score"}
    )
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "the cat", "label": label}) + "\n" for label in (1, 4)))
    assert own_task(made, tokenizer, RUN, [str(file)]).test.examples.encoded["labels"][:] == [1.0, 4.0]


def test_what_a_model_does(toy):
    writer, _ = model(toy)
    assert task_name(type(writer), {}) is None
    assert task_name(type(writer), {"task": "dialogue"}) == "dialogue"
    assert task_name(type(writer), {"source_lang": "en"}) == "translation"
    assert task_name(type(writer), {"mask_share": 0.3, "source_lang": "en"}) == "denoising"
    assert task_name(VanillaTransformerForDependencyParsing, {}) == "dependency-parsing"
    with pytest.raises(ValueError, match="VanillaTransformerModel has no task"):
        task_name(VanillaTransformerModel, {})

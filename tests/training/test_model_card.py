"""The card tells what metrics.jsonl says, of the model that lies beside it."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.training.model_card import model_card

WRITER = VanillaTransformerForConditionalGeneration
FLAGS: dict[str, Any] = {
    **{"source_lang": "en", "target_lang": "de", "train_file": ["data/secret/train.en,data/secret/train.de"]},
    **{"max_tokens": 1024, "seed": 7, "dropout": 0.3, "learning_rate": None},
}


def row(step: int, split: str, bleu: float, **more: Any) -> dict[str, Any]:
    scores = {"loss": 2.5, "bleu": bleu, "bleu_signature": "nrefs:1|tok:13a", "num_beams": 1}
    return {"step": step, "split": split, "tokens": 12_345, "seconds": 90.0, **scores, **more}


def card(metrics: list[dict[str, Any]], flags: dict[str, Any] = FLAGS, kind: type[Any] = WRITER, **sizes: Any) -> str:
    config = VanillaTransformerConfig.from_paper(
        "base", vocab_size=100, d_model=8, encoder_layers=1, decoder_layers=1, d_ff=8, num_attention_heads=2, **sizes
    )
    return model_card("en-de", kind(config), flags, metrics)


def test_the_numbers_are_those_of_the_best_evaluation_and_of_the_last_test():
    metrics = [row(10, "validation", 11.1, best=True), row(20, "validation", 22.2, best=True)]
    metrics += [row(30, "validation", 20.0, best=False), row(20, "test", 19.9, num_beams=5)]
    text = card(metrics)
    assert "| validation | 20 | 2.5 | 22.2 |" in text and "| test | 20 | 2.5 | 19.9 |" in text
    assert "11.1" not in text and "| 30 |" not in text
    assert "validation with 1 beams, test with 5 beams" in text and "`nrefs:1|tok:13a`" in text
    assert "for 30 updates (12,345 tokens, 1.5 minutes of training)" in text  # of the run, whatever was best


def test_a_data_set_of_the_hub_is_named_with_its_revision():
    flags = {**FLAGS, "train_file": [], "validation_file": [], "test_file": [], "dataset_name": "ada/pairs@v1.2"}
    front = ModelCard(card([row(4, "test", 20.0)], flags)).data.to_dict()
    assert front["datasets"] == ["ada/pairs"]
    result = front["model-index"][0]["results"][0]
    assert result["dataset"]["type"] == "ada/pairs" and result["dataset"]["revision"] == "v1.2"


def test_no_path_of_the_machine_and_every_deviation_is_told():
    text = card([row(10, "validation", 1.0, best=True)], norm_position="pre")
    assert "train.en, train.de" in text and "secret" not in text
    assert "Deviations from the paper: norm_position is pre (paper: post)." in text
    assert "seed 7" in text and "learning_rate" not in text


@pytest.mark.parametrize(
    "flags, said",
    [
        ({}, "It was pretrained by denoising: text-infilling."),  # of a run older than the flag
        ({"objective": ["sentence-permutation", "text-infilling"]}, ": sentence-permutation and then text-infilling."),
        (
            {"objective": ["token-deletion+text-infilling", "span-corruption"], "mix": [3.0, 1.0]},
            ": for each text one of token-deletion and then text-infilling, span-corruption, drawn 3 : 1.",
        ),
    ],
)
def test_the_objectives_of_pretraining(flags, said):
    row = {"step": 1, "split": "validation", "best": True, "loss": 1.5, "perplexity": 4.48, "tokens": 9, "seconds": 1.0}
    text = card([row], {"mask_share": 0.3, "poisson_lambda": 3.0, "train_languages": ["en", "kor", "zh_Hant"], **flags})
    assert said in text and "| validation | 1 | 1.5 | 4.48 |" in text
    data: Any = ModelCard(text).data
    assert data.tags == ["vanilla-transformer", "denoising"] and data.get("pipeline_tag") is None
    assert data.language == ["en", "kor"]  # what is no code the Hub would refuse
    assert [(one.task_type, one.metric_type) for one in data.eval_results] == [("fill-mask", "perplexity")]


def test_a_tag_that_the_model_wants_is_in_the_code():
    assert "tokenizer('>>de<< A sentence.'" in card([], FLAGS | {"target_tag": True})
    assert "tokenizer('>>ko<< A sentence.'" in card([], {"task": "translation", "train_languages": ["en-ko", "ko-en"]})
    assert "tokenizer('A sentence.'" in card([])
    assert "tokenizer('<speaker1> Hello" in card([], {"task": "dialogue"})


def test_twenty_classes_are_named():
    names = {number: f"class {number}" for number in range(21)}
    text = card([], {}, VanillaTransformerForSequenceClassification, id2label=names)
    assert "It tells 21 classes of texts apart: `class 0`, " in text and "`class 19`, ..." in text and "class 20" not in text


def test_characters_are_for_our_own_command():
    flags = {"task": "token-classification", "unknown_labels": "wrong"}
    text = card([], flags, VanillaTransformerForTokenClassification, tokens_are_characters=True)
    assert "It gives each character of a text one of 2 tags" in text and "char_to_token" not in text
    assert "vanilla-transformer predict --model en-de" in text and "in its scores they count as wrong" in text

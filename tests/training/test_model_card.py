"""The card tells what metrics.jsonl says, of the model that lies beside it."""

from __future__ import annotations

from typing import Any

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training.model_card import model_card

FLAGS: dict[str, Any] = {
    **{"source_lang": "en", "target_lang": "de", "train_file": ["data/secret/train.en,data/secret/train.de"]},
    **{"max_tokens": 1024, "seed": 7, "dropout": 0.3, "learning_rate": None},
}


def row(step: int, split: str, bleu: float, **more: Any) -> dict[str, Any]:
    scores = {"loss": 2.5, "bleu": bleu, "bleu_signature": "nrefs:1|tok:13a", "num_beams": 1}
    return {"step": step, "split": split, "tokens": 12_345, "seconds": 90.0, **scores, **more}


def card(metrics: list[dict[str, Any]], **sizes: Any) -> str:
    config = VanillaTransformerConfig.from_paper(
        "base", vocab_size=100, d_model=8, encoder_layers=1, decoder_layers=1, d_ff=8, num_attention_heads=2, **sizes
    )
    return model_card("en-de", VanillaTransformerForConditionalGeneration(config), FLAGS, metrics)


def test_the_numbers_are_those_of_the_best_evaluation_and_of_the_last_test():
    metrics = [row(10, "validation", 11.1, best=True), row(20, "validation", 22.2, best=True)]
    metrics += [row(30, "validation", 20.0, best=False), row(20, "test", 19.9, num_beams=5)]
    text = card(metrics)
    assert "| validation | 20 | 2.5 | 22.2 |" in text and "| test | 20 | 2.5 | 19.9 |" in text
    assert "11.1" not in text and "| 30 |" not in text
    assert "validation with 1 beams, test with 5 beams" in text and "`nrefs:1|tok:13a`" in text
    assert "for 30 updates (12,345 tokens, 1.5 minutes of training)" in text  # of the run, whatever was best


def test_no_path_of_the_machine_and_every_deviation_is_told():
    text = card([row(10, "validation", 1.0, best=True)], norm_position="pre")
    assert "train.en, train.de" in text and "secret" not in text
    assert "Deviations from the paper: norm_position is pre (paper: post)." in text
    assert "seed 7" in text and "learning_rate" not in text

from __future__ import annotations

import re

import pytest
import torch

from vanilla_transformer.deployment.attention_view import (
    attention_view,
    cross_attention,
    framed,
    n_best_table,
    plain_view,
    word_weights,
    words,
)
from vanilla_transformer.modeling import Translation
from vanilla_transformer.training.explanation import attention_maps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man sleeps.", [" A", " man", " sleeps", ".", "</s>"]),
        (">>de<< Ein Mann", [">>de<<", " Ein", " Mann", "</s>"]),
        ("7:45  x", [" 7", ":", "4", "5", "  x", "</s>"]),
        ("日本 ok", [" 日", "本", " ok", "</s>"]),
        ("😀é </s>", [" 😀", "é", " <", "/", "s", ">", "</s>"]),
        ("schläft", [" schläft", "</s>"]),
    ],
)
def test_words_are_letters_in_a_row_and_together_the_text(tiny_translator, text, expected):
    tokenizer = tiny_translator.tokenizer
    ids = tokenizer(text)["input_ids"]
    found = words(tokenizer, ids)
    assert [word for word, _ in found] == expected
    assert [position for _, positions in found for position in positions] == list(range(len(ids)))


def test_bytes_that_are_no_character_lose_nothing(tiny_translator):
    tokenizer = tiny_translator.tokenizer
    first = tokenizer("日")["input_ids"][1]  # one byte of three
    ids = [first, *tokenizer("A")["input_ids"], first]
    assert [position for _, positions in words(tokenizer, ids) for position in positions] == list(range(len(ids)))


def test_weights_of_words_are_sums_over_the_source_and_means_over_the_target():
    weights = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.1, 0.4], [0.0, 1.0, 0.0]])
    made = word_weights(weights, rows=[[0, 1], [2]], columns=[[0], [1, 2]])
    assert torch.allclose(made, torch.tensor([[0.3, 0.7], [0.0, 1.0]]))


def test_the_weights_are_those_of_draw_attention(tiny_translator):
    model, tokenizer = tiny_translator.model, tiny_translator.tokenizer
    model.train()
    maps = attention_maps(model, tokenizer, "Two dogs run.")
    (translation,) = tiny_translator.translate(["Two dogs run."])
    source_ids = tokenizer("Two dogs run.")["input_ids"]
    for layer in range(2):
        made = cross_attention(model, source_ids, translation.token_ids, layer)
        assert torch.allclose(made, maps.cross[layer].mean(dim=0), atol=1e-6)
    assert model.training and model.config._attn_implementation == "sdpa"
    model.eval()


def test_pointing_at_a_word_shades_what_it_was_made_from(tiny_translator):
    model, tokenizer = tiny_translator.model, tiny_translator.tokenizer
    (translation,) = tiny_translator.translate(["Two dogs"])
    shown = attention_view(model, tokenizer, "Two dogs", translation)
    source_ids, ids = tokenizer("Two dogs")["input_ids"], translation.token_ids
    columns, rows = [p for _, p in words(tokenizer, source_ids)], [p for _, p in words(tokenizer, ids)]
    weights = word_weights(cross_attention(model, source_ids, ids, 0), rows, columns)  # the last but one of two layers
    rules = re.findall(r"has\(\.t(\d+):hover\)[^{]*\{([^}]*)\}", shown)
    assert len(rules) == len(rows)
    for row, shades in rules:
        painted = {int(column): float(value) for column, value in re.findall(r"--s(\d+):([\d.]+)", shades)}
        for column, weight in enumerate(weights[int(row)].tolist()):
            assert painted.get(column, 0) == pytest.approx(weight**0.5, abs=0.0051 if weight >= 0.005 else 0.08)
    assert "decoder layer 1 of 2" in shown


NASTY = "<script>alert(1)</script> & \"quoted' {}"


def test_nothing_that_a_user_or_a_model_writes_becomes_html(tiny_translator):
    tokenizer = tiny_translator.tokenizer
    ids = tokenizer("<b>\"'&")["input_ids"]
    translation = Translation(NASTY, -1.0, -0.5, ids, True, n_best=[Translation(NASTY, -1.0, -0.5, ids, True)])
    for shown in (
        attention_view(tiny_translator.model, tokenizer, "<i>\"'&", translation),
        n_best_table(translation),
        plain_view(translation, NASTY),
    ):
        # Without our own tags, whose attributes end where they should, there is nothing left that opens or closes one.
        rest = re.sub(r"<style>[^<]*</style>", "", shown)
        rest = re.sub(r'</?(h3|p|bdi|span|table|thead|tbody|tr|th|td)( [a-z]+="[^"<>]*")*>', "", rest)
        assert "<" not in rest and ">" not in rest
    assert "… (cut)" in n_best_table(translation) and "-1.000" in n_best_table(translation)
    assert framed("x").startswith('<div class="vt"><style>')


def test_what_has_too_many_words_to_point_at_is_shown_without(tiny_translator):
    ids = tiny_translator.tokenizer("1 " * 10)["input_ids"] * 20
    translation = Translation("ones", -1.0, -1.0, ids, False)
    shown = attention_view(tiny_translator.model, tiny_translator.tokenizer, "A", translation)
    assert "is shown for up to 200 words" in shown and "ones" in shown and ":has(" not in shown

"""Links between words: the model's own weights, and the bookkeeping by hand."""

from __future__ import annotations

import random

import pytest

from vanilla_transformer.deployment.word_alignment import TokenLinks, WordLinks, pharaoh, target_spans, token_links
from vanilla_transformer.modeling import Translator
from vanilla_transformer.training.explanation import attention_maps

TEXTS = ["the red cat", "a", "two dogs run over the grass and the cat sleeps"]


@pytest.fixture(scope="module")
def translator(make_translator) -> Translator:
    """Three decoder layers, so that the last but one is neither the first nor the last."""
    return make_translator(TEXTS, 290, decoder_layers=3, std=0.6, max_position_embeddings=64)


@pytest.mark.parametrize("target_lang, max_tokens", [(None, 4096), ("de", 1)])  # all in one batch, each in its own
def test_the_links_are_those_of_the_attention_maps(translator, target_lang, max_tokens):
    model, tokenizer = translator.model, translator.tokenizer
    model.set_attn_implementation("sdpa")
    made = translator.translate(TEXTS, num_beams=2, target_lang=target_lang)
    prefix = "" if target_lang is None else ">>de<< "
    found = token_links(model, tokenizer, TEXTS, [t.token_ids for t in made], prefix, max_tokens)
    assert model.config._attn_implementation == "sdpa"
    for text, links in zip(TEXTS, found, strict=True):
        maps = attention_maps(model, tokenizer, text, num_beams=2, target_lang=target_lang)
        assert links.links == maps.alignment(layer=1) == maps.alignment()
        spans = [text[start:end] for start, end in links.source]
        assert "".join(spans) == text.replace(" ", "") or " " in "".join(spans)
        assert len(spans) == len(maps.source_tokens) and spans[-1] == "" and (prefix == "" or spans[0] == "")
    assert any(len(set(links.links)) > 1 for links in found)


def test_each_character_of_an_output_has_its_token(translator):
    tokenizer = translator.tokenizer
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(6)]  # special tokens, halves of characters
        text = tokenizer.decode(ids, skip_special_tokens=True)
        spans = target_spans(tokenizer, ids)
        assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))
        assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    text = "the 한 cat"
    ids = tokenizer(text)["input_ids"]
    spans = target_spans(tokenizer, ids)
    assert [text[a:b] for a, b in spans].count("한") == 3  # its three bytes
    assert spans[-1] == (len(text), len(text))  # </s>


def test_words_are_linked_if_their_tokens_are():
    # source  "  Mr. Smith | ran."   target "Herr Smith | lief davon."  in two pieces
    source, target = "  Mr. Smith  ran. ", "  Herr Smith  lief davon. "
    words = WordLinks(source, target)
    first = TokenLinks([(0, 2), (2, 3), (4, 9), (9, 9)], [(0, 4), (4, 7), (7, 10), (10, 10)], [0, 2, 2, 3])
    words.add(first, 2, 2)
    second = TokenLinks([(0, 3), (3, 4), (4, 4)], [(0, 4), (4, 10), (10, 11), (11, 11)], [0, 2, 1, 2])
    words.add(second, 13, 14)
    # "davon" looked at </s>, but its full stop at the source's: one word, and so linked
    assert pharaoh(words.sorted()) == "0-0 1-1 2-2 2-3"


def test_a_token_over_a_blank_belongs_to_the_words_it_touches():
    words = WordLinks("a b", "c d")
    words.add(TokenLinks([(0, 3), (3, 3)], [(0, 1), (1, 3)], [0, 1]), 0, 0)
    assert words.sorted() == [(0, 0), (1, 0)]
    assert pharaoh([]) == ""

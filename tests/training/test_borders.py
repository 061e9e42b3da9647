"""Words and sentences found in ids, against those of the text."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from vanilla_transformer.modeling.sentences import sentences
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.borders import Borders

TEXTS = [
    'He said: "Don\'t go. 3.5 km!" Then he went... 안녕하세요. 반갑습니다!',
    "你好。再见！「好。」是的 😀😀 done.  New one?\n\nheading\n\nMore. ",
    ">>de<< Tag first. And then >>de<< again. éa̧x_y (z).",
]


@pytest.fixture(scope="module", params=[290, 340])  # nearly bytes alone; and with merges
def tokenizer(request):
    return learn_vocabulary(TEXTS * 3, request.param, languages=["de"])


def parts(tokenizer, ids, starts) -> list[str]:
    """What stands between the starts, as text with all its spaces."""
    cuts = [*np.flatnonzero(starts).tolist(), len(ids)]
    return [tokenizer.backend_tokenizer.decoder.decode(["x", *tokenizer.convert_ids_to_tokens(ids[a:b])])[1:] for a, b in
            zip(cuts, cuts[1:], strict=False)]  # fmt: skip


def test_sentences_are_those_of_the_rule_for_texts(tokenizer):
    borders = Borders(tokenizer)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"][:-1]
        found = parts(tokenizer, ids, borders.sentence_starts(ids))
        assert [part.strip() for part in found] == sentences(text)[1::2]


def test_behind_an_end_begins_a_sentence(tokenizer):
    ids = tokenizer("no mark here")["input_ids"]
    both = [*ids, *tokenizer("Done. More.")["input_ids"]]
    borders = Borders(tokenizer)
    assert parts(tokenizer, both, borders.sentence_starts(both))[1:] == [" Done.", " More.</s>"]
    assert np.flatnonzero(borders.sentence_starts(both))[1] == len(ids)


def test_words_end_where_letters_end(tokenizer):
    borders = Borders(tokenizer)
    ids = tokenizer('Say: "Don\'t", 42 안녕하세요 你好。x')["input_ids"][:-1]
    found = [word for word in parts(tokenizer, ids, borders.word_starts(ids)) if word != " "]
    letters = [word.strip() for word in found if word.strip().isalpha()]
    assert letters == ["Say", "Don", "t", "안녕하세요", "你好", "x"] or "你好。x" in found  # as bytes they are one
    assert {"4", "2"} <= {word.strip() for word in found}


def test_no_border_is_inside_a_character(tokenizer):
    borders = Borders(tokenizer)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"][:-1]
        for starts in (borders.character_starts(ids), borders.word_starts(ids), borders.sentence_starts(ids)):
            assert starts[0] and "\ufffd" not in "".join(parts(tokenizer, ids, starts))


def test_a_row_cut_inside_a_character_and_one_of_nothing_are_taken(tokenizer):
    borders = Borders(tokenizer)
    ids = tokenizer("a. \U0001f680 b. c")["input_ids"]
    for start in range(len(ids)):
        assert borders.sentence_starts(ids[start:])[0] and borders.word_starts(ids[start:])[0]
    assert len(borders.word_starts([])) == len(borders.sentence_starts([])) == 0


def test_tags_are_words_of_their_own(tokenizer):
    ids = tokenizer("42>>de<<b")["input_ids"][1:-1]
    assert Borders(tokenizer).word_starts(ids).tolist() == [True] * 4


def test_another_kind_of_tokenizer_is_refused():
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="only in the ids of a byte-level tokenizer .* --documents as-is"):
        Borders(other)

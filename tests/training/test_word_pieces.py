from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from vanilla_transformer.tokenization import VanillaTransformerTokenizer, learn_vocabulary
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.word_pieces import Window, WordPieces, has_blanks

SENTENCES = [
    ["the", "red", "cat", "."],
    ["In", "2017", ",", "3.5", "%", "of", "Bäume", "😀", "...", "(", "x)", "안녕하세요", "don", "'t"],
    ["</s>", "a\u00a0b", "x y", "हिन्दी"],
]


@pytest.fixture(scope="module")
def tokenizer(toy: Path) -> Any:
    return VanillaTransformerTokenizer.from_pretrained(toy / "tokenizer")


@pytest.fixture(scope="module")
def korean() -> Any:
    """Knows the pieces " 나" and "나", among others."""
    return learn_vocabulary(["나는 나는 가 가 나는 가다 나 나"] * 3, 272)


def test_words_become_what_they_are_in_their_sentence(tokenizer):
    ids, positions = WordPieces(tokenizer).encode(SENTENCES)
    assert ids == [tokenizer(" ".join(words))["input_ids"] for words in SENTENCES]
    for words, row, places in zip(SENTENCES, ids, positions, strict=True):
        # What a token's first piece begins with is its first character, not the blank in front.
        for word, start, stop in zip(words, places, [*places[1:], len(row) - 1], strict=True):
            assert tokenizer.decode(row[start:stop]).strip() == word
            first = tokenizer.convert_ids_to_tokens([row[start]])[0]
            assert first != "Ġ"


def test_the_position_of_a_number_is_its_first_digit(tokenizer):
    ids, positions = WordPieces(tokenizer).encode([["the", "42", "42"]])
    pieces = tokenizer.convert_ids_to_tokens(ids[0])
    assert [pieces[place] for place in positions[0][1:]] == ["4", "4"]
    assert pieces[positions[0][1] - 1] == "Ġ"


def test_characters_have_a_piece_each_and_words_begin_with_their_space(korean):
    tokens = ["나", "는", " ", "가", "다", " ", " ", "나", "7", "\t", "x"]
    (ids,), (positions,) = WordPieces(korean, characters=True).encode([tokens])
    assert korean.decode(ids, skip_special_tokens=True) == "나는  가다   나7\t x"
    assert ids[-1] == korean.eos_token_id and len(positions) == len(tokens) == len(set(positions))
    space, na, na_inside = (korean.convert_tokens_to_ids(piece) for piece in ("Ġ", "ĠëĤĺ", "ëĤĺ"))
    assert ids[0] == na != na_inside and ids[positions[2]] == space
    assert ids[positions[7]] == na  # after blanks
    assert korean.decode(ids[positions[1] : positions[2]]) == "는"


def test_ids_of_characters_are_those_of_a_text_with_its_blanks_twice(korean):
    ids, _ = WordPieces(korean, characters=True).encode([list("나 가 다"), list("x  y")])
    assert ids == korean(["나  가  다", "x   y"])["input_ids"]


def test_blanks_tell_characters_from_words():
    assert not has_blanks([["a", "b"], []]) and has_blanks([["a"], ["b", "\u3000"]])


def test_an_empty_token_is_refused(tokenizer):
    with pytest.raises(CorpusError, match="row 12: token 2 of 3 is empty"):
        WordPieces(tokenizer).encode([["a"], ["a"], ["a", "", "b"]], first_row=10)


def test_no_tokens(tokenizer):
    assert WordPieces(tokenizer).encode([[]]) == ([[tokenizer.eos_token_id]], [[]])
    assert WordPieces(tokenizer).windows([], 10) == [Window(0, 0, 0, 0)]


@pytest.mark.parametrize("characters", [False, True])
@pytest.mark.parametrize("max_length", [9, 16, 33, 64])
def test_windows_fit_and_every_token_counts_once(tokenizer, characters, max_length):
    tokens = list("the red cat 나는 and x ") * 9 if characters else [w for s in SENTENCES[:1] for w in s] * 30
    pieces = WordPieces(tokenizer, characters)
    found = pieces.windows(tokens, max_length)
    for window in found:
        (ids,), _ = pieces.encode([tokens[window.start : window.stop]])
        assert len(ids) <= max_length
        assert window.start <= window.keep_start < window.keep_stop <= window.stop
    assert [token for w in found for token in range(w.keep_start, w.keep_stop)] == list(range(len(tokens)))
    for one, following in zip(found, found[1:], strict=False):
        # Between two, tokens are read by both, and each counts where it has more around it.
        if max_length > 16:
            assert one.stop - following.start >= 2
            assert abs((one.stop - one.keep_stop) - (following.keep_start - following.start)) <= 1


def test_a_sentence_that_fits_is_one_window(tokenizer):
    length = len(WordPieces(tokenizer).encode([SENTENCES[0]])[0][0])
    assert WordPieces(tokenizer).windows(SENTENCES[0], length) == [Window(0, 4, 0, 4)]
    assert len(WordPieces(tokenizer).windows(SENTENCES[0], length - 1)) == 2


def test_a_token_longer_than_a_window_is_refused(tokenizer):
    with pytest.raises(CorpusError, match="row 7: token 2 alone has .* pieces, more than the 9 that fit: 'zqzq"):
        WordPieces(tokenizer).windows(["a", "zq" * 40], 10, row=7)


def test_real_sentences(shared_data: Path, tokenizer):
    with gzip.open(shared_data / "ud" / "english_ewt" / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        sentences = [json.loads(line)["tokens"] for _, line in zip(range(300), file, strict=False)]
    ids, _ = WordPieces(tokenizer).encode(sentences)
    assert ids == tokenizer([" ".join(words) for words in sentences])["input_ids"]

"""Learning a vocabulary: sizes, merges, determinism, streaming, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vanilla_transformer.tokenization import learn_vocabulary

SMALLEST = 5 + 256  # special tokens and bytes


def merges_of(tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(range(SMALLEST, len(tokenizer))))


def test_merges_the_most_frequent_pair_first():
    # " low" 3 times, " lot" twice, " now" once: the pairs are (Ġ,l) 5, (l,o) 5, (o,w) 4, (o,t) 2, (Ġ,n) 1.
    # Of two equally frequent ones that with the smaller ids comes first, and "Ġ" comes after all letters.
    tokenizer = learn_vocabulary(["low low low", "lot lot", "now"], SMALLEST + 3, min_frequency=1)
    assert merges_of(tokenizer) == ["lo", "Ġlo", "Ġlow"]


def test_smallest_vocabulary_is_bytes():
    tokenizer = learn_vocabulary(["anything"], SMALLEST)
    assert len(tokenizer) == SMALLEST
    assert tokenizer.tokenize("é!") == ["Ġ", "Ã", "©", "!"]


def test_size_below_the_fixed_tokens_is_refused():
    with pytest.raises(
        ValueError, match=r"asked for 200, but 5 special tokens, 3 .* make 264: ask for at least 264"
    ):
        learn_vocabulary(["text"], 200, languages=["de", "ko"], extra_tokens=["<turn>"])


def test_size_above_what_the_text_allows_is_refused_with_the_possible_size():
    texts = ["low low low", "lot lot", "now"]
    with pytest.raises(ValueError, match=r"asked for 10000, the text allows (\d+):.*at most \1") as refused:
        learn_vocabulary(texts, 10_000)
    allowed = int(str(refused.value).split("the text allows ")[1].split(":")[0])
    assert len(learn_vocabulary(texts, allowed)) == allowed
    with pytest.raises(ValueError, match="the text allows"):
        learn_vocabulary(texts, allowed + 1)


@pytest.mark.parametrize("texts", [[], [""], ["", " \n", "\t"]])
def test_empty_text_is_refused(texts):
    with pytest.raises(ValueError, match="no text: there is nothing to learn"):
        learn_vocabulary(texts, 300)


def test_min_frequency_stops_rare_merges():
    texts = ["ab ab ab cd cd"]
    assert merges_of(learn_vocabulary(texts, SMALLEST + 2, min_frequency=3)) == ["ab", "Ġab"]
    with pytest.raises(ValueError, match="occurs 3 times or more"):
        learn_vocabulary(texts, SMALLEST + 3, min_frequency=3)


def test_digits_are_single_pieces_unless_told():
    texts = ["2024 2024 2024"]
    with pytest.raises(ValueError, match=f"the text allows {SMALLEST}:"):
        learn_vocabulary(texts, SMALLEST + 1)
    together = learn_vocabulary(texts, SMALLEST + 4, split_digits=False)
    assert together.tokenize("2024") == ["Ġ2024"]
    assert together.decode(together("1 2024  7")["input_ids"], skip_special_tokens=True) == "1 2024  7"


def test_words_are_the_same_at_the_beginning_and_keep_their_marks():
    tokenizer = learn_vocabulary(["हिन्दी", "la हिन्दी"] * 3, SMALLEST + 16)
    start = tokenizer.tokenize("हिन्दी")
    assert len(start) == 1  # one piece, vowel signs and virama included
    assert tokenizer.tokenize("la हिन्दी")[-1:] == start


def test_no_merge_goes_across_words_or_into_punctuation():
    learned = learn_vocabulary(["ab, ab, ab, ab,"] * 9, SMALLEST + 2)
    assert merges_of(learned) == ["ab", "Ġab"]
    with pytest.raises(ValueError, match=f"the text allows {SMALLEST + 2}:"):
        learn_vocabulary(["ab, ab, ab, ab,"] * 9, SMALLEST + 3)


def test_tags_in_the_texts_cost_no_merges():
    texts = [">>de<< ab", "ab >>de<<<turn>"] * 9
    tokenizer = learn_vocabulary(texts, SMALLEST + 4, languages=["de"], extra_tokens=["<turn>"])
    assert tokenizer.convert_ids_to_tokens([5, 6]) == [">>de<<", "<turn>"]
    assert tokenizer.convert_ids_to_tokens([SMALLEST + 2, SMALLEST + 3]) == ["ab", "Ġab"]
    with pytest.raises(ValueError, match="the text allows"):
        learn_vocabulary(texts, SMALLEST + 5, languages=["de"], extra_tokens=["<turn>"])


def test_texts_are_streamed_once():
    alive: list[int] = []

    def stream():
        for number in range(20_000):
            alive.append(number)
            yield f"ab cd {number % 7}"

    learn_vocabulary(stream(), SMALLEST + 4)
    assert alive == list(range(20_000))


def test_an_error_of_the_stream_comes_through():
    def stream():
        yield "ab"
        raise ValueError("corpus.txt:2: no UTF-8")

    with pytest.raises(ValueError, match="corpus.txt:2: no UTF-8"):
        learn_vocabulary(stream(), 300)


@pytest.mark.slow  # four seconds
def test_the_same_texts_give_the_same_vocabulary_in_any_process():
    texts = [f"{a}{b}{c * 2} {c}{a}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvw"]
    expected = learn_vocabulary(texts, 360).fingerprint
    assert all(learn_vocabulary(texts, 360).fingerprint == expected for _ in range(5))
    assert learn_vocabulary(texts[::-1], 360).fingerprint == expected  # counts decide, not the order
    assert learn_vocabulary(texts[100:], 360).fingerprint != expected

    script = f"""
from vanilla_transformer.tokenization import learn_vocabulary
print(learn_vocabulary({texts!r}, 360).fingerprint)
"""
    many_threads = os.environ | {"TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=many_threads, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [expected], done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"languages": "de"}, "languages: expected a list of strings, found the string 'de'"),
        ({"extra_tokens": "<x>"}, "extra_tokens: expected a list"),
        ({"languages": ["de DE"]}, "languages: 'de DE' is no code"),
        ({"languages": [">>de<<"]}, "is no code"),
        ({"languages": [""]}, "languages: '' is no code"),
        ({"languages": ["de", "de"]}, "'>>de<<' is given twice"),
        ({"languages": ["de"], "extra_tokens": [">>de<<"]}, "'>>de<<' is given twice"),
        ({"extra_tokens": ["</s>"]}, "'</s>' is given twice, or is a special token"),
        ({"extra_tokens": ["x"]}, "extra_tokens: 'x' must have two characters or more"),
        ({"extra_tokens": ["<a b>"]}, "no white space"),
        ({"extra_tokens": ["<é>"]}, "would not decode to itself"),
    ],
)
def test_wrong_tags_and_tokens_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        learn_vocabulary(["text"], 300, **wrong)


def test_extra_token_outside_ascii_round_trips():
    tokenizer = learn_vocabulary(["text"], SMALLEST + 1, extra_tokens=["<한국>"])
    assert tokenizer.tokenize("<한국> a") == ["<한국>", "Ġ", "a"]
    assert tokenizer.decode(tokenizer("<한국> a")["input_ids"], skip_special_tokens=True) == "<한국> a"


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "text 2: expected a str, found NoneType"), ("a\ud800", "text 2: character 2 is half")],
)
def test_what_is_no_text_is_refused_with_its_number(text, message):
    with pytest.raises(ValueError, match=message):
        learn_vocabulary(["good", text], 300)

from __future__ import annotations

from itertools import permutations

import numpy as np

from vanilla_transformer.training.reordering import DocumentRotation, SentencePermutation

END = 2
TEXT = [10, 11, 20, 30, 31, 32, END]  # a sentence, or a word, at each ten


def starts(ids) -> np.ndarray:
    return np.asarray(ids) % 10 == 0


def test_all_orders_of_the_sentences_are_equally_likely() -> None:
    noise, rng = SentencePermutation(starts), np.random.default_rng(0)
    seen = [tuple(noise(TEXT, rng)) for _ in range(3000)]
    expected = {
        (*(token for part in order for token in part), END) for order in permutations([[10, 11], [20], [30, 31, 32]])
    }
    assert set(seen) == expected
    assert all(abs(seen.count(order) - 500) < 100 for order in expected)
    assert noise.pair(TEXT, rng)[1] == TEXT


def test_one_sentence_stays_and_the_end_is_kept() -> None:
    rng = np.random.default_rng(0)
    assert SentencePermutation(starts)([10, 11, END], rng) == [10, 11, END]
    assert SentencePermutation(starts)([END], rng) == [END]
    assert SentencePermutation(starts)([], rng) == []


def test_every_token_may_become_the_first() -> None:
    noise, rng = DocumentRotation(), np.random.default_rng(0)
    seen = [tuple(noise(TEXT, rng)) for _ in range(3000)]
    expected = {(*TEXT[i:6], *TEXT[:i], END) for i in range(6)}
    assert set(seen) == expected and all(abs(seen.count(row) - 500) < 100 for row in expected)
    assert noise([END], rng) == [END] and noise([], rng) == []


def test_with_whole_words_a_word_becomes_the_first() -> None:
    noise, rng = DocumentRotation(word_starts=starts), np.random.default_rng(0)
    assert {noise(TEXT, rng)[0] for _ in range(100)} == {10, 20, 30}

from __future__ import annotations

import numpy as np
import pytest

from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.span_corruption import SpanCorruption, sentinels

END = 2
SENTINELS = list(range(1000, 1100))


def put_back(source: list[int], target: list[int]) -> list[int]:
    """The text of which source and target were made."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in SENTINELS:
            spans[token] = []
            last = token
        elif token != END:
            spans[last].append(token)
    assert list(spans) == SENTINELS[: len(spans)] and spans.pop(last) == []  # in order; the last one closes
    return [token for one in source for token in spans.get(one, [one])]


def test_written_out() -> None:
    noise = SpanCorruption(SENTINELS, share=0.5, mean_span=3)
    seen = {tuple(map(tuple, noise.pair([10, 11, 12, 13, 14, 15, END], np.random.default_rng(i)))) for i in range(60)}
    assert seen == {  # one span of three at each place
        ((*range(10, 10 + i), 1000, *range(13 + i, 16), END), (1000, *range(10 + i, 13 + i), 1001, END))
        for i in range(4)
    }


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20, 100, 511])
def test_source_and_target_hold_the_text_and_their_lengths_are_the_bounds(length: int) -> None:
    noise, rng = SpanCorruption(SENTINELS), np.random.default_rng(length)
    text = [*range(10, 10 + length), END]
    source_bound, target_bound = noise.bounds(np.array([length + 1]))[0]
    for _ in range(50):
        source, target = noise.pair(text, rng)
        assert put_back(source, target) == text and target[-1] == END
        assert (len(source), len(target)) == (source_bound, target_bound)
        assert not any(a in SENTINELS and b in SENTINELS for a, b in zip(source, source[1:], strict=False))
    assert source_bound <= length + 1


def test_share_and_mean_length_are_t5s() -> None:
    noise, rng = SpanCorruption(SENTINELS), np.random.default_rng(0)
    first, lengths = np.zeros(200), []
    for _ in range(600):
        source, target = noise.pair([*range(10, 210), END], rng)
        taken = [token - 10 for token in target[:-1] if token < 1000]
        assert len(taken) == 30 and len([token for token in source if token >= 1000]) == 10  # 15 %, in spans of 3
        first[taken] += 1
        marks = [i for i, token in enumerate(target) if token >= 1000]
        lengths += (np.diff(marks) - 1).tolist()
    assert np.mean(lengths) == 3.0 and min(lengths) == 1 and max(lengths) > 8
    assert abs(first[:20].mean() / 90 - 1) < 0.15 and abs(first[-20:].mean() / 90 - 1) < 0.15  # the ends, too


def test_whole_words_and_their_bounds() -> None:
    noise = SpanCorruption(SENTINELS, 0.5, 1.0, word_starts=lambda ids: np.asarray(ids) % 10 == 0)
    text, rng = [10, 11, 12, 20, 30, 31, 40, 41, 42, 43, END], np.random.default_rng(0)
    bounds = noise.bounds(np.array([len(text)]))[0]
    for _ in range(200):
        source, target = noise.pair(text, rng)
        assert put_back(source, target) == text
        assert all({10 * w + i for i in range(n)} <= set(side) or 10 * w not in side
                   for side in (source, target) for w, n in ((1, 3), (2, 1), (3, 2), (4, 4)))  # fmt: skip
        assert len(source) <= bounds[0] and len(target) <= bounds[1]


def test_empty_texts_and_the_same_for_the_same_generator() -> None:
    noise = SpanCorruption(SENTINELS)
    assert noise.pair([END], np.random.default_rng(0)) == ([END], [END]) and noise.pair(
        [], np.random.default_rng(0)
    ) == ([], [])
    assert noise.bounds(np.array([0, 1])).tolist() == [[0, 0], [1, 1]]
    text = [*range(10, 60), END]
    assert noise.pair(text, np.random.default_rng(3)) == noise.pair(text, np.random.default_rng(3))
    assert noise(text, np.random.default_rng(3)) == noise.pair(text, np.random.default_rng(3))[0]
    assert noise.pair(text, np.random.default_rng(3)) != noise.pair(text, np.random.default_rng(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.5}, "span_corruption_share must be between 0 and 1, not 1.5"),
        ({"mean_span": 0.5}, "mean_span must be at least 1, not 0.5"),
        ({"mean_span": float("nan")}, "mean_span"),
        ({"sentinel_ids": [7]}, "at least 2 sentinels, and there are 1"),
    ],
)
def test_numbers_out_of_range_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpanCorruption(**{"sentinel_ids": SENTINELS, **settings})


def test_too_few_sentinels_are_refused_with_the_number_that_is_needed() -> None:
    few = SpanCorruption(SENTINELS[:4])
    assert few.bounds(np.array([70]))[0, 1] == 15
    with pytest.raises(ValueError, match="5 spans .* needs 6 sentinels, but the tokenizer has 4: .*--sentinels 6"):
        few.bounds(np.array([3, 101]))
    with pytest.raises(ValueError, match="needs 6 sentinels"):
        few.pair([*range(10, 110), END], np.random.default_rng(0))


def test_sentinels_are_found_in_their_order() -> None:
    tokenizer = learn_vocabulary(["a b c"] * 3, 265, languages=["de"], extra_tokens=["<extra_id_1>", "<extra_id_0>"])
    assert tokenizer.convert_ids_to_tokens(sentinels(tokenizer)) == ["<extra_id_0>", "<extra_id_1>"]
    with pytest.raises(ValueError, match="the tokenizer has none: make one with train-tokenizer --sentinels 100"):
        sentinels(learn_vocabulary(["a b c"] * 3, 263))

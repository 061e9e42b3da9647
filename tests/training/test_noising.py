"""Noises on cases small enough to count by hand, and their shares over many draws."""

from __future__ import annotations

import numpy as np
import pytest

from vanilla_transformer.training.noising import TextInfilling, TokenDeletion, TokenMasking

MASK, END = 4, 2


class GivenSpans(TextInfilling):
    """Text infilling with the lengths of the spans written down, so that only their places are random."""

    def __init__(self, spans: list[int], **settings: float) -> None:
        super().__init__(MASK, **settings)  # type: ignore[arg-type]
        self.spans = spans

    def _span_lengths(self, total: int, rng: np.random.Generator) -> np.ndarray:
        assert sum(self.spans) == total
        return np.array(self.spans)


def test_one_span_of_three_becomes_one_mask_at_any_place() -> None:
    noise = GivenSpans([3], mask_share=0.75)
    seen = {tuple(noise([10, 11, 12, 13, END], np.random.default_rng(seed))) for seed in range(50)}
    assert seen == {(10, MASK, END), (MASK, 13, END)}


def test_an_empty_span_inserts_a_mask() -> None:
    noise = GivenSpans([2, 0], mask_share=1.0)
    seen = {tuple(noise([10, 11, END], np.random.default_rng(seed))) for seed in range(20)}
    assert seen == {(MASK, MASK, END)}
    noise = GivenSpans([2, 0], mask_share=2 / 3)
    seen = {tuple(noise([10, 11, 12, END], np.random.default_rng(seed))) for seed in range(400)}
    # Two masks and one kept token in every order: 12 is kept if the span of two tokens lies before it, else 10.
    assert seen == {
        (MASK, MASK, 12, END), (MASK, 12, MASK, END), (MASK, 10, MASK, END), (10, MASK, MASK, END),
    }  # fmt: skip


@pytest.mark.parametrize("poisson_lambda", [1.0, 3.0])
def test_the_text_never_becomes_longer(poisson_lambda: float) -> None:
    assert GivenSpans([1, 0, 0], mask_share=0.5)([10, 11, END], np.random.default_rng(0)).count(MASK) == 1
    noise, rng = TextInfilling(MASK, mask_share=0.5, poisson_lambda=poisson_lambda), np.random.default_rng(4)
    for length in (1, 2, 3, 8, 40):
        for _ in range(200):
            noised = noise([*range(100, 100 + length), END], rng)
            assert len(noised) <= length + 1 and noised[-1] == END


def test_places_of_the_spans_are_equally_likely() -> None:
    noise = GivenSpans([1], mask_share=0.25)
    rng = np.random.default_rng(0)
    places = np.bincount([noise([10, 11, 12, 13, END], rng).index(MASK) for _ in range(4000)], minlength=5)
    assert places[4] == 0  # the end is never masked
    assert np.all(np.abs(places[:4] - 1000) < 120)


def test_shares_and_lengths_over_many_draws() -> None:
    noise, rng = TextInfilling(MASK), np.random.default_rng(1)
    text = [*range(100, 300), END]
    removed, masks = [], []
    for _ in range(400):
        noised = noise(text, rng)
        kept = [token for token in noised if token != MASK]
        assert kept == sorted(set(kept), key=text.index), "kept tokens stay in order and are not doubled"
        assert noised[-1] == END
        removed.append(len(text) - len(kept))
        masks.append(noised.count(MASK))
    assert set(removed) == {60}  # 30 % of 200, exactly
    # 60 tokens in spans of 3 on average: 20 spans, and a little more than half a span for the last, cut one.
    assert 20.0 < np.mean(masks) < 21.5
    assert np.std(masks) > 1.0


def test_span_lengths_are_poisson_with_zeros() -> None:
    noise, rng = TextInfilling(MASK, poisson_lambda=3.0), np.random.default_rng(2)
    lengths = noise._span_lengths(30000, rng)
    assert lengths.sum() == 30000
    share = np.bincount(lengths, minlength=5)[:5] / len(lengths)
    # e^-3 3^k / k! for k = 0..4
    assert share == pytest.approx([0.0498, 0.1494, 0.2240, 0.2240, 0.1680], abs=0.012)
    assert TextInfilling(MASK)._span_lengths(1, rng).sum() == 1


def test_short_texts_are_masked_at_the_same_rate() -> None:
    noise, rng = TextInfilling(MASK), np.random.default_rng(3)
    for length in (1, 2, 3, 5):
        text = [*range(10, 10 + length), END]
        kept = [sum(token >= 10 for token in noise(text, rng)) for _ in range(6000)]
        assert 1 - np.mean(kept) / length == pytest.approx(0.30, abs=0.02)


def test_length_one_and_the_ends_of_the_range() -> None:
    rng = np.random.default_rng(4)
    assert TextInfilling(MASK, mask_share=1.0)([END], rng) == [END]  # only what is kept
    assert TextInfilling(MASK, mask_share=0.0)([10, 11, END], rng) == [10, 11, END]
    assert TextInfilling(MASK)([], rng) == []
    assert TextInfilling(MASK, keep_last=3)([10, END], rng) == [10, END]
    for _ in range(50):
        noised = TextInfilling(MASK, mask_share=1.0, keep_last=0)([10], rng)
        assert noised and set(noised) == {MASK}
        assert set(TextInfilling(MASK, mask_share=1.0)([10, 11, 12, END], rng)) == {MASK, END}


def test_same_generator_same_noise_and_the_input_is_not_touched() -> None:
    noise, text = TextInfilling(MASK), [*range(50, 90), END]
    first = noise(text, np.random.default_rng((7, 0, 3)))
    assert first == noise(np.array(text), np.random.default_rng((7, 0, 3)))  # type: ignore[arg-type]
    assert first != noise(text, np.random.default_rng((7, 0, 4)))
    assert text == [*range(50, 90), END]
    assert all(type(token) is int for token in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_share": 1.5}, "mask_share.*between 0 and 1, not 1.5"),
        ({"mask_share": -0.1}, "mask_share.*between 0 and 1, not -0.1"),
        ({"mask_share": float("nan")}, "mask_share"),
        ({"poisson_lambda": 0.5}, "poisson_lambda.*at least 1, not 0.5"),
        ({"poisson_lambda": float("nan")}, "poisson_lambda"),
        ({"keep_last": -1}, "keep_last.*0 or more, not -1"),
    ],
)
def test_numbers_out_of_range_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextInfilling(MASK, **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- golden: never to change


def test_the_draws_of_text_infilling_are_what_they_always_were() -> None:
    """Runs that are resumed, and scores that are measured again, depend on them."""
    text = [*range(100, 124), END]
    assert [TextInfilling(MASK)(text, np.random.default_rng(key)) for key in ((1, 0, 0), (1, 0, 7), (1, 3, 11))] == [
        [100, 4, *range(105, 118), 4, 121, 122, 123, 2],
        [*range(100, 105), 4, *range(106, 111), 4, 4, 115, 116, 4, *range(119, 124), 2],
        [*range(100, 104), 4, *range(107, 111), 4, *range(115, 124), 2],
    ]
    noised = TextInfilling(MASK, 0.5, 1.0, 0)(text[:12], np.random.default_rng((1, 2, 3)))
    assert noised == [100, 4, 4, 103, 104, 4, 105, 4, 108, 109, 4, 4]


# ----------------------------------------------------------------------------------------- masking, deletion, words

WORDS = [10, 11, 12, 20, 30, 31, 40, 41, 42, 43, END]  # a new word at each ten


def word_starts(ids) -> np.ndarray:
    return np.asarray(ids) % 10 == 0


def whole_words(noised: list[int]) -> bool:
    """Whether each word of WORDS is there in all its pieces or in none."""
    words = [{10, 11, 12}, {20}, {30, 31}, {40, 41, 42, 43}]
    return all(word <= set(noised) or not word & set(noised) for word in words)


def test_token_masking_has_berts_shares() -> None:
    noise, rng = TokenMasking(MASK, range(1000, 2000)), np.random.default_rng(0)
    text = [*range(10, 210), END]
    noised = np.array([noise(text, rng) for _ in range(400)])
    assert noised.shape == (400, 201) and (noised[:, -1] == END).all()
    # 30 of 200 are chosen: 24 masked, 3 replaced (never by itself here), 3 left as they are.
    assert (noised == MASK).sum(1).mean() == pytest.approx(24, abs=0.5)
    assert (noised >= 1000).sum(1).mean() == pytest.approx(3, abs=0.4)
    assert ((noised == MASK) | (noised >= 1000)).sum(1).max() <= 30
    assert np.ptp((noised == MASK).sum(0)[:-1]) < 60  # at all places alike: 48 of 400, give or take
    assert noise.pair(text, rng)[1] == text


def test_token_masking_can_do_each_of_the_three_alone() -> None:
    rng, text = np.random.default_rng(0), [*range(10, 30), END]
    assert TokenMasking(MASK, [], 1.0, 1.0, 0.0)(text, rng) == [MASK] * 20 + [END]
    assert TokenMasking(MASK, [7], 1.0, 0.0, 1.0)(text, rng) == [7] * 20 + [END]
    assert TokenMasking(MASK, [], 1.0, 0.0, 0.0)(text, rng) == text
    assert TokenMasking(MASK, [7])([END], rng) == [END]


def test_token_deletion_removes_its_share_and_keeps_the_order() -> None:
    noise, rng = TokenDeletion(), np.random.default_rng(1)
    for length in (1, 3, 40):
        text = [*range(10, 10 + length), END]
        noised = [noise(text, rng) for _ in range(4000)]
        assert all(row == sorted(row[:-1]) + [END] for row in noised)
        assert 1 - np.mean([len(row) - 1 for row in noised]) / length == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize(
    "noise",
    [
        TextInfilling(MASK, 0.5, word_starts=word_starts),
        TokenMasking(MASK, [], 0.5, 1.0, 0.0, word_starts=word_starts),
        TokenDeletion(0.5, word_starts=word_starts),
    ],
)
def test_whole_words_are_never_touched_in_part(noise) -> None:
    seen, rng = set(), np.random.default_rng(2)
    for _ in range(300):
        noised = noise(WORDS, rng)
        assert whole_words(noised) and noised[-1] == END and len(noised) <= len(WORDS)
        seen.add(frozenset(noised) - {MASK, END})
    assert len(seen) == 6  # half of four words: two of them stay, any two


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenMasking(MASK, [5], share=1.1), "token_masking_share must be between 0 and 1, not 1.1"),
        (lambda: TokenMasking(MASK, [5], masked=0.8, random=0.3), "masked=0.8 and random=0.3 .* nor more than 1"),
        (lambda: TokenMasking(MASK, [5], masked=float("nan")), "masked=nan"),
        (lambda: TokenMasking(MASK, []), "random_ids"),
        (lambda: TokenMasking(-1, [5]), "mask_token_id must be an id"),
        (lambda: TokenDeletion(-0.1), "token_deletion_share must be between 0 and 1, not -0.1"),
    ],
)
def test_bad_numbers_of_masking_and_deletion_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

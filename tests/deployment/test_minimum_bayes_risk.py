"""Minimum Bayes risk: the means by hand, sacreBLEU's own numbers, and the choice by brute force."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from vanilla_transformer.deployment.minimum_bayes_risk import bleu_matrix, chrf_matrix, expected_utilities

ODD = [
    "",
    " ",
    "a",
    "ab",
    "  a b ",
    "aaaa",
    "Ä ö ü",
    "😀😀",
    "한국어 문장",
    "the cat",
    "the cat sat",
    "The cat sat.",
    "\t\u2028x",
]


def sentences(number: int, seed: int) -> list[str]:
    """As samples are: alike in most words, some of them equal."""
    rng = random.Random(seed)
    words = "the a man woman two dogs run sleeps on grass red house , . 안녕 für".split()
    base = rng.choices(words, k=8)
    return [" ".join(word if rng.random() < 0.7 else rng.choice(words) for word in base) for _ in range(number)]


def test_the_expected_utility_by_hand():
    # "ab" and "ac" share one of two letters and no pair: precision and recall are (1/2 + 0) / 2 = 1/4, and so is F.
    assert CHRF().sentence_score("ab", ["ac"]).score == pytest.approx(25)
    # Of the four samples "ab" is two: it has (100 + 100 + 25 + 0) / 4, "ac" (25 + 25 + 100 + 0) / 4, "xy" 100 / 4.
    assert expected_utilities(["ab", "ac", "ab", "xy"]) == pytest.approx([56.25, 37.5, 56.25, 25])


@pytest.mark.parametrize("texts", [ODD, sentences(12, 1), sentences(12, 2)])
def test_every_pair_has_sacrebleus_score(texts):
    chrf = [[CHRF().sentence_score(text, [reference]).score for reference in texts] for text in texts]
    np.testing.assert_allclose(chrf_matrix(texts), chrf, rtol=0, atol=1e-9)
    bleu = [
        [BLEU(effective_order=True).sentence_score(text, [reference]).score for reference in texts] for text in texts
    ]
    np.testing.assert_allclose(bleu_matrix(texts), bleu, rtol=0, atol=1e-9)


@pytest.mark.parametrize("utility, metric", [("chrf", CHRF()), ("bleu", BLEU(effective_order=True))])
def test_the_best_is_the_best_by_brute_force(utility, metric):
    for seed in range(4):
        samples = sentences(10, seed)
        means = [sum(metric.sentence_score(h, [r]).score for r in samples) / len(samples) for h in samples]
        found = expected_utilities(samples, utility)
        assert found == pytest.approx(means)
        assert int(np.argmax(found)) == int(np.argmax(means))
        assert len(set(np.round(means, 6))) > 1


def test_what_cannot_be_chosen_from():
    with pytest.raises(ValueError, match="utility='ter' must be one of chrf, bleu"):
        expected_utilities(["a"], "ter")
    with pytest.raises(ValueError, match="no samples"):
        expected_utilities([])

"""The output that is most like all others, in place of the likeliest one.

Minimum-Bayes-risk decoding by sampling (Eikema and Aziz, 2020, "Is MAP Decoding All You Need?", section 6; Freitag et al., 2022,
"High Quality Rather than High Model Probability", section 3): draw N outputs y_1 ... y_N from the model; of them take

    argmax over h in {y_1 ... y_N} of   1/N  sum_n  u(h, y_n)

the utility u(h, r) being how good h is if r is right. N outputs stand for the model's distribution twice: as candidates, and as
references (each among its own, as in both papers). An output that was drawn twice counts twice as a reference.

    "chrf"   character n-gram F-score, n = 1 to 6, recall twice as heavy (Popović, 2015), as sacreBLEU computes it
    "bleu"   sentence BLEU, as sacreBLEU computes it, with n-grams up to the length that there is
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.helpers import extract_all_char_ngrams

UTILITIES = ("chrf", "bleu")

_ORDERS = 6
_BETA = 2


def expected_utilities(samples: Sequence[str], utility: str = "chrf") -> list[float]:
    """For each sample the mean of its utility over all samples, 0 to 100. Equal texts have equal values.

    Raises:
        ValueError: no such utility, or no samples.
    """
    if utility not in UTILITIES:
        raise ValueError(f"utility={utility!r} must be one of {', '.join(UTILITIES)}")
    if not samples:
        raise ValueError("there are no samples to choose from")
    drawn = Counter(samples)
    texts = list(drawn)
    matrix = chrf_matrix(texts) if utility == "chrf" else bleu_matrix(texts)
    means = matrix @ np.array([drawn[text] for text in texts]) / len(samples)
    of_text = dict(zip(texts, means.tolist(), strict=True))
    return [of_text[text] for text in samples]


def chrf_matrix(texts: Sequence[str]) -> np.ndarray:
    """[i, j] is the sentence chrF of text i with text j as its reference: what `CHRF().sentence_score` gives.

    sacreBLEU counts the n-grams of both texts anew for every pair. Here they are counted once for every text, by its own
    function, and all pairs of one text are compared at once.
    """
    counted = [extract_all_char_ngrams(text, _ORDERS, False) for text in texts]
    size = len(texts)
    precision, recall, orders = np.zeros((size, size)), np.zeros((size, size)), np.zeros((size, size))
    for order in range(_ORDERS):
        counts = [ngrams[order] for ngrams in counted]
        matches = _matches(counts)
        totals = np.array([sum(count.values()) for count in counts])
        of_hypothesis, of_reference = np.broadcast_arrays(totals[:, None], totals[None, :])
        # An order that one of the two texts is too short for does not count.
        both = (of_hypothesis > 0) & (of_reference > 0)
        precision += np.divide(matches, of_hypothesis, where=both, out=np.zeros((size, size)))
        recall += np.divide(matches, of_reference, where=both, out=np.zeros((size, size)))
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    below = _BETA**2 * precision + recall
    return 100 * np.divide((1 + _BETA**2) * precision * recall, below, where=below > 0, out=np.zeros((size, size)))


def bleu_matrix(texts: Sequence[str]) -> np.ndarray:
    """[i, j] is the sentence BLEU of text i with text j as its reference. One call of sacreBLEU for every pair."""
    bleu = BLEU(effective_order=True)
    return np.array([[bleu.sentence_score(text, [reference]).score for reference in texts] for text in texts])


def _matches(counts: Sequence[Counter]) -> np.ndarray:
    """[i, j] is how many n-grams of text i are n-grams of text j, each as often as it stands in both."""
    in_texts = Counter(ngram for count in counts for ngram in count)
    # Most n-grams are in one text alone, and match nothing but themselves.
    column_of = {ngram: column for column, ngram in enumerate(ngram for ngram, n in in_texts.items() if n > 1)}
    table = np.zeros((len(counts), len(column_of)), dtype=np.int32)
    alone = np.zeros(len(counts))
    for row, count in enumerate(counts):
        for ngram, times in count.items():
            if ngram in column_of:
                table[row, column_of[ngram]] = times
            else:
                alone[row] += times
    matches = np.stack([np.minimum(row, table).sum(axis=1) for row in table]).astype(float)
    return matches + np.diag(alone)

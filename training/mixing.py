"""Several corpora in one: how often the rows of each are seen.

An epoch holds every row of corpus c the same whole number of times, m_c. So nothing is left out however unequal the
weights are, every epoch has the same batches' worth of work, and a run resumes exactly. Copies of a row are rows of their
own: each gets noise of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The error allowed in a weight, and the most that the most frequent corpus may be repeated in an epoch to come so close.
_CLOSE = 0.05
_MOST_REPEATS = 1000


def temperature_weights(sizes: Sequence[int], temperature: float) -> list[float]:
    """Weights of a row of each corpus that make corpora count in proportion to size^(1/temperature).

    Temperature 1 leaves them as they are; the higher it is, the more equal they become (mBART, mT5: XLM's exponent
    alpha is 1/temperature). Sizes are rows, at least 1.
    """
    weights = np.asarray(sizes, dtype=float) ** (1 / temperature - 1)
    return (weights / weights.min()).tolist()


def repeats(weights: Sequence[float]) -> list[int]:
    """m_c for each corpus: whole numbers, at least 1, in proportion to the weights to within 5 %, and as small as that allows.

        >>> repeats([1.0, 2.5])
        [2, 5]

    Raises:
        ValueError: the weights lie so far apart that the rarest corpus would be seen once in 1,000 times.
    """
    wanted = np.asarray(weights, dtype=float) / min(weights)
    if wanted.max() > _MOST_REPEATS:
        raise ValueError(
            f"weights {', '.join(f'{w:g}' for w in weights)}: the greatest is more than {_MOST_REPEATS} times the least; "
            f"give weights nearer to each other"
        )
    for scale in range(1, max(2, int(_MOST_REPEATS / wanted.max()) + 1)):
        found = np.maximum(1, np.rint(wanted * scale))
        if (np.abs(found / (wanted * scale) - 1) <= _CLOSE).all():
            return found.astype(int).tolist()
    return found.astype(int).tolist()


def mixed_rows(corpus_of_row: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Row numbers of the joined corpora, each repeated as often as an epoch holds it.

    Args:
        corpus_of_row: (N,) which corpus each row of the joined corpora is from, 0, 1, ...
        weights: of a row of each corpus.

    Returns:
        (M,) with M >= N: every number from 0 to N - 1, in order, m_c times each.
    """
    return np.repeat(np.arange(len(corpus_of_row)), np.asarray(repeats(weights))[corpus_of_row])

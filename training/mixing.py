"""Several corpora in one: how often the rows of each are seen.

An epoch holds every row of corpus c the same whole number of times, m_c. So nothing is left out however unequal the
weights are, every epoch has the same batches' worth of work, and a run resumes exactly. Copies of a row are rows of their
own: each gets noise of its own.

    parts = [encode_pairs(corpus, ...) for corpus in corpora]
    encoded, dropped = join(parts)
    encoded, dropped = mix(encoded, dropped, [len(part) for part, _ in parts], names, [4.0, 1.0])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import concatenate_datasets

from vanilla_transformer.training.encoding import DroppedRows, together

# The error allowed in a weight, beside the least. Rounding to whole numbers errs by half a copy, so that ten of the rarest corpus
# are always enough.
_CLOSE = 0.05
_MOST_OF_THE_RAREST = 10
_MOST_UNEQUAL = 1000


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
    if wanted.max() > _MOST_UNEQUAL:
        raise ValueError(
            f"weights {', '.join(f'{w:g}' for w in weights)}: the greatest is more than {_MOST_UNEQUAL} times the least; "
            f"give train_weights nearer to each other, or a lower sampling_temperature"
        )
    for scale in range(1, _MOST_OF_THE_RAREST + 1):
        found = np.rint(wanted * scale)
        if (np.abs(found / (wanted * scale) - 1) <= _CLOSE).all():
            return found.astype(int).tolist()
    raise AssertionError(f"weights {weights} are not finite numbers greater than 0")


def mixed_rows(corpus_of_row: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Row numbers of the joined corpora, each repeated as often as an epoch holds it.

    Args:
        corpus_of_row: (N,) which corpus each row of the joined corpora is from, 0, 1, ...
        weights: of a row of each corpus.

    Returns:
        (M,) with M >= N: every number from 0 to N - 1, in order, m_c times each.
    """
    return np.repeat(np.arange(len(corpus_of_row)), np.asarray(repeats(weights))[corpus_of_row])


def join(parts: Sequence[tuple[Any, DroppedRows]]) -> tuple[Any, DroppedRows]:
    """Encoded corpora one after the other, and what was left out of all. Rows count through: the second corpus's first row
    follows the first one's last.
    """
    if len(parts) == 1:
        return parts[0]
    every = [dropped for _, dropped in parts]
    starts = np.cumsum([0, *(dropped.rows for dropped in every[:-1])]).tolist()
    kept = [np.asarray(dropped.kept_rows) + start for dropped, start in zip(every, starts, strict=True)]
    notes = tuple(note for dropped in every for note in dropped.notes)
    dropped = replace(together(every), kept_rows=np.concatenate(kept), notes=notes)
    return concatenate_datasets([encoded for encoded, _ in parts]), dropped


def mix(
    encoded: Any, dropped: DroppedRows, sizes: Sequence[int], names: Sequence[str], weights: Sequence[float]
) -> tuple[Any, DroppedRows]:
    """Joined corpora, each row as often as an epoch holds it.

    Args:
        encoded, dropped: as from `join`.
        sizes: rows that each corpus has among the encoded.
        names: of the corpora, for the log.
        weights: of a row of each.
    """
    rows = mixed_rows(np.repeat(np.arange(len(sizes)), sizes), weights)
    times = repeats(weights)
    shares = ", ".join(
        f"{name} {'once' if count == 1 else f'{count} times'} ({100 * count * size / len(rows):.1f} %)"
        for name, count, size in zip(names, times, sizes, strict=True)
    )
    note = f"an epoch holds {len(rows):,} rows: {shares}"
    mixed = replace(dropped, kept_rows=np.asarray(dropped.kept_rows)[rows], notes=(*dropped.notes, note))
    return encoded.select(rows), mixed

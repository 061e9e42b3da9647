"""Text infilling: the noise that BART is pretrained to undo (Lewis et al. 2020, section 2.2).

    the text       A  B  C  D  E  F  G  H  </s>
    spans          A [B  C  D] E [] F  G  H  </s>      lengths from Poisson(3), here 3 and 0
    what is read   A <mask> E <mask> F G H </s>        ONE mask for each span, however long it was
    what is asked  A  B  C  D  E  F  G  H  </s>

One mask for a span of unknown length makes the model find out how many tokens are missing; a span of length
zero inserts a mask where nothing is missing at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class TextInfilling:
    """Replaces spans of tokens by one mask each, until `mask_share` of the tokens are gone.

    Differs from fairseq's `DenoisingDataset` in four ways:
    1. Spans never overlap, so exactly the wanted number of tokens is removed. There, spans start at random
       places and run into each other, and fewer tokens are removed than asked for.
    2. A wanted number with a fraction is rounded up or down at random in proportion, so that the share is
       right on average for short texts too. There it is rounded up: a text of one token is always masked.
    3. No random tokens in place of masks, no whole words, no rotation, no permuted sentences.
    4. Of the empty spans, those are left out that would make the text longer than it was, so that what fits into a
       model or a batch before fits after.
    As there, the last span drawn is cut to what is still wanted.

    Args:
        mask_token_id: the id of `<mask>`.
        mask_share: the share of the tokens to remove, 0 to 1 (BART 0.3, mBART 0.35).
        poisson_lambda: the mean length of a span in tokens, at least 1 (BART 3.0, mBART 3.5).
        keep_last: how many tokens at the end are never touched: 1 for `</s>`.

    Raises:
        ValueError: one of the numbers is out of its range.
    """

    def __init__(
        self, mask_token_id: int, mask_share: float = 0.3, poisson_lambda: float = 3.0, keep_last: int = 1
    ) -> None:
        if mask_token_id < 0:
            raise ValueError(f"mask_token_id must be an id, 0 or more, not {mask_token_id}")
        if not 0.0 <= mask_share <= 1.0:
            raise ValueError(f"mask_share must be between 0 and 1, not {mask_share}")
        # Below 1 most spans would be empty, and the masks inserted would outnumber the tokens masked.
        if not 1.0 <= poisson_lambda < float("inf"):
            raise ValueError(f"poisson_lambda must be at least 1, not {poisson_lambda}")
        if keep_last < 0:
            raise ValueError(f"keep_last must be 0 or more, not {keep_last}")
        self.mask_token_id = mask_token_id
        self.mask_share = mask_share
        self.poisson_lambda = poisson_lambda
        self.keep_last = keep_last

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        """The noised copy of `ids`; the same generator state gives the same noise.

        Never empty unless `ids` is, and never longer than `ids`. Takes linear time.
        """
        ids = [int(token) for token in ids]
        free = max(len(ids) - self.keep_last, 0)  # tokens that may be masked
        wanted = self.mask_share * free
        masked = int(wanted) + int(rng.random() < wanted - int(wanted))
        if masked == 0:
            return ids

        spans = self._span_lengths(masked, rng)
        surplus = max(len(spans) - masked, 0)  # each span adds one mask, and all together take `masked` tokens
        spans = np.delete(spans, np.flatnonzero(spans == 0)[:surplus])
        # Spans and kept tokens in random order: every way to place the spans is equally likely, none overlap.
        # Each slot holds the number of tokens it takes from the text; 1 for a kept token.
        slots = np.ones(len(spans) + free - masked, dtype=np.int64)
        is_span = np.zeros(len(slots), dtype=bool)
        is_span[: len(spans)] = True
        rng.shuffle(is_span)
        slots[is_span] = rng.permutation(spans)
        starts = np.cumsum(slots) - slots

        noised = [
            self.mask_token_id if span else ids[start]
            for start, span in zip(starts.tolist(), is_span.tolist(), strict=True)
        ]
        return noised + ids[free:]

    def _span_lengths(self, total: int, rng: np.random.Generator) -> np.ndarray:
        """Poisson lengths, zeros among them, that sum to `total` exactly (the last one is cut)."""
        drawn = rng.poisson(self.poisson_lambda, size=int(total / self.poisson_lambda) + 4)
        while drawn.sum() < total:
            drawn = np.concatenate([drawn, rng.poisson(self.poisson_lambda, size=len(drawn))])
        sums = np.cumsum(drawn)
        last = int(np.searchsorted(sums, total))  # the first span that reaches the total
        spans = drawn[: last + 1].copy()
        spans[-1] -= sums[last] - total
        return spans

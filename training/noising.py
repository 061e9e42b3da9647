"""Noise that pretraining teaches to undo, token by token: text infilling, token masking, token deletion.

Text infilling is what BART is pretrained with (Lewis et al. 2020, section 2.2):

    the text       A  B  C  D  E  F  G  H  </s>
    spans          A [B  C  D] E [] F  G  H  </s>      lengths from Poisson(3), here 3 and 0
    what is read   A <mask> E <mask> F G H </s>        ONE mask for each span, however long it was
    what is asked  A  B  C  D  E  F  G  H  </s>

One mask for a span of unknown length makes the model find out how many tokens are missing; a span of length
zero inserts a mask where nothing is missing at all.

Noise of other kinds: `reordering.py`, `span_corruption.py`; by name and mixed: `objectives.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Starts = Callable[[Sequence[int]], np.ndarray]
"""ids -> (L,) bool: whether a word (or a sentence) begins at each of them; see `borders.py`"""


class Noise:
    """Base of what changes a text that is asked for whole. `noise(ids, rng)` is the noised copy, never longer.

    The same generator state gives the same noise, and every call takes linear time.

    Args:
        keep_last: how many tokens at the end are never touched: 1 for `</s>`.
        word_starts: if given, the unit of the noise is the word: shares are of words, lengths in words, and no word
            is touched in part. Otherwise it is the token.

    Raises:
        ValueError: one of the numbers is out of its range.
    """

    def __init__(self, keep_last: int = 1, word_starts: Starts | None = None) -> None:
        if keep_last < 0:
            raise ValueError(f"keep_last must be 0 or more, not {keep_last}")
        self.keep_last = keep_last
        self.word_starts = word_starts

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        raise NotImplementedError

    def pair(self, ids: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """(what is read, what is asked) for a text."""
        ids = [int(token) for token in ids]
        return self(ids, rng), ids

    def bounds(self, lengths: np.ndarray) -> np.ndarray:
        """(N,) lengths of texts -> (N, 2): the most tokens that are read and asked for each, kept ones included."""
        return np.stack([lengths, lengths], axis=1)

    def edges(self, ids: Sequence[int]) -> np.ndarray:
        """(U + 1,) where each unit that may be touched begins, and where the last one ends."""
        free = max(len(ids) - self.keep_last, 0)
        if self.word_starts is None or not free:
            return np.arange(free + 1)
        return np.append(np.flatnonzero(self.word_starts(ids[:free])), free)


class TextInfilling(Noise):
    """Replaces spans of tokens by one mask each, until `mask_share` of the tokens are gone.

    Differs from fairseq's `DenoisingDataset` in four ways:
    1. Spans never overlap, so exactly the wanted number of tokens is removed. There, spans start at random
       places and run into each other, and fewer tokens are removed than asked for.
    2. A wanted number with a fraction is rounded up or down at random in proportion, so that the share is
       right on average for short texts too. There it is rounded up: a text of one token is always masked.
    3. No random tokens in place of masks.
    4. Of the empty spans, those are left out that would make the text longer than it was, so that what fits into a
       model or a batch before fits after.
    As there, the last span drawn is cut to what is still wanted, and with `word_starts` all numbers count words.

    Args:
        mask_token_id: the id of `<mask>`.
        mask_share: the share of the tokens to remove, 0 to 1 (BART 0.3, mBART 0.35; both from memory).
        poisson_lambda: the mean length of a span in tokens, at least 1 (BART 3.0, as fairseq's default; mBART 3.5,
            from memory).
        keep_last, word_starts: see `Noise`.

    Raises:
        ValueError: one of the numbers is out of its range.
    """

    def __init__(
        self,
        mask_token_id: int,
        mask_share: float = 0.3,
        poisson_lambda: float = 3.0,
        keep_last: int = 1,
        word_starts: Starts | None = None,
    ) -> None:
        super().__init__(keep_last, word_starts)
        self.mask_token_id = checked_id(mask_token_id)
        self.mask_share = checked_share("mask_share", mask_share)
        # Below 1 most spans would be empty, and the masks inserted would outnumber the tokens masked.
        if not 1.0 <= poisson_lambda < float("inf"):
            raise ValueError(f"poisson_lambda must be at least 1, not {poisson_lambda}")
        self.poisson_lambda = poisson_lambda

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        """The noised copy of `ids`: never empty unless `ids` is."""
        ids = [int(token) for token in ids]
        edges = self.edges(ids)
        units = len(edges) - 1
        masked = random_count(self.mask_share * units, rng)
        if masked == 0:
            return ids

        spans = self._span_lengths(masked, rng)
        surplus = max(len(spans) - masked, 0)  # each span adds one mask, and all together take `masked` units
        spans = np.delete(spans, np.flatnonzero(spans == 0)[:surplus])
        # Spans and kept units in random order: every way to place the spans is equally likely, none overlap.
        # Each slot holds the number of units it takes from the text; 1 for a kept one.
        slots = np.ones(len(spans) + units - masked, dtype=np.int64)
        is_span = np.zeros(len(slots), dtype=bool)
        is_span[: len(spans)] = True
        rng.shuffle(is_span)
        slots[is_span] = rng.permutation(spans)
        ends = edges[np.cumsum(slots)].tolist()

        noised: list[int] = []
        for start, end, span in zip([0, *ends], ends, is_span.tolist(), strict=False):
            noised += [self.mask_token_id] if span else ids[start:end]
        return noised + ids[edges[-1] :]

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


class TokenMasking(Noise):
    """BERT's noise (Devlin et al. 2019, section 3.1): of the tokens chosen most become `<mask>`, each its own.

    There the loss counts at the chosen tokens alone; here, as in BART's comparison, the whole text is asked for.

    Args:
        mask_token_id: the id of `<mask>`.
        random_ids: what a token may be replaced by.
        share: of the tokens, which are chosen (BERT 0.15, from memory).
        masked, random: of the chosen, which become `<mask>` and which another token, drawn anew for each; the rest stay
            as they are (BERT 0.8, 0.1; from memory). With whole words each token of a chosen word is drawn for itself.
        keep_last, word_starts: see `Noise`.
    """

    def __init__(
        self,
        mask_token_id: int,
        random_ids: Sequence[int],
        share: float = 0.15,
        masked: float = 0.8,
        random: float = 0.1,
        keep_last: int = 1,
        word_starts: Starts | None = None,
    ) -> None:
        super().__init__(keep_last, word_starts)
        self.mask_token_id = checked_id(mask_token_id)
        self.share = checked_share("token_masking_share", share)
        if not (masked >= 0 and random >= 0 and masked + random <= 1):
            raise ValueError(f"masked={masked} and random={random} must not be negative, nor more than 1 together")
        if random and not len(random_ids):
            raise ValueError(f"random={random} needs random_ids, tokens to draw from")
        self.masked, self.random = masked, random
        self.random_ids = np.asarray(random_ids, dtype=np.int64)

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        noised = np.array(ids, dtype=np.int64)
        chosen = np.flatnonzero(chosen_tokens(self.edges(ids), self.share, rng))
        if len(chosen):
            fate = rng.random(len(chosen))
            noised[chosen[fate < self.masked]] = self.mask_token_id
            swapped = chosen[(fate >= self.masked) & (fate < self.masked + self.random)]
            noised[swapped] = rng.choice(self.random_ids, size=len(swapped)) if len(swapped) else []
        return noised.tolist()


class TokenDeletion(Noise):
    """BART's token deletion (section 2.2): tokens are removed, and the model must find out where.

    Args:
        share: of the tokens, which are removed. The paper names none; the default is token masking's.
        keep_last, word_starts: see `Noise`.
    """

    def __init__(self, share: float = 0.15, keep_last: int = 1, word_starts: Starts | None = None) -> None:
        super().__init__(keep_last, word_starts)
        self.share = checked_share("token_deletion_share", share)

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        edges = self.edges(ids)
        kept = np.ones(len(ids), dtype=bool)
        kept[: edges[-1]] = ~chosen_tokens(edges, self.share, rng)
        return np.array(ids, dtype=np.int64)[kept].tolist()


def chosen_tokens(edges: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """(edges[-1],) bool: the tokens of a random `share` of the units, which the edges bound."""
    units = len(edges) - 1
    chosen = np.zeros(units, dtype=bool)
    chosen[rng.permutation(units)[: random_count(share * units, rng)]] = True
    return np.repeat(chosen, np.diff(edges))


def random_count(wanted: float, rng: np.random.Generator) -> int:
    """`wanted` rounded up or down at random, so that it is right on average."""
    return int(wanted) + int(rng.random() < wanted - int(wanted))


def checked_id(mask_token_id: int) -> int:
    if mask_token_id < 0:
        raise ValueError(f"mask_token_id must be an id, 0 or more, not {mask_token_id}")
    return mask_token_id


def checked_share(name: str, share: float) -> float:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, not {share}")
    return share

"""Span corruption: the noise that T5 is pretrained with (Raffel et al. 2020, sections 3.1.4 and 3.3.4, figure 2).

    the text       A  B  C  D  E  F  G  H  </s>
    spans          A [B  C] D  E [F] G  H  </s>
    what is read   A <extra_id_0> D E <extra_id_1> G H </s>
    what is asked  <extra_id_0> B C <extra_id_1> F <extra_id_2> </s>

Each span has a sentinel of its own, and only the spans are asked for, so that a target is short and an update cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vanilla_transformer.training.noising import Noise, Starts, checked_share


class SpanCorruption(Noise):
    """Takes spans out of a text and asks for them.

    As in T5's code, a text of n tokens loses round(share n), at least 1, in round(that / mean_span) spans, at least 1;
    they do not touch, and all ways to cut and to place them are equally likely. Differs in two ways: a text may begin
    with a span, and the last sentinel of figure 2 is there, which T5's code leaves out.

    Args:
        sentinel_ids: of <extra_id_0>, <extra_id_1> ...: one for each span, and one for the end.
        share: of the tokens, which are taken out (T5 0.15, from memory).
        mean_span: mean length of a span in tokens, at least 1 (T5 3.0, from memory).
        keep_last, word_starts: see `Noise`.

    Raises:
        ValueError: one of the numbers is out of its range; or, from `bounds` and `pair`, a text has more spans than
            there are sentinels.
    """

    def __init__(
        self,
        sentinel_ids: Sequence[int],
        share: float = 0.15,
        mean_span: float = 3.0,
        keep_last: int = 1,
        word_starts: Starts | None = None,
    ) -> None:
        super().__init__(keep_last, word_starts)
        self.share = checked_share("span_corruption_share", share)
        if not 1.0 <= mean_span < float("inf"):
            raise ValueError(f"mean_span must be at least 1, not {mean_span}")
        if len(sentinel_ids) < 2:
            raise ValueError(f"span-corruption needs at least 2 sentinels, and there are {len(sentinel_ids)}")
        self.sentinel_ids = [int(sentinel) for sentinel in sentinel_ids]
        self.mean_span = mean_span

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        """What is read: the first half of `pair`."""
        return self.pair(ids, rng)[0]

    def pair(self, ids: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """(what is read, what is asked); a text of no tokens is asked for as it is."""
        ids = [int(token) for token in ids]
        edges = self.edges(ids)
        units = len(edges) - 1
        if not units:
            return ids, ids
        noise, spans = (int(number) for number in self._counts(np.array(units)))
        self._check_sentinels(spans)
        taken = _parts(noise, spans, rng)
        # Between two spans at least one unit is kept; before the first and behind the last there may be none.
        kept = _parts(units - noise + 2, spans + 1, rng)
        kept[[0, -1]] -= 1
        ends = edges[np.cumsum(np.ravel(np.column_stack([kept[:-1], taken])))].tolist()

        source, target, start = [], [], 0
        for sentinel, kept_end, taken_end in zip(self.sentinel_ids, ends[::2], ends[1::2], strict=False):
            source += [*ids[start:kept_end], sentinel]
            target += [sentinel, *ids[kept_end:taken_end]]
            start = taken_end
        return source + ids[start:], [*target, self.sentinel_ids[spans], *ids[edges[-1] :]]

    def bounds(self, lengths: np.ndarray) -> np.ndarray:
        """(N,) -> (N, 2): exact where the unit is the token; of whole words, long ones may be taken or short ones."""
        free = np.maximum(lengths - self.keep_last, 0)
        noise, spans = self._counts(free)
        self._check_sentinels(int(spans.max(initial=0)))
        if self.word_starts is None:
            source, target = free - noise + spans, noise + spans + 1
        else:
            source, target = free, free + spans + 1
        kept = np.minimum(lengths, self.keep_last)
        return np.where(free[:, None] > 0, np.stack([source + kept, target + kept], axis=1), lengths[:, None])

    def _counts(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(units taken out, spans) of texts of so many units."""
        noise = np.clip(np.rint(self.share * units), 1, np.maximum(units, 1)).astype(np.int64)
        spans = np.clip(np.rint(noise / self.mean_span), 1, np.minimum(noise, units - noise + 1)).astype(np.int64)
        return noise, np.maximum(spans, 1)

    def _check_sentinels(self, spans: int) -> None:
        if spans + 1 > len(self.sentinel_ids):
            raise ValueError(
                f"span-corruption takes {spans} spans out of the longest texts and needs {spans + 1} sentinels, but the "
                f"tokenizer has {len(self.sentinel_ids)}: make one with train-tokenizer --sentinels {spans + 1}, or lower "
                "--max-source-length"
            )


def sentinels(tokenizer: Any) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1> ... as far as the tokenizer has them. ValueError if it has none."""
    ids = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    found: list[int] = []
    while (index := ids.get(f"<extra_id_{len(found)}>")) is not None:
        found.append(index)
    if not found:
        raise ValueError(
            "span-corruption needs sentinels (<extra_id_0>, <extra_id_1> ...), and the tokenizer has none: make one with "
            "train-tokenizer --sentinels 100"
        )
    return found


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) numbers of at least 1 that sum to `total`; all such rows of numbers are equally likely."""
    cuts = (
        np.sort(rng.choice(total - 1, size=count - 1, replace=False)) + 1 if count > 1 else np.zeros(0, dtype=np.int64)
    )
    return np.diff(np.concatenate([[0], cuts, [total]]))

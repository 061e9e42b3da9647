"""Noise that changes the order of a text and none of its tokens: sentence permutation, document rotation.

    the text               A B . C D . E .  </s>
    sentence permutation   E . A B . C D .  </s>
    document rotation      D . E . A B . C  </s>       the fifth token was drawn

Both are BART's (Lewis et al. 2020, section 2.2). Its final model permutes sentences and infills text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vanilla_transformer.training.noising import Noise, Starts


class SentencePermutation(Noise):
    """The sentences of a text in random order, all orders equally likely.

    fairseq, too, permutes all of them (`permute_sentences` 1.0 for BART, from memory), and takes the sentences from
    the data, where each ends with `</s>`; here they are found in the ids.

    Args:
        sentence_starts: see `Borders.sentence_starts`.
        keep_last: see `Noise`.
    """

    def __init__(self, sentence_starts: Starts, keep_last: int = 1) -> None:
        super().__init__(keep_last)
        self.sentence_starts = sentence_starts

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        row = np.array(ids, dtype=np.int64)
        free = max(len(row) - self.keep_last, 0)
        if not free:
            return row.tolist()
        cuts = np.flatnonzero(self.sentence_starts(row[:free].tolist()))[1:]
        sentences = np.split(row[:free], cuts)
        order = rng.permutation(len(sentences))
        return np.concatenate([*(sentences[i] for i in order), row[free:]]).tolist()


class DocumentRotation(Noise):
    """The text begins at a random token, and what stood before it follows behind.

    Args:
        keep_last, word_starts: see `Noise`; with whole words, it begins at a random word.
    """

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        row = [int(token) for token in ids]
        edges = self.edges(row)
        if len(edges) == 1:
            return row
        first, free = int(edges[rng.integers(len(edges) - 1)]), int(edges[-1])
        return row[first:free] + row[:first] + row[free:]

"""Finds blocks of rows whose two sides do not belong together, such as everything behind a lost line.

It needs no dictionary and no model: which words go together is learned from the corpus itself. Two signals
say whether a source and a target belong together,

* the ratio of their lengths, and
* how strongly the rarer words of the source are associated with words of the target: Dice's coefficient of
  the rows they occur in, the row itself left out; the same word on both sides (a name, a number) counts as
  fully associated.

Each becomes a log-likelihood ratio against what the corpus shows for targets a few rows away. A block is a
stretch where the evidence against the pairing, summed over its rows, pays for beginning and ending it: one odd
translation does not, half a dozen wrong rows on end do. Rows count from 0 here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MIN_ROWS = 100  # with fewer there is nothing to learn the associations from
_WORD = re.compile(r"\d+|[\u3040-\u30ff\u4e00-\u9fff]|[^\W\d_]+")  # Chinese and Japanese: characters
_HASH_BITS = 22  # words are numbered by a hash: constant memory whatever the vocabulary
_SOURCE_WORDS, _TARGET_WORDS = 5, 10  # the rarest words that are looked at per row
_COMMON = 0.05  # words in more than this share of the rows say nothing
_LEARN_ROWS = 200_000  # enough rows for the associations of the words of a large corpus
_WINDOW = 256  # rows over which the lengths must correlate better at another offset to believe it
_MAX_OFFSET = 50
_NEAR = 10  # offsets that are tried word by word to tell a block's offset
_SWITCH = 8.0  # nats that beginning, or ending, a block costs
_MAX_STATES = 4  # different offsets told apart in one corpus
_UNRELATED = 0.1  # nats per row; Multi30k has 5, the same with one side shuffled 0.001
_BINS = 12
_CHUNK = 50_000  # rows scored at a time


@dataclass(frozen=True)
class Block:
    """Rows `first` to `last` (both included, from 0) do not belong together as they stand."""

    first: int
    last: int
    offset: int | None
    """The target that translates source i stands at row i + offset; None: not nearby."""


class SideWords:
    """The words of one side of a corpus, as numbers; grows by batches of texts (about 50 bytes per row)."""

    def __init__(self) -> None:
        self._words: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, texts: Sequence[str]) -> None:
        rows = [{_number(word) for word in _WORD.findall(text.lower())} for text in texts]
        self._words.append(np.fromiter((word for row in rows for word in sorted(row)), dtype=np.int32))
        self._counts.append(np.fromiter(map(len, rows), dtype=np.int32, count=len(rows)))
        self._lengths.append(np.fromiter(map(len, texts), dtype=np.int32, count=len(rows)))

    def lengths(self) -> np.ndarray:
        """(N,) characters of each text."""
        return np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int32)

    def rarest(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each row the numbers of its rarest words, (N, most), -1 where it has fewer; and for each number
        the rows it occurs in.
        """
        words, counts = np.concatenate(self._words), np.concatenate(self._counts)
        occurrences = np.bincount(words, minlength=1 << _HASH_BITS).astype(np.int32)
        rows = np.repeat(np.arange(len(counts)), counts)
        informative = occurrences[words] <= max(2, _COMMON * len(counts))
        words, rows = words[informative], rows[informative]
        order = np.lexsort((words, occurrences[words], rows))
        words, rows = words[order], rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = rank < most
        table = np.full((len(counts), most), -1, dtype=np.int32)
        table[rows[kept], rank[kept]] = words[kept]
        return table, occurrences


def misaligned_blocks(source: SideWords, target: SideWords) -> list[Block]:
    """Blocks of rows whose sides do not belong together, in order; [] for a corpus of fewer than `MIN_ROWS`.

    The whole corpus is one block (of no offset) if its sides have nothing to do with each other.
    """
    logs = np.log1p(source.lengths()), np.log1p(target.lengths())
    rows = len(logs[0])
    if rows < MIN_ROWS:
        return []
    evidence = _Evidence(source, target, logs)
    if evidence.mean < _UNRELATED:
        return [Block(0, rows - 1, None)]
    everything = np.arange(rows)
    by_offset = {0: evidence.of(everything, 0)}
    against = _stretches(by_offset)
    for block in against:
        # Rows of a block have evidence of their own once its offset is known, which gives sharp borders.
        best = _best_offset(evidence, block)
        if best is not None and best not in by_offset and len(by_offset) <= _MAX_STATES:
            by_offset[best] = evidence.of(everything, best)
    # A stretch that merely fits better elsewhere is no finding: neighbours in a sorted corpus are alike.
    return [
        block
        for block in _stretches(by_offset)
        if any(block.first <= other.last and other.first <= block.last for other in against)
    ]


class _Evidence:
    """Log-likelihood ratios (nats) that source i and target i + offset belong together."""

    def __init__(self, source: SideWords, target: SideWords, log_lengths: tuple[np.ndarray, np.ndarray]) -> None:
        self.source, self.source_rows = source.rarest(_SOURCE_WORDS)
        self.target, self.target_rows = target.rarest(_TARGET_WORDS)
        self.log_source, self.log_target = log_lengths
        self.rows = len(self.source)
        rng = np.random.default_rng(0)
        self.learned = np.zeros(self.rows, dtype=bool)
        self.learned[rng.permutation(self.rows)[:_LEARN_ROWS]] = True
        self.offsets = _offsets_by_length(*log_lengths)
        self._learn_associations()
        sample = np.flatnonzero(self.learned)
        offsets = self.offsets[sample]
        nearby = offsets + rng.integers(1, _NEAR + 1, len(sample)) * rng.choice((-1, 1), len(sample))
        right, wrong = self._signals(sample, offsets), self._signals(sample, nearby)
        self.tables = [_log_ratio_table(r, w) for r, w in zip(right, wrong, strict=True)]
        #: How much a row tells on average, in nats; next to nothing if the two sides are unrelated.
        self.mean = float(sum(_look_up(t, r).mean() for t, r in zip(self.tables, right, strict=True)))

    def of(self, rows: np.ndarray, offset: int) -> np.ndarray:
        """(rows,) evidence for `offset`, summed over the signals; 0 beyond the ends of the corpus."""
        signals = self._signals(rows, np.full(len(rows), offset))
        return np.sum([_look_up(t, values) for t, values in zip(self.tables, signals, strict=True)], axis=0)

    def _learn_associations(self) -> None:
        keys = [np.zeros(0, np.int64)]
        for chunk in _chunks(np.flatnonzero(self.learned)):
            partners = chunk + self.offsets[chunk]
            inside = (partners >= 0) & (partners < self.rows)
            pairs, exist = self._word_pairs(chunk[inside], partners[inside])
            keys.append(pairs[exist])
        self.pairs, self.together = np.unique(np.concatenate(keys), return_counts=True)
        share = self.learned.mean()
        self.source_rows = self.source_rows * share
        self.target_rows = self.target_rows * share

    def _word_pairs(self, rows: np.ndarray, partners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, source words, target words) numbers of word pairs, and which of them exist."""
        s, t = self.source[rows][:, :, None], self.target[partners][:, None, :]
        return (s.astype(np.int64) << _HASH_BITS) | t, (s >= 0) & (t >= 0)

    def _signals(self, rows: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows,) association and (rows,) log ratio of the lengths; NaN where there is nothing to compare."""
        association = np.full(len(rows), np.nan)
        ratio = np.full(len(rows), np.nan)
        partners = rows + offsets
        inside = np.flatnonzero((partners >= 0) & (partners < self.rows))
        ratio[inside] = self.log_target[partners[inside]] - self.log_source[rows[inside]]
        for chunk in _chunks(inside):
            association[chunk] = self._association(rows[chunk], partners[chunk])
        return association, ratio

    def _association(self, rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
        pairs, exist = self._word_pairs(rows, partners)
        if not len(self.pairs):
            return np.full(len(rows), np.nan)
        where = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        together = np.where(self.pairs[where] == pairs, self.together[where], 0).astype(np.float64)
        s, t = self.source[rows][:, :, None], self.target[partners][:, None, :]
        # A pair that was learned from this very row must not vouch for itself.
        itself = (self.learned[rows] & (partners - rows == self.offsets[rows]))[:, None, None]
        seen_s, seen_t = self.source_rows[s] - itself, self.target_rows[t] - itself
        dice = 2 * np.maximum(together - itself, 0) / np.maximum(seen_s + seen_t, 1)
        dice = np.where(s == t, 1.0, dice)
        best = np.where(exist, dice, 0.0).max(axis=2)
        words = (self.source[rows] >= 0).sum(axis=1)
        comparable = (words > 0) & (self.target[partners] >= 0).any(axis=1)
        return np.where(comparable, best.sum(axis=1) / np.maximum(words, 1), np.nan)


def _number(word: str) -> int:
    # The beginning of a word takes most endings off: 2 syllables of Hangul, 5 letters of an alphabet.
    stem = word[:2] if "\uac00" <= word[0] <= "\ud7af" else word if word[0].isdigit() else word[:5]
    return zlib.crc32(stem.encode("utf-8", "replace")) & ((1 << _HASH_BITS) - 1)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def _offsets_by_length(log_source: np.ndarray, log_target: np.ndarray) -> np.ndarray:
    """(N,) offset at which the lengths of each window of rows correlate; 0 unless another is clearly better.

    Only so that the associations are learned from rows that belong together even if most of the corpus is
    shifted; the blocks themselves are found word by word.
    """
    rows = len(log_source)
    edges = np.arange(0, rows, _WINDOW)
    if rows - edges[-1] < _WINDOW // 2 and len(edges) > 1:
        edges = edges[:-1]  # a short last window would correlate by chance
    sizes = np.diff(np.append(edges, rows))
    most = min(_MAX_OFFSET, rows // 4)
    tried = sorted(range(-most, most + 1), key=abs)  # 0 first: it wins ties
    correlations = np.empty((len(tried), len(edges)))
    for i, offset in enumerate(tried):
        x, y = log_source, np.roll(log_target, -offset)
        mean_x, mean_y, mean_xy, mean_xx, mean_yy = (
            np.add.reduceat(values, edges) / sizes for values in (x, y, x * y, x * x, y * y)
        )
        variances = (mean_xx - mean_x**2) * (mean_yy - mean_y**2)
        correlations[i] = (mean_xy - mean_x * mean_y) / np.sqrt(np.maximum(variances, 1e-12))
    best = correlations.argmax(axis=0)
    clear = correlations[best, np.arange(len(edges))] - correlations[0] > 0.3
    chosen = np.where(clear, np.asarray(tried)[best], 0)
    return np.repeat(chosen, sizes)


_Table = tuple[np.ndarray, np.ndarray]


def _log_ratio_table(right: np.ndarray, wrong: np.ndarray) -> _Table:
    """(edges, log ratios): how much likelier a signal's value is where the sides belong together."""
    right, wrong = right[~np.isnan(right)], wrong[~np.isnan(wrong)]
    if not len(right) or not len(wrong):
        return np.zeros(0), np.zeros(1)
    edges = np.unique(np.quantile(np.concatenate([right, wrong]), np.linspace(0, 1, _BINS + 1)[1:-1]))
    # Added counts: a bin that is empty on one side must not decide alone.
    bins = len(edges) + 1
    shares = []
    for values in (right, wrong):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=bins) + 2.0
        shares.append(counts / counts.sum())
    return edges, np.log(shares[0]) - np.log(shares[1])


def _look_up(table: _Table, signal: np.ndarray) -> np.ndarray:
    edges, ratios = table
    found = ratios[np.searchsorted(edges, signal, side="right")]
    return np.where(np.isnan(signal), 0.0, found)


def _stretches(by_offset: dict[int, np.ndarray]) -> list[Block]:
    """Cuts the corpus into stretches of one offset each, or of none, by the Viterbi algorithm.

    A row's evidence counts for the offset of its stretch, and 0 for a stretch of no offset; each change costs
    `_SWITCH`, and so does the end of a block that runs to the end of the corpus.
    """
    offsets: list[int | None] = [0, None, *(offset for offset in by_offset if offset)]
    columns = [by_offset[o].tolist() if o is not None else [0.0] * len(by_offset[0]) for o in offsets]
    scores = [0.0, *(-_SWITCH for _ in offsets[1:])]
    came_from: list[tuple[int, ...]] = []
    for evidence in zip(*columns, strict=True):
        top = max(range(len(scores)), key=scores.__getitem__)
        entered = scores[top] - _SWITCH
        came_from.append(tuple(i if score >= entered else top for i, score in enumerate(scores)))
        scores = [max(score, entered) + new for score, new in zip(scores, evidence, strict=True)]
    scores = [score if i == 0 else score - _SWITCH for i, score in enumerate(scores)]
    state = max(range(len(scores)), key=scores.__getitem__)
    blocks: list[Block] = []
    last = len(came_from) - 1
    for row in range(last, -1, -1):
        before = came_from[row][state]
        if before != state or row == 0:
            if state != 0:
                blocks.append(Block(row, last, offsets[state]))
            last = row - 1
        state = before
    return blocks[::-1]


def _best_offset(evidence: _Evidence, block: Block) -> int | None:
    rows = np.arange(block.first, block.last + 1)
    by_length, counts = np.unique(evidence.offsets[rows], return_counts=True)
    likely = by_length[np.argsort(-counts)][:3].tolist()
    tried = sorted({*range(-_NEAR, _NEAR + 1), *likely} - {0}, key=abs)
    scores = [float(evidence.of(rows[:1000], offset).sum()) for offset in tried]
    best = int(np.argmax(scores))
    return tried[best] if scores[best] > _SWITCH else None

"""BPE-dropout: a text cut into other pieces each time it is seen. For training only; no Hub file.

    p = 0                Ġ u n h a p p y  ->  ... ->  Ġunhappy
    p = 0.1, one time    Ġ u n h a p p y  ->  ... ->  Ġun happy
    p = 0.1, another     Ġ u n h a p p y  ->  ... ->  Ġunhapp y

Provilkov, Emelianenko and Voita (2020), "BPE-Dropout: Simple and Effective Subword Regularization", Algorithm 1: at each
step every merge that applies to the word is left out with probability p; the first in the order in which they were learned
is made; where all are left out, the word is finished. They use p = 0.1 on both sides (0.6 for Chinese and Japanese).

`tokenizers` has something like it (`model.dropout`), but draws from a generator that nobody can seed. Here the draws come from
the caller's, so that a row of a corpus gets the same pieces in a resumed run, or in another process. Nor is it the paper's
algorithm: merges that are no longer possible stay in its queue, and each that is drawn there calls all back that were left
out. So the same p leaves words more whole there: p = 0.1 makes Multi30k (10,000 tokens) 1.15 times as long, and here 1.28.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer, pre_tokenizers

# How many pieces the remembered ways of cutting may have together: some tens of megabytes. It is looked at between texts.
_MOST_REMEMBERED = 1_000_000
# Bytes of a word whose ways of cutting are remembered. A word of n bytes has up to n of them each time, of n pieces each: of
# addresses, base64 or text without spaces, which hardly come twice, that would be a lot for nothing.
_LONGEST_REMEMBERED = 100


class BpeDropout:
    """Text -> ids, with dropout.

        >>> cut = BpeDropout(tokenizer, 0.1)
        >>> cut("A man sleeps.", np.random.default_rng((seed, epoch, row)))

    The same state of the generator gives the same ids, whatever was cut before. Tags, extra tokens and `</s>` are not
    cut, and what is a word is the tokenizer's own business: it is asked for its own pieces first.

    Args:
        tokenizer: of transformers, over byte-level BPE, as `learn_vocabulary` makes it.
        p: the probability of leaving out a merge: at least 0 (which gives the tokenizer's own ids), less than 1.

    Raises:
        ValueError: p is no such number, or the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: Any, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"bpe_dropout={p} is a probability: at least 0 and less than 1")
        self.p = p
        # A copy, because calls of the tokenizer with padding or truncation change what it does.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = getattr(tokenizer, "split_special_tokens", False)
        model = json.loads(self._backend.to_str())["model"]
        changes = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "dropout")
        bytes_ = set(pre_tokenizers.ByteLevel.alphabet())
        if (
            model["type"] != "BPE"
            or any(model.get(name) for name in changes)
            or not bytes_ <= model["vocab"].keys()
            or self._backend.encode("").ids != [tokenizer.eos_token_id]
        ):
            raise ValueError(
                f"bpe_dropout={p} needs a tokenizer of byte-level BPE, as `vanilla-transformer train-tokenizer` makes it; "
                f"this one is of another kind: give bpe_dropout=0"
            )
        ids = model["vocab"]
        self._byte_ids = {
            piece_id: [ids[byte] for byte in piece] for piece, piece_id in ids.items() if bytes_ >= set(piece)
        }
        self._uncut = set(self._backend.get_added_tokens_decoder())
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}  # (left, right) -> (rank, merged)
        for rank, merge in enumerate(model["merges"]):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            self._merges[ids[left], ids[right]] = rank, ids[left + right]
        self._forget()

    def __call__(self, text: str, rng: np.random.Generator) -> list[int]:
        """The ids of a text, `</s>` last."""
        return self._cut(self._backend.encode(text), rng)

    def recut(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        """The same for a text whose ids without dropout are known, `</s>` last, and itself not.

        Raises:
            ValueError: these are not the ids that the tokenizer gives to any text.
        """
        ids = list(ids)
        encoding = self._backend.encode(self._backend.decode(ids[:-1], skip_special_tokens=False))
        if encoding.ids != ids:
            raise ValueError(
                f"ids {ids[:8]} ... stand for a text to which this tokenizer gives ids {encoding.ids[:8]} ...: "
                f"bpe_dropout needs ids without dropout, from a tokenizer that decodes exactly"
            )
        return self._cut(encoding, rng)

    def _cut(self, encoding: Encoding, rng: np.random.Generator) -> list[int]:
        if self._remembered > _MOST_REMEMBERED:
            self._forget()
        words = [self._bytes_of(word) for word in _words(encoding.ids, encoding.word_ids)]
        # Of the merges that apply, in their order, the number left out before one is kept is geometric. A word takes one
        # draw for each merge made, and one more if it is finished early: never more than it has bytes.
        draws = rng.geometric(1 - self.p, size=sum([len(word.pieces) for word in words])) - 1
        draw = iter(draws.tolist())
        pieces: list[int] = []
        for cutting in words:
            if len(cutting.pieces) > _LONGEST_REMEMBERED:
                pieces += self._cut_long(cutting.pieces, draw)
                continue
            while cutting.places:
                left_out = next(draw)
                if left_out >= len(cutting.places):
                    break
                cutting = cutting.after[left_out] or self._merged(cutting, left_out)
            pieces += cutting.pieces
        return pieces

    def _bytes_of(self, word: tuple[int, ...]) -> _Cutting:
        """Where a word, given as the tokenizer's pieces, begins: at its bytes."""
        found = self._words.get(word)
        if found is None:
            # A word of one added token is that token: no merge could have made it.
            if word[0] in self._uncut:
                found = _Cutting(word, [])
            else:
                pieces = tuple(byte for piece in word for byte in self._byte_ids[piece])
                if len(pieces) > _LONGEST_REMEMBERED:
                    return _Cutting(pieces, [])  # for `_cut_long`, which finds the places
                found = self._cutting(pieces)
            self._words[word] = found
            self._remembered += len(word)
        return found

    def _merged(self, cutting: _Cutting, choice: int) -> _Cutting:
        place = cutting.places[choice]
        pieces = cutting.pieces
        merged = self._merges[pieces[place], pieces[place + 1]][1]
        after = self._cutting((*pieces[:place], merged, *pieces[place + 2 :]))
        cutting.after[choice] = after
        return after

    def _cutting(self, pieces: tuple[int, ...]) -> _Cutting:
        # Merges at different places may be made in either order: both ways lead to one object.
        found = self._cuttings.get(pieces)
        if found is None:
            merges = map(self._merges.get, zip(pieces, pieces[1:], strict=False))
            ranked = sorted((merge[0], place) for place, merge in enumerate(merges) if merge is not None)
            found = self._cuttings[pieces] = _Cutting(pieces, [place for _, place in ranked])
            self._remembered += len(pieces)
        return found

    def _cut_long(self, pieces: Sequence[int], draw: Iterator[int]) -> list[int]:
        """The same merges as by `_merged`, with the same draws, and nothing is remembered: for n bytes O(n log n) steps, times
        1 / (1 - p), and O(n) memory.
        """
        made = list(pieces)  # -1, the id of nothing: part of the piece to the left
        before, after = list(range(-1, len(made) - 1)), list(range(1, len(made) + 1))

        def merge_at(place: int) -> tuple[int, int] | None:
            """(rank, merged) of the merge of the piece there and the next one."""
            has_none = place < 0 or after[place] == len(made)
            return None if has_none else self._merges.get((made[place], made[after[place]]))

        # Of merges that became impossible the entries stay, and are passed over: a place never has the same merge again,
        # because its pieces only grow.
        queue = [(merge[0], place) for place in range(len(made)) if (merge := merge_at(place)) is not None]
        possible = len(queue)
        heapify(queue)
        while possible:
            left_out = next(draw)
            if left_out >= possible:
                break
            passed: list[tuple[int, int]] = []
            while True:
                rank, place = heappop(queue)
                merge = merge_at(place)
                if merge is None or merge[0] != rank:
                    continue
                if len(passed) == left_out:
                    break
                passed.append((rank, place))
            for entry in passed:
                heappush(queue, entry)
            right = after[place]
            possible -= sum(merge_at(one) is not None for one in (before[place], place, right))
            made[place], made[right], after[place] = merge[1], -1, after[right]
            if after[place] < len(made):
                before[after[place]] = place
            for one in (before[place], place):
                if (new := merge_at(one)) is not None:
                    heappush(queue, (new[0], one))
                    possible += 1
        return [piece for piece in made if piece != -1]

    def _forget(self) -> None:
        self._words: dict[tuple[int, ...], _Cutting] = {}
        self._cuttings: dict[tuple[int, ...], _Cutting] = {}
        self._remembered = 0


class _Cutting:
    """A way to cut a word, and what it can become by one merge: a node of a graph that grows as it is walked."""

    __slots__ = ("pieces", "places", "after")

    def __init__(self, pieces: tuple[int, ...], places: list[int]):
        self.pieces = pieces
        self.places = places
        """where a merge applies, the one learned first first, of equal ones the leftmost first"""
        self.after: list[_Cutting | None] = [None] * len(places)


def _words(ids: list[int], word_ids: list[int | None]) -> list[tuple[int, ...]]:
    """The pieces of each word; an added token is a word, and so is what the tokenizer puts behind the text."""
    ends = [
        end for end, (word, following) in enumerate(zip(word_ids, word_ids[1:], strict=False), 1) if word != following
    ]
    return [tuple(ids[start:end]) for start, end in zip([0, *ends], [*ends, len(ids)], strict=True)]

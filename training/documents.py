"""Raw texts of any length -> rows of ids that fit: long ones cut, and, if asked for, short ones joined. Nothing is lost.

    a text of 9 tokens, at most 6 with </s>    A B . C D E F . G        (no </s>: the pieces have their own)
    cut where a sentence begins                A B . </s>
                                               C D E F . </s>           the last such place that fits
                                               G </s>
    joined with their neighbours (pack)        A B . </s>               6 tokens do not fit behind 4
                                               C D E F . </s>
                                               G </s> next text </s>

Where no sentence begins the cut is before a word, and in a word that is too long before a character. Joining is
fairseq's `--sample-break-mode complete`: whole texts of one file in their order, as many as fit, whatever they are
about, each with its `</s>`, which the noise treats as any token, but for the last one. So a model also learns to write
on behind `</s>`; `generate` stops there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from vanilla_transformer.training.borders import Borders
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.encoding import DroppedRows, StreamPart, first_rows, pair_lengths, stored_rows

# Part of the cache name: raise it when the same texts would be cut elsewhere than before.
_CUTTING_VERSION = 1
# Texts that are in memory together: few, since each may be a book.
_BATCH = 200
# Characters that are given to the tokenizer at once; it takes some hundred bytes for each.
_AT_ONCE = 200_000


def encode_documents(
    texts: Dataset | StreamPart, tokenizer: Any, *, max_length: int, num_proc: int | None = None
) -> tuple[Dataset, DroppedRows]:
    """Token ids of raw text, column `input_ids`: each text in one row or, if it is longer than `max_length`, in several.

    Args:
        texts: as from `load_texts`. Empty ones are left out and counted.
        max_length: of a row in tokens, the `</s>` at its end included; at least 2.

    Raises:
        CorpusError: there are no rows, or all are empty (of a whole corpus).
        ValueError: a text must be cut, and the tokenizer is not byte-level (see `Borders`).
    """
    features = Features({"input_ids": List(Value("int32")), "row": Value("int64")})
    cutter = DocumentCutter(tokenizer, max_length)
    encoded = stored_rows(
        texts, cutter, features, tokenizer, ("cut", max_length, _CUTTING_VERSION), batch_size=_BATCH, num_proc=num_proc
    )
    if not len(encoded):
        raise CorpusError("the corpus is empty (no rows)")
    numbers: Any = encoded.select_columns(["row"]).with_format("numpy").iter(100_000)
    rows = np.concatenate([part["row"] for part in numbers])
    encoded = encoded.select_columns(["input_ids"])
    lengths = pair_lengths(encoded)[:, 0]
    pieces = np.bincount(rows)
    empty = np.zeros(len(pieces), dtype=bool)
    empty[rows[lengths == 0]] = True
    kept = np.flatnonzero(lengths)
    dropped = DroppedRows(
        rows=len(pieces),
        empty=int(empty.sum()),
        empty_rows=first_rows(empty),
        over_long=0,
        over_long_rows=(),
        limits=(max_length,),
        kept_rows=rows[kept] + 1,
        cut=int((pieces > 1).sum()),
        pieces=int(pieces[pieces > 1].sum()),
    )
    if not len(kept) and not isinstance(texts, StreamPart):
        raise CorpusError(f"no row of the corpus is left: {dropped}")
    return (encoded if len(kept) == len(rows) else encoded.select(kept)), dropped


class DocumentCutter:
    """A batch of texts -> `input_ids` of their pieces and the `row` each is from; a text without words is one empty row."""

    def __init__(self, tokenizer: Any, max_length: int):
        if max_length < 2:
            raise ValueError(f"max_length={max_length} must hold a token and </s>: at least 2")
        self.tokenizer, self.max_length = tokenizer, max_length

    @cached_property
    def borders(self) -> Borders:
        return Borders(self.tokenizer)

    def __call__(self, columns: dict[str, list[str]], rows: Sequence[int]) -> dict[str, Any]:
        pieces: list[np.ndarray] = []
        row_of_piece: list[int] = []
        for row, ids in zip(rows, self._ids(columns["text"]), strict=True):
            made = self.cut(ids)
            pieces += made
            row_of_piece += [row] * len(made)
        return {"input_ids": pieces, "row": row_of_piece}

    def cut(self, ids: np.ndarray) -> list[np.ndarray]:
        """Pieces of at most `max_length`, each with `</s>`; without them, one behind the other, they are `ids` again."""
        if len(ids) <= self.max_length:
            return [ids]
        text, end, room = ids[:-1], ids[-1:], self.max_length - 1
        latest = [  # at each place, the last place up to there where one of these begins
            np.maximum.accumulate(np.where(starts(text), np.arange(len(text)), 0))
            for starts in (self.borders.sentence_starts, self.borders.word_starts, self.borders.character_starts)
        ]
        cuts = [0]
        while len(text) - cuts[-1] > room:
            most = cuts[-1] + room
            cuts.append(next((int(places[most]) for places in latest if places[most] > cuts[-1]), most))
        return [np.concatenate([text[a:b], end]) for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]

    def _ids(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """(L,) int32 ids of each text; none for a blank one."""
        document: list[np.ndarray] = []
        for group in _groups(part for text in texts for part in self._slices(text)):
            encoded = self.tokenizer([part for part, _ in group], return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            for (part, is_last), ids in zip(group, encoded, strict=True):
                if is_last and not document:
                    yield np.array(ids if part.strip() else [], dtype=np.int32)
                    continue
                document.append(np.array(ids if is_last else ids[:-1], dtype=np.int32))
                if is_last:
                    yield np.concatenate(document)
                    document = []

    def _slices(self, text: str) -> Iterator[tuple[str, bool]]:
        """(part, whether it is the last) of a text that is too long for the tokenizer to be given at once."""
        start = 0
        while len(text) - start > _AT_ONCE and (gap := self._gap.search(text, start + _AT_ONCE)):
            yield text[start : gap.start()], False
            start = gap.end()
        yield text[start:], True

    @cached_property
    def _gap(self) -> re.Pattern[str]:
        """A space at which a text may be parted: the tokenizer puts it in front of what follows again."""
        ours, first, second = self.tokenizer(["a b", "a", "b"], return_attention_mask=False)["input_ids"]
        if ours != first[:-1] + second:
            return re.compile(r"(?!)")  # this tokenizer does not, so nothing is parted
        # Before a tag or another added token it would not.
        added = "|".join(re.escape(str(token)) for token in self.tokenizer.added_tokens_decoder.values())
        return re.compile(rf"(?<=\S) (?=\w)(?!{added})")


class Blocks:
    """Examples made of neighbouring rows, one or several each: `blocks[[i, j]]` reads them from the disk.

    Args:
        rows: encoded texts, column `input_ids`.
        first, last: (N,) example i is made of the rows first[i], ... last[i] - 1.
        corpus: (N,) which corpus, 0, 1, ..., each example is from.
        lengths: (N,) tokens of each.
    """

    def __init__(self, rows: Dataset, first: np.ndarray, last: np.ndarray, corpus: np.ndarray, lengths: np.ndarray):
        self.rows, self.first, self.last, self.corpus, self.lengths = rows, first, last, corpus, lengths

    @classmethod
    def of(cls, rows: Dataset, sizes: Sequence[int], pack_to: int | None = None) -> Blocks:
        """A row each, or, packed, as many neighbours of one corpus as make up to `pack_to` tokens.

        sizes: rows of each corpus; the corpora stand one behind the other.
        """
        lengths = pair_lengths(rows)[:, 0]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        borders = np.cumsum([0, *sizes])
        first = np.arange(len(lengths))
        if pack_to is not None:
            packed = [_packed(ends[a : b + 1], pack_to) + a for a, b in zip(borders, borders[1:], strict=False)]
            first = np.concatenate(packed)
        last = np.append(first[1:], len(lengths))
        corpus = np.searchsorted(borders, first, side="right") - 1
        return cls(rows, first, last, corpus, ends[last] - ends[first])

    def select(self, examples: np.ndarray) -> Blocks:
        """These examples, of which some may be there several times."""
        parts = (array[examples] for array in (self.first, self.last, self.corpus, self.lengths))
        return Blocks(self.rows, *parts)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, examples: Sequence[int]) -> dict[str, list[Any]]:
        """Columns `input_ids` and `corpus`."""
        spans = [range(self.first[i], self.last[i]) for i in examples]
        read = iter(self.rows[[row for span in spans for row in span]]["input_ids"])
        joined = [[token for _ in span for token in next(read)] for span in spans]
        return {"input_ids": joined, "corpus": self.corpus[examples].tolist()}


def _packed(ends: np.ndarray, most: int) -> np.ndarray:
    """The first row of each block. ends: (N + 1,) tokens before each row, and in all."""
    firsts = [0]
    while (after := int(np.searchsorted(ends, ends[firsts[-1]] + most, side="right")) - 1) < len(ends) - 1:
        firsts.append(after)
    return np.array(firsts)


def _groups(parts: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Neighbours, as many as have `_AT_ONCE` characters together."""
    group, characters = [], 0
    for part in parts:
        group.append(part)
        characters += len(part[0])
        if characters >= _AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group

"""Looks at parallel corpora before any training: what is wrong, in which rows, with examples.

    findings = check_parts({"train": train, "test": test}, tokenizer, 256, 256)

A finding is a *fault* if training on it, or scoring with it, would do harm unnoticed; else a *note*: something
to know that training copes with (duplicates; over-long pairs, which it drops and counts). Memory: a few hundred
bytes per row, however long the texts.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from datasets import Dataset

from vanilla_transformer.training.alignment_check import SideWords, misaligned_blocks

FAULTS = {
    "empty": "a side is empty or blank",
    "misaligned": "source and target do not belong together",
    "length_ratio": "one side is far too long or short for the other",
    "copy": "the target is the source, untranslated",
    "control_characters": "control characters, line breaks inside a text, or other characters nobody sees",
    "mojibake": "UTF-8 that was read as another encoding, or a replacement character",
    "lost_characters": "the tokenizer does not give the text back",
    "overlap": "the same pair is in two parts",
}
NOTES = {
    "short_copy": "source and target are the same few words (names, numbers)",
    "duplicate": "the same pair stood in an earlier row",
    "over_long": "longer than the limit; training drops these",
    "source_overlap": "the same source is in two parts, with another target",
}

_BATCH = 1000
_EXAMPLES = 3
_COPY_WORDS, _COPY_CHARACTERS = 3, 12  # shorter copies are often right
# A pair is out of proportion if the ratio of its lengths is off the corpus's median by both of these.
_RATIO_FACTOR, _RATIO_DEVIATIONS = 3.0, 7.0
_RATIO_CHARACTERS = 15  # the longer side has at least so many: between short texts every ratio occurs
# C0 and C1 controls but the tab, zero-width marks that no language needs, line and paragraph separators,
# directional overrides. Not the zero-width joiners U+200C and U+200D: Persian, Hindi and emoji need them.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060\ufeff]")
# The continuation bytes of UTF-8, read as Latin-1 or as Windows-1252 (which puts quotes and dashes at 80 to 9F).
_TAIL_BYTES = bytes(range(0x80, 0xC0))
_TAIL = "[" + re.escape(_TAIL_BYTES.decode("latin-1") + _TAIL_BYTES.decode("cp1252", "ignore")) + "]"
_MOJIBAKE = re.compile(rf"[\u00c2\u00c3]{_TAIL}|[\u00e2\u00ea-\u00ed]{_TAIL}{{2}}|\u00f0{_TAIL}{{3}}|\ufffd")


@dataclass(frozen=True)
class Finding:
    """One kind of thing found in one part of the data."""

    part: str
    kind: str
    rows: np.ndarray
    """row numbers from 1, all of them"""
    examples: tuple[str, ...]
    """what the first rows look like, one line each"""
    detail: str = ""
    """more about it: the offset of a block, the characters lost"""

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS

    def to_json(self, most_rows: int = 100) -> dict[str, Any]:
        """JSON: the count is of all rows, `rows` names the first `most_rows`."""
        return {
            "part": self.part,
            "kind": self.kind,
            "severity": "fault" if self.is_fault else "note",
            "meaning": (FAULTS | NOTES)[self.kind],
            "count": len(self.rows),
            "rows": self.rows[:most_rows].tolist(),
            "detail": self.detail,
            "examples": list(self.examples),
        }


def check_parts(
    parts: dict[str, Dataset],
    tokenizer: Any = None,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> list[Finding]:
    """Everything found in the parts ("train", "validation", "test"; columns `source` and `target`) and between
    them.

    Without a tokenizer, lengths in tokens and lost characters are not looked at.
    """
    findings: list[Finding] = []
    hashes = {}
    for name, pairs in parts.items():
        check = _PartCheck(name, pairs, tokenizer, max_source_length, max_target_length)
        findings += check.findings()
        hashes[name] = check.hashes
    names = list(parts)
    for i, name in enumerate(names):
        for earlier in names[:i]:
            findings += _overlap(earlier, name, parts[name], hashes[earlier], hashes[name])
    return findings


class _PartCheck:
    """One pass over one part."""

    def __init__(
        self,
        name: str,
        pairs: Dataset,
        tokenizer: Any,
        max_source_length: int | None,
        max_target_length: int | None,
    ) -> None:
        self.name, self.pairs = name, pairs
        self.limits = max_source_length, max_target_length
        self.marked: dict[str, list[int]] = {}
        self.lost: Counter[str] = Counter()
        words = SideWords(), SideWords()
        hashes: list[np.ndarray] = []
        for start, sources, targets in _batches(pairs):
            words[0].add(sources)
            words[1].add(targets)
            hashes.append(np.array([_hash_pair(a, b) for a, b in zip(sources, targets, strict=True)], dtype=np.uint64))
            self._check_texts(start, sources, targets)
            if tokenizer is not None:
                self._check_tokens(start, sources, targets, tokenizer)
        #: (N, 2): hash of the source, hash of the pair
        self.hashes = np.concatenate(hashes)
        self.lengths = np.stack([side.lengths() for side in words], axis=1)
        self.blocks = misaligned_blocks(*words)

    def findings(self) -> list[Finding]:
        found = []
        in_block = np.zeros(len(self.lengths), dtype=bool)
        for block in self.blocks:
            in_block[block.first : block.last + 1] = True
            rows = np.arange(block.first, block.last + 1)
            found.append(
                self._finding("misaligned", rows, _describe(block.first, block.last, block.offset, len(in_block)))
            )
        self.marked["length_ratio"] = np.flatnonzero(_out_of_proportion(self.lengths) & ~in_block).tolist()
        _, first_rows = np.unique(self.hashes[:, 1], return_index=True)
        self.marked["duplicate"] = np.setdiff1d(np.arange(len(self.hashes)), first_rows).tolist()
        details = {"lost_characters": "lost: " + ", ".join(map(_name_character, self.lost)) if self.lost else ""}
        for kind in [*FAULTS, *NOTES]:
            if self.marked.get(kind):
                found.append(self._finding(kind, np.array(self.marked[kind]), details.get(kind, "")))
        return found

    def _finding(self, kind: str, rows: np.ndarray, detail: str) -> Finding:
        return Finding(self.name, kind, rows + 1, _examples(self.pairs, rows), detail)

    def _mark(self, kind: str, row: int) -> None:
        self.marked.setdefault(kind, []).append(row)

    def _check_texts(self, start: int, sources: Sequence[str], targets: Sequence[str]) -> None:
        for row, (source, target) in enumerate(zip(sources, targets, strict=True), start):
            a, b = source.strip().casefold(), target.strip().casefold()
            if not a or not b:
                self._mark("empty", row)
            elif a == b:
                long = len(a.split()) >= _COPY_WORDS and len(a) >= _COPY_CHARACTERS
                self._mark("copy" if long else "short_copy", row)
            if _CONTROL.search(source) or _CONTROL.search(target):
                self._mark("control_characters", row)
            if _MOJIBAKE.search(source) or _MOJIBAKE.search(target):
                self._mark("mojibake", row)

    def _check_tokens(self, start: int, sources: Sequence[str], targets: Sequence[str], tokenizer: Any) -> None:
        over_long, lost = set(), set()
        for texts, limit in zip((sources, targets), self.limits, strict=True):
            ids = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
            if limit is not None:
                over_long |= {row for row, row_ids in enumerate(ids, start) if len(row_ids) > limit}
            decoded = tokenizer.batch_decode(ids, skip_special_tokens=True)
            for row, (text, back) in enumerate(zip(texts, decoded, strict=True), start):
                if text != back:
                    lost.add(row)
                    self.lost += Counter(text) - Counter(back)
        for row in sorted(over_long):
            self._mark("over_long", row)
        for row in sorted(lost):
            self._mark("lost_characters", row)


def _overlap(earlier: str, name: str, pairs: Dataset, first: np.ndarray, second: np.ndarray) -> Iterator[Finding]:
    same_pair = np.isin(second[:, 1], first[:, 1])
    same_source = np.isin(second[:, 0], first[:, 0]) & ~same_pair
    for kind, marked in (("overlap", same_pair), ("source_overlap", same_source)):
        if marked.any():
            rows = np.flatnonzero(marked)
            yield Finding(name, kind, rows + 1, _examples(pairs, rows), f"also in {earlier}")


def _batches(pairs: Dataset) -> Iterator[tuple[int, list[str], list[str]]]:
    batches = cast(Any, pairs.iter(batch_size=_BATCH))
    for i, batch in enumerate(batches):
        yield i * _BATCH, batch["source"], batch["target"]


def _hash_pair(source: str, target: str) -> tuple[int, int]:
    one = hashlib.blake2b(source.strip().encode(), digest_size=8)
    source_hash = int.from_bytes(one.digest(), "little")
    one.update(b"\n" + target.strip().encode())
    return source_hash, int.from_bytes(one.digest(), "little")


def _out_of_proportion(lengths: np.ndarray) -> np.ndarray:
    """(N,) marks pairs whose ratio of lengths is an outlier of the corpus; empty texts are reported elsewhere."""
    full = (lengths > 0).all(axis=1)
    if not full.any():
        return np.zeros(len(lengths), dtype=bool)
    ratios = np.log1p(lengths[:, 1]) - np.log1p(lengths[:, 0])
    off = np.abs(ratios - np.median(ratios[full]))
    deviation = 1.4826 * np.median(off[full])  # of a normal distribution with this median deviation
    limit = max(np.log(_RATIO_FACTOR), _RATIO_DEVIATIONS * deviation)
    return full & (off > limit) & (lengths.max(axis=1) >= _RATIO_CHARACTERS)


def _describe(first: int, last: int, offset: int | None, rows: int) -> str:
    if (first, last, offset) == (0, rows - 1, None):
        return "the two sides have nothing to do with each other, or are shifted nearly everywhere"
    where = f"rows {first + 1} to {last + 1}"
    if offset is None:
        return f"{where}: the targets belong to other rows, or to none"
    side = "earlier" if offset < 0 else "later"
    cause = " (is a line missing or surplus just before?)" if last == rows - 1 or last - first > 20 else ""
    return f"{where}: the target stands {abs(offset)} row{'s' if abs(offset) > 1 else ''} {side}{cause}"


def _name_character(character: str) -> str:
    shown = character if character.isprintable() and not character.isspace() else repr(character)
    return f"{shown} (U+{ord(character):04X})"


def _examples(pairs: Any, rows: np.ndarray) -> tuple[str, ...]:
    chosen = pairs[rows[:_EXAMPLES].tolist()]
    return tuple(
        f"row {row + 1}: {_shorten(source)} | {_shorten(target)}"
        for row, source, target in zip(rows[:_EXAMPLES], chosen["source"], chosen["target"], strict=True)
    )


def _shorten(text: str, most: int = 70) -> str:
    """One line that fits; characters nobody sees are written as escapes, and are in the part that is shown."""
    unseen = _CONTROL.search(text)
    start = max(0, unseen.start() - most // 2) if unseen and unseen.start() > most // 2 else 0
    shown = ("..." if start else "") + text[start : start + most] + ("..." if len(text) > start + most else "")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)

"""Tokens (words, or single characters) -> ids for the encoder, and where each token stands among them.

Taggers and parsers decide about tokens; the tokenizer knows pieces. Every token is cut into pieces by itself, so that it
has a state of its own: that of its first piece (the rest of a word is seen through attention, as in BERT, section 5.3).

    tokens     The   139th          was           words
    pieces    " The"  " "1 3 9 th  " was" </s>    the same as of "The 139th was"
    positions   0      2             6            of the piece that the first character is in, not of a blank before it

**Words** each take the space in front of them along, as they do in a text: the ids are those of the words joined by
spaces, to the last one.

**Characters**: where single characters are the tokens, and blanks are tokens among them (Korean data sets). A character
inside a word has no space in front, one that begins a word has, as the first piece of any word that the encoder was
pretrained on. The blank itself is the piece " ", which is what the tokenizer makes of a further space. So the ids are those of a
text in which each blank stands twice, and every token, blanks too, has pieces of its own:

    tokens      나     는    " "   가
    pieces     " 나"  "는"   " "  " 가"  </s>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vanilla_transformer.training.corpus_files import CorpusError


@dataclass(frozen=True)
class Window:
    """A run of a sentence's tokens that fits: `start` to `stop`, of which `keep_start` to `keep_stop` count."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


class WordPieces:
    """Cuts sentences of tokens into ids. What a token becomes is remembered: a corpus has far fewer words than tokens.

    Args:
        tokenizer: a VanillaTransformerTokenizer.
        characters: the tokens are single characters, with blanks among them. Ask `has_blanks` about the training part,
            and keep the answer with the model: it belongs to the map from tokens to ids.
    """

    def __init__(self, tokenizer: Any, characters: bool = False):
        self.tokenizer, self.characters = tokenizer, characters
        self._known: dict[str, tuple[int, ...]] = {}
        self._blank = self._cut([" "])[0]

    def encode(self, sentences: Sequence[Sequence[str]], first_row: int = 1) -> tuple[list[list[int]], list[list[int]]]:
        """(ids, positions) of each sentence: ids end with `</s>`; positions has one entry for each token.

        Raises:
            CorpusError: an empty token; with its row (the first is `first_row`) and number.
        """
        written = [self._as_written(tokens) for tokens in sentences]
        self._remember(text for texts in written for text in texts)
        all_ids, all_positions = [], []
        for row, (tokens, texts) in enumerate(zip(sentences, written, strict=True), start=first_row):
            if "" in tokens:
                number = list(tokens).index("") + 1
                raise CorpusError(f"row {row}: token {number} of {len(tokens)} is empty; every token needs its text")
            ids: list[int] = []
            positions: list[int] = []
            for text in texts:
                pieces = self._known[text]
                positions.append(len(ids) + self._first(text, pieces))
                ids.extend(pieces)
            all_ids.append([*ids, self.tokenizer.eos_token_id])
            all_positions.append(positions)
        return all_ids, all_positions

    def windows(self, tokens: Sequence[str], max_length: int, overlap: int = 32, row: int = 1) -> list[Window]:
        """Cut a sentence into runs that have at most `max_length` pieces with `</s>`; one run if it fits.

        Neighbouring runs share tokens that make up about `overlap` pieces (a quarter of a run at most), so that each is
        read with something on both sides of it; the middle of what they share is where one ends and the other begins
        to count. Every token counts in exactly one run.

        Raises:
            CorpusError: a single token longer than a run.
        """
        # The first token of a run has a space in front, which it may not have inside the sentence.
        inside, alone = self._as_written(tokens), [f" {token}" if not token.isspace() else token for token in tokens]
        self._remember([*inside, *alone])
        lengths = [max(len(self._known[a]), len(self._known[b])) for a, b in zip(inside, alone, strict=True)]
        ends = np.cumsum([0, *lengths])  # pieces before each token, and in all
        room = max_length - 1
        if lengths and max(lengths) > room:
            longest = int(np.argmax(lengths))
            raise CorpusError(
                f"row {row}: token {longest + 1} alone has {lengths[longest]:,} pieces, more than the {room:,} that fit: "
                f"{tokens[longest][:40]!r}..."
            )
        shared = min(overlap, room // 4)
        runs: list[tuple[int, int]] = []
        start = 0
        while True:
            stop = int(np.searchsorted(ends, ends[start] + room, side="right")) - 1
            runs.append((start, stop))
            if stop >= len(tokens):
                break
            # At least one token further, and never past the next one to be read.
            start = min(max(int(np.searchsorted(ends, ends[stop] - shared)), start + 1), stop)
        cuts = [0, *((a[1] + b[0] + 1) // 2 for a, b in zip(runs, runs[1:], strict=False)), len(tokens)]
        return [Window(*run, *cuts[i : i + 2]) for i, run in enumerate(runs)]

    def _as_written(self, tokens: Sequence[str]) -> list[str]:
        if not self.characters:
            return [f" {token}" for token in tokens]
        begins = [True, *(token.isspace() for token in tokens)]
        return [
            token if token.isspace() or not begin else f" {token}" for token, begin in zip(tokens, begins, strict=False)
        ]

    def _first(self, text: str, pieces: tuple[int, ...]) -> int:
        """Which piece holds the first character: the second where the space in front stayed a piece by itself."""
        return int(len(pieces) > 1 and pieces[0] == self._blank[0] and not text.isspace())

    def _remember(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._cut(new), strict=True))

    def _cut(self, texts: list[str]) -> list[tuple[int, ...]]:
        # The tokenizer puts one space in front of whatever it is given. A text that begins with one gives that one up
        # for it; a text without goes past it, straight to the words and the merges.
        spaced = [text[1:] for text in texts if text.startswith(" ") and text != " "]
        cut = iter(self.tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"] if spaced else [])
        return [
            tuple(next(cut)) if text.startswith(" ") and text != " " else self._without_space(text) for text in texts
        ]

    def _without_space(self, text: str) -> tuple[int, ...]:
        backend = self.tokenizer.backend_tokenizer
        words = backend.pre_tokenizer.pre_tokenize_str(text)
        return tuple(piece.id for word, _ in words for piece in backend.model.tokenize(word))


def has_blanks(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether blanks are tokens, so that the tokens are characters of a running text."""
    return any(token.isspace() for tokens in sentences for token in tokens)

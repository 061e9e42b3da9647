"""Where words, sentences and characters begin in a row of token ids.

    ids         Ġ"  Don  't   Ġgo  .  Ġ안녕  하세요  .  </s>
    words       |   |    |    |    |  |             |
    sentences   |                     |

A word here is what the tokenizer never merges across: letters with the space in front of them, a digit, a run of
punctuation (see `learn_vocabulary.py`); so Chinese, written without spaces, has words as long as the stretch between
two commas. A sentence ends by the rule of `modeling/sentences.py`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

from vanilla_transformer.modeling.sentences import sentences

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


class Borders:
    """Tables over the vocabulary of a byte-level tokenizer, made once: then a row is looked up in linear time.

    Raises:
        ValueError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: Any):
        alphabet = _byte_of_character()
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        if not set(alphabet) <= vocabulary.keys():
            raise ValueError(
                "words and sentences are found only in the ids of a byte-level tokenizer (train-tokenizer makes one); with "
                "this one, use --documents as-is, and neither --whole-word nor objectives that need sentences"
            )
        self.end_id = tokenizer.eos_token_id
        special = set(tokenizer.all_special_ids)
        self._bytes = [b""] * (max(vocabulary.values()) + 1)
        for piece, index in vocabulary.items():
            if index in added:
                self._bytes[index] = b"" if index in special else added[index].encode()
            else:
                self._bytes[index] = bytes(alphabet[character] for character in piece)
        self._sizes = np.array([len(piece) for piece in self._bytes])
        # 0x80 to 0xBF are the second, third and fourth bytes of a character.
        self._inside = np.array([0x80 <= piece[0] < 0xC0 if piece else False for piece in self._bytes])
        first, last = zip(*(_ends_in_letters(piece) for piece in self._bytes), strict=True)
        self._is_added = np.isin(np.arange(len(self._bytes)), list(added))
        self._is_space = np.array([piece == b" " for piece in self._bytes])
        self._begins_with_letter = np.array(first) & ~self._is_added
        self._ends_in_letter = np.array(last) & ~self._is_added

    def character_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(L,) bool: False where a token goes on with the character of the one before."""
        starts = ~self._inside[np.asarray(ids, dtype=np.int64)]
        starts[:1] = True
        return starts

    def word_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(L,) bool: a word goes on where letters follow letters, or anything its space, and ends everywhere else."""
        row = np.asarray(ids, dtype=np.int64)
        starts = self.character_starts(row)
        starts[1:] &= ~(self._begins_with_letter[row[1:]] & self._ends_in_letter[row[:-1]])
        starts[1:] &= ~self._is_space[row[:-1]] | self._is_added[row[1:]]
        return starts

    def sentence_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(L,) bool: where a sentence begins, with the white space in front of it; also behind each `</s>`."""
        row = np.asarray(ids, dtype=np.int64)
        starts = np.zeros(len(row), dtype=bool)
        starts[:1] = True
        starts[1:] = row[:-1] == self.end_id
        # A row cut inside a character is no valid text, but must keep its length in bytes.
        text = b"".join([self._bytes[index] for index in row.tolist()]).decode("utf-8", "surrogateescape")
        parts = sentences(text)
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
        # White space, sentence, white space, sentence ...: each sentence but the last ends a cut.
        ends = np.cumsum(sizes)[1:-2:2]
        begins = np.cumsum(self._sizes[row]) - self._sizes[row]
        found = np.searchsorted(begins, ends, side="right") - 1  # the last one: `</s>` has no bytes
        starts[found[begins[found] == ends]] = True  # not where a sentence ends inside a token
        return starts


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2's): printable Latin-1 stands for itself, other bytes for 256, 257 ..."""
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    table = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(others)}
    assert table.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    return table


def _ends_in_letters(piece: bytes) -> tuple[bool, bool]:
    """Whether the first and the last character are letters or their marks. Parts of a character count as letters."""
    text = piece.decode("utf-8", "surrogateescape")
    return _is_letter(text[:1]), _is_letter(text[-1:])


def _is_letter(character: str) -> bool:
    return character != "" and (unicodedata.category(character)[0] in "LM" or "\udc80" <= character <= "\udcff")

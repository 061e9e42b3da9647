"""Outputs as texts; and of a text that went in pieces, the outputs of its pieces joined again.

    text         "  Mr. Smith left.  He ran. "
    pieces            Mr. Smith left. | He ran.          cut by `sentences.py`
    gaps         "  "                 "  "     " "       the white space before, between and behind them
    joined       "  Herr Smith ging.  Er lief. "
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .length_penalty import length_divisor

Output = TypeVar("Output")


@dataclass(frozen=True)
class Translation:
    """One output.

    Attributes:
        text: without special tokens.
        score: ln P(text | source): the sum over its tokens, `</s>` among them if it was written; 0 if it has none.
        normalized_score: the score as beam search compares it, see `length_penalty.py`.
        token_ids: what the model wrote, `</s>` among it.
        cut: the output reached its bound without `</s>`.
        pieces: in how many pieces the text was translated: 1; 0 if it was empty; more if it was too long.
        n_best: the best `n_best` outputs, best first; this one is the first of them.
    """

    text: str
    score: float
    normalized_score: float
    token_ids: list[int]
    cut: bool
    pieces: int = 1
    n_best: list["Translation"] = field(default_factory=list, repr=False, compare=False)


def joined(
    gaps: Sequence[str],
    pieces: Sequence[Sequence[Translation]],
    n_best: int,
    length_penalty: float,
    length_penalty_kind: str,
) -> Translation:
    """The translation of a whole text from the translations of its pieces, best with best.

    Args:
        gaps: one more than pieces.
        pieces: of each its translations, best first; none of an empty text.
        n_best: how many to make of the whole text.
        length_penalty, length_penalty_kind: of the search; the pieces' tokens together are the text's length.
    """
    before, *behind = gaps
    made: list[Translation] = []
    for parts in best_with_best(pieces, n_best):
        text = before + "".join(part.text + gap for part, gap in zip(parts, behind, strict=True))
        score = sum((part.score for part in parts), 0.0)
        ids = [token for part in parts for token in part.token_ids]
        if len(parts) == 1:
            normalized = parts[0].normalized_score  # with the coverage penalty
        else:
            normalized = score / length_divisor(max(1, len(ids)), length_penalty, length_penalty_kind)
        cut = any(part.cut for part in parts)
        made.append(Translation(text, score, normalized, ids, cut, sum(part.pieces for part in parts), made))
    return made[0]


def best_with_best(pieces: Sequence[Sequence[Output]], n_best: int) -> list[list[Output]]:
    """The best of all pieces, the second of all, and so on. A piece that has fewer than others goes on with its last one."""
    return [[piece[min(rank, len(piece) - 1)] for piece in pieces] for rank in range(n_best)]

"""Pieces joined, by hand."""

from __future__ import annotations

import pytest

from vanilla_transformer.modeling.translations import Translation, best_with_best, joined


def output(text: str, score: float, tokens: int, cut: bool = False) -> Translation:
    return Translation(text, score, score / 2, [*range(tokens)], cut)


def test_pieces_are_joined_best_with_best():
    first = [output("A", -1.0, 3), output("A2", -2.0, 4)]
    second = [output("B", -0.5, 2, cut=True)]  # has one only, which goes on
    best = joined(["  ", "\n", " "], [first, second], 2, 1.0, "hf")
    assert [one.text for one in best.n_best] == ["  A\nB ", "  A2\nB "]
    assert [one.score for one in best.n_best] == [-1.5, -2.5]
    assert [one.normalized_score for one in best.n_best] == pytest.approx([-1.5 / 5, -2.5 / 6])
    assert best.token_ids == [0, 1, 2, 0, 1] and best.pieces == 2
    assert best.cut and best.n_best[0] is best


def test_the_length_penalty_is_of_the_whole():
    pieces = [[output("A", -1.0, 3)], [output("B", -2.0, 4)]]
    assert joined(["", " ", ""], pieces, 1, 0.6, "paper").normalized_score == pytest.approx(-3 / 2**0.6)


def test_a_single_piece_has_the_score_of_the_search():
    whole = joined([" ", ""], [[output("A", -1.0, 3)]], 1, 0.6, "paper")
    assert (whole.text, whole.normalized_score, whole.pieces, whole.cut) == (" A", -0.5, 1, False)


def test_no_piece_gives_an_empty_text_as_often_as_asked_for():
    none = joined([""], [], 3, 0.6, "paper")
    assert [(one.text, one.score, one.normalized_score, one.pieces) for one in none.n_best] == [("", 0.0, 0.0, 0)] * 3


def test_the_last_of_a_piece_goes_on():
    assert best_with_best(["ab", "c", "def"], 3) == [["a", "c", "d"], ["b", "c", "e"], ["b", "c", "f"]]

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vanilla_transformer.training.spanning_tree import tree_fault, tree_heads

WORDS = ["a", "dog", "barks", "very", "loudly"]


def all_trees(words: int, one_root: bool) -> np.ndarray:
    """By following every word to ROOT: nothing here is shared with the code under test."""
    trees = []
    for heads in itertools.product(range(words + 1), repeat=words):
        reached = {0}
        for _ in range(words):
            reached |= {number for number, head in enumerate(heads, start=1) if head in reached}
        if len(reached) == words + 1 and (not one_root or heads.count(0) == 1):
            trees.append(heads)
    return np.array(trees)


TREES = {(words, one): all_trees(words, one) for words in range(1, 6) for one in (True, False)}


def test_there_are_as_many_trees_as_cayley_says():
    for words in range(1, 6):
        assert len(TREES[words, True]) == words ** (words - 1)
        assert len(TREES[words, False]) == (words + 1) ** (words - 1)


@pytest.mark.parametrize("one_root", [True, False])
@pytest.mark.parametrize("kind", ["normal", "ties", "forbidden", "root first", "far apart"])
def test_no_tree_has_a_higher_score(kind: str, one_root: bool):
    draw = np.random.default_rng(7)
    for _ in range(60):
        words = int(draw.integers(1, 6))
        scores = draw.normal(size=(words, words + 1))
        if kind == "ties":
            scores = draw.integers(0, 3, size=scores.shape).astype(float)
        elif kind == "forbidden":
            scores[draw.random(scores.shape) < 0.5] = -np.inf
        elif kind == "root first":
            scores[:, 0] += 20
        elif kind == "far apart":
            scores[draw.random(scores.shape) < 0.3] -= 1e9
        trees = TREES[words, one_root]
        rows = np.arange(words)
        of_trees = scores[rows, trees]
        forbidden = np.isneginf(of_trees).sum(axis=1)
        totals = np.where(np.isneginf(of_trees), 0, of_trees).sum(axis=1)
        best = max(zip(-forbidden, totals, strict=True))
        heads = tree_heads(scores, one_root)
        chosen = scores[rows, heads]
        assert heads.tolist() in trees.tolist()
        assert -np.isneginf(chosen).sum() == best[0]
        assert np.where(np.isneginf(chosen), 0, chosen).sum() == pytest.approx(best[1], abs=1e-6)


def test_small_differences_count_beside_the_cost_of_a_second_root():
    # Both words want ROOT by far; which of them gets it is decided by 1e-12.
    for better in (0, 1):
        scores = np.array([[1e3, 0.0, 0.0], [1e3, 0.0, 0.0]])
        scores[better, 2 - better] -= 1e-12
        assert tree_heads(scores)[better] == 0
    assert tree_heads(scores, one_root=False).tolist() == [0, 0]


def test_large_trees_are_trees():
    scores = np.random.default_rng(1).normal(size=(60, 61))
    heads = tree_heads(scores)
    assert tree_fault(heads.tolist(), ["w"] * 60) is None
    assert (heads == tree_heads(scores)).all()
    # A chain in which the best head of each word closes a cycle with the one before: contracted again and again.
    place = np.arange(61)
    chain = -np.abs(place[None] - place[1:, None] - 0.6)
    assert tree_fault(tree_heads(chain).tolist(), ["w"] * 60) is None


def test_none_and_one_word():
    assert tree_heads(np.zeros((0, 1))).shape == (0,)
    assert tree_heads([[-5.0, np.nan]]).tolist() == [0]  # a word's own column is not looked at


@pytest.mark.parametrize(
    "scores, message",
    [
        (np.zeros((2, 2)), r"expected the shape \(W, 1 \+ W\).*found \(2, 2\)"),
        (np.array([[0, 0, np.nan], [0, 0, 0]]), "word 1 with head 2 is nan"),
        (np.array([[0, 0, 0], [np.inf, 0, 0]]), "word 2 with head 0 is inf"),
    ],
)
def test_scores_that_are_none(scores, message):
    with pytest.raises(ValueError, match=message):
        tree_heads(scores)


@pytest.mark.parametrize(
    "heads, fault",
    [
        ([2, 3, 0, 5, 3], None),
        ([2, 3, 0, 0, 4], "2 roots (head 0) instead of one: word 3 'barks', word 4 'very'"),
        (
            [2, 3, 0, 5, 4],
            "a cycle: word 4 'very' -> word 5 'loudly' -> word 4 'very' (each the head of the one before)",
        ),
        ([2, 3, 0, 4, 3], "a cycle: word 4 'very' -> word 4 'very' (each the head of the one before)"),
        ([2, 3, 2, 5, 3], "a cycle: word 2 'dog' -> word 3 'barks' -> word 2 'dog' (each the head of the one before)"),
        ([2, 3, 0, 6, 3], "word 4 'very' has head 6, but heads are 0 (ROOT) to 5"),
        ([2, 3, 0, -1, 3], "word 4 'very' has head -1, but heads are 0 (ROOT) to 5"),
    ],
)
def test_what_is_wrong_with_a_tree(heads, fault):
    assert tree_fault(heads, WORDS) == fault


def test_several_roots_may_be_allowed():
    assert tree_fault([0, 0], ["a", "b"], one_root=False) is None

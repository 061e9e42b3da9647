"""Dependency trees: the best one for given scores (Chu and Liu, 1965; Edmonds, 1967), and what is wrong with one.

A parser scores every word with every possible head. The best head of each word by itself often leaves a cycle, or
several roots. A dependency tree has exactly one root and no cycle, and `tree_heads` finds the one of highest total score.

    scores (W, 1 + W): row i is word i + 1, column j its head: 0 is ROOT, j is word j
    heads  (W,):       the chosen columns

Own code, because the package usually taken (ufal.chu_liu_edmonds) has no wheel for Python 3.13, and does not know the
constraint of one root.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_NEVER = np.iinfo(np.int64).min // 4


def tree_heads(scores: Any, one_root: bool = True) -> np.ndarray:
    """The heads of the tree of highest total score, exactly; ties are broken the same way every time.

    Args:
        scores: (W, 1 + W) log-probabilities or any real numbers (array or tensor on the CPU); larger is better. A word
            is never its own head: the entries (i, i + 1) are not looked at. -inf forbids an arc; where no tree can do
            without one, the tree has as few of them as possible.
        one_root: exactly one word has the head 0 (Universal Dependencies, KLUE); otherwise at least one.

    Returns:
        (W,) int64; of no words, (0,).

    Raises:
        ValueError: another shape; NaN or +inf, with the place.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != values.shape[0] + 1:
        raise ValueError(
            f"scores: expected the shape (W, 1 + W), a column for ROOT and one for each word; found {values.shape}"
        )
    W = len(values)
    score = np.zeros((W + 1, W + 1))
    score[1:] = values
    np.fill_diagonal(score, 0)
    wrong = np.argwhere(np.isnan(score) | np.isposinf(score))
    if len(wrong):
        word, head = wrong[0].tolist()
        raise ValueError(f"scores: word {word} with head {head} is {score[word, head]}; scores must be numbers or -inf")
    # An arc is worth (level, score), compared in this order: what must not be is paid in whole numbers on a level of
    # its own. A large constant taken off the scores instead would cost them their precision.
    level = np.where(np.isneginf(score), -1, 0)
    score[level < 0] = 0
    np.fill_diagonal(level, _NEVER)
    heads = _best_arborescence(level, score)
    if one_root and (heads[1:] == 0).sum() > 1:
        # A second root costs more than all the words' arcs being forbidden ones.
        level[1:, 0] -= W + 1
        heads = _best_arborescence(level, score)
    return heads[1:]


def tree_fault(heads: Sequence[int], words: Sequence[str], one_root: bool = True) -> str | None:
    """What keeps `heads` (one for each word; 0 is ROOT) from being a dependency tree, in words; None if nothing does."""
    for number, head in enumerate(heads, start=1):
        if not 0 <= head <= len(heads):
            return f"{_name(number, words)} has head {head}, but heads are 0 (ROOT) to {len(heads)}"
    roots = [number for number, head in enumerate(heads, start=1) if head == 0]
    if len(roots) > 1 and one_root:
        return f"{len(roots)} roots (head 0) instead of one: {_names(roots, words)}"
    cycle = _cycle(np.array([0, *heads]))
    if cycle:
        chain = " -> ".join(_name(number, words) for number in [*cycle, cycle[0]])
        return f"a cycle: {chain} (each the head of the one before)"
    return None  # without a cycle every word leads to ROOT, so there is a root


def _name(number: int, words: Sequence[str]) -> str:
    return f"word {number} {words[number - 1]!r}"


def _names(numbers: list[int], words: Sequence[str]) -> str:
    shown = ", ".join(_name(number, words) for number in numbers[:5])
    return shown + (", ..." if len(numbers) > 5 else "")


def _best_arborescence(level: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(N,) the best head of every node; node 0 is the root, whose entry means nothing. level, score: (N, N).

    Every node takes its best head. A cycle among them becomes one node, whose arc from outside is worth what it gains
    over the arc of the cycle that it replaces; and so on, until there is none. Then the nodes are opened again. One
    round is O(N^2), and there are at most N.
    """
    contracted: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    while True:
        heads = _best(level, score)
        cycle = _cycle(heads)
        if not cycle:
            break
        outside = np.setdiff1d(np.arange(len(heads)), cycle)
        inside = np.array(cycle)
        # Arcs into the cycle: at which of its nodes (its own arc there goes), for each head outside.
        own = heads[inside]
        gained = (
            level[inside[:, None], outside] - level[inside, own][:, None],
            score[inside[:, None], outside] - score[inside, own][:, None],
        )
        entered = _best(gained[0].T, gained[1].T)
        # Arcs out of the cycle: from which of its nodes, for each dependent outside.
        leaving = level[outside[:, None], inside], score[outside[:, None], inside]
        left = _best(*leaving)
        rows = np.arange(len(outside))
        level, score = (
            np.block(
                [
                    [old[outside[:, None], outside], out[rows, left][:, None]],
                    [into[entered, rows][None], np.full((1, 1), filler)],
                ]
            )
            for old, into, out, filler in ((level, gained[0], leaving[0], _NEVER), (score, gained[1], leaving[1], 0.0))
        )
        contracted.append((outside, inside, heads, entered, left))
    for outside, inside, within, entered, left in reversed(contracted):
        opened = within.copy()  # the nodes of the cycle keep its arcs, but for one
        merged = len(outside)
        for node, head in enumerate(heads[:merged]):
            opened[outside[node]] = inside[left[node]] if head == merged else outside[head]
        entry = heads[merged]
        opened[inside[entered[entry]]] = outside[entry]
        heads = opened
    return heads


def _best(level: np.ndarray, score: np.ndarray) -> np.ndarray:
    """In each row, the first column of the highest score among those of the highest level."""
    return np.where(level == level.max(axis=1, keepdims=True), score, -np.inf).argmax(axis=1)


def _cycle(heads: np.ndarray) -> list[int]:
    """The nodes of one cycle, each followed by its head; [] if every node leads to node 0."""
    seen = np.zeros(len(heads), dtype=np.int64)  # on whose walk
    seen[0] = -1
    following = heads.tolist()
    for start in range(1, len(following)):
        node = start
        while not seen[node]:
            seen[node] = start
            node = following[node]
        if seen[node] == start:
            cycle = [node]
            while following[cycle[-1]] != node:
                cycle.append(following[cycle[-1]])
            return cycle
    return []

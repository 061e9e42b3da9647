"""Corpora mixed: the right shares, every row in every epoch, and row numbers that lead back to the user's files."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from vanilla_transformer.training.encoding import DroppedRows
from vanilla_transformer.training.mixing import join, mix, mixed_rows, repeats, temperature_weights


def test_weights_become_whole_numbers_of_copies_as_small_as_possible():
    assert repeats([1.0]) == [1]
    assert repeats([3.0, 3.0, 3.0]) == [1, 1, 1]
    assert repeats([4.0, 1.0]) == [4, 1]
    assert repeats([1.0, 2.5]) == [2, 5]
    assert repeats([0.5, 0.1]) == [5, 1]
    rng = np.random.default_rng(1)
    drawn = [np.exp(rng.uniform(0, np.log(900), size=rng.integers(2, 9))).tolist() for _ in range(500)]
    for weights in ([1.0, 1.37], [1.0, 2.22, 3.14], [7.0, 1.03, 999.0], [1, 600, 1.5], *drawn):
        found = np.array(repeats(weights))
        assert 1 <= found.min() <= 10
        assert np.abs(found / found.min() / (np.array(weights) / min(weights)) - 1).max() <= 0.05 + 1e-9
    with pytest.raises(ValueError, match="weights 1, 1001: the greatest is more than 1000 times the least"):
        repeats([1, 1001])


def test_temperature_makes_corpora_more_alike():
    sizes = [100, 1_000, 10_000]

    def shares(temperature: float) -> np.ndarray:
        seen = np.array(sizes) * temperature_weights(sizes, temperature)
        return seen / seen.sum()

    assert shares(1) == pytest.approx(np.array(sizes) / sum(sizes))
    expected = np.array(sizes) ** 0.2  # mT5's kind: rows^(1/T)
    assert shares(5) == pytest.approx(expected / expected.sum())
    assert shares(1e9) == pytest.approx([1 / 3] * 3)
    assert min(temperature_weights(sizes, 5)) == 1.0


def test_an_epoch_holds_every_row_as_often_as_its_corpus_says():
    rows = mixed_rows(np.array([0, 0, 1, 1, 1]), [3.0, 1.0])
    assert np.bincount(rows).tolist() == [3, 3, 1, 1, 1]


def corpus(first: int, rows: int, empty: list[int], over_long: list[int] = []) -> tuple[Dataset, DroppedRows]:  # noqa: B006
    kept = [row for row in range(1, rows + 1) if row not in empty + over_long]
    left_out = DroppedRows(
        rows=rows,
        empty=len(empty),
        empty_rows=tuple(empty),
        over_long=len(over_long),
        over_long_rows=tuple(over_long),
        limits=(9, 9),
        kept_rows=np.array(kept),
    )
    return Dataset.from_dict({"input_ids": [[first + row] for row in kept]}), left_out


def test_joined_corpora_count_their_rows_through():
    one = corpus(100, 4, [2])
    assert join([one]) is one
    encoded, dropped = join([one, corpus(200, 5, [1], [5]), corpus(300, 2, [])])
    assert (dropped.rows, dropped.empty, dropped.over_long, dropped.kept) == (11, 2, 1, 8)
    assert (dropped.empty_rows, dropped.over_long_rows) == ((2, 5), (9,))
    assert np.asarray(dropped.kept_rows).tolist() == [1, 3, 4, 6, 7, 8, 10, 11]
    assert encoded["input_ids"] == [[101], [103], [104], [202], [203], [204], [301], [302]]
    assert str(dropped).startswith("kept 8 of 11 rows; dropped 2 empty (rows 2, 5) and 1 longer than 9 source tokens")


def test_mixed_corpora_tell_their_shares_and_their_rows():
    parts = [corpus(100, 3, [2]), corpus(200, 4, [])]
    encoded, dropped = mix(*join(parts), [2, 4], ["in.jsonl", "out.jsonl"], [6.0, 2.0])
    assert [ids for (ids,) in encoded["input_ids"]] == [101] * 3 + [103] * 3 + [201, 202, 203, 204]
    assert np.asarray(dropped.kept_rows).tolist() == [1] * 3 + [3] * 3 + [4, 5, 6, 7]
    assert (dropped.rows, dropped.kept) == (7, 6)
    assert str(dropped) == (
        "kept 6 of 7 rows; dropped 1 empty (row 2); an epoch holds 10 rows: in.jsonl 3 times (60.0 %), out.jsonl once (40.0 %)"
    )

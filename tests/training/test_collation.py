from __future__ import annotations

import numpy as np
import pytest
import torch

from vanilla_transformer.training.collation import PairCollator

ROWS = [{"input_ids": [7, 8, 2], "labels": [9, 2]}, {"input_ids": [5, 2], "labels": [6, 7, 8, 2]}]


def test_a_batch_written_out():
    batch = PairCollator(pad_token_id=0, decoder_start_token_id=1)(ROWS)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_input_ids"}
    assert batch["input_ids"].tolist() == [[7, 8, 2], [5, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[9, 2, -100, -100], [6, 7, 8, 2]]
    # Shifted right by one behind <s> = 1; what was -100 is <pad>, and the last label is never an input.
    assert batch["decoder_input_ids"].tolist() == [[1, 9, 2, 0], [1, 6, 7, 8]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_other_special_ids():
    batch = PairCollator(pad_token_id=3, decoder_start_token_id=4)(ROWS)
    assert batch["input_ids"].tolist() == [[7, 8, 2], [5, 2, 3]]
    assert batch["decoder_input_ids"].tolist() == [[4, 9, 2, 3], [4, 6, 7, 8]]


def test_pad_to_multiple_of():
    batch = PairCollator(0, 1, pad_to_multiple_of=4)(ROWS)
    assert batch["input_ids"].shape == (2, 4)
    assert batch["labels"].shape == (2, 4)  # already a multiple
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_rows_of_arrays_and_tensors_as_a_trainer_gives_them(make):
    rows = [{name: make(ids) for name, ids in row.items()} for row in ROWS]
    batch = PairCollator(0, 1)(rows)
    expected = PairCollator(0, 1)(ROWS)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_mask_and_ignored_labels_in_the_rows_are_kept():
    batch = PairCollator(0, 1)([{"input_ids": [7, 8, 2], "attention_mask": [1, 0, 1], "labels": [-100, 9, 2]}])
    assert batch["attention_mask"].tolist() == [[1, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 9, 2]]
    assert batch["decoder_input_ids"].tolist() == [[1, 0, 9]]


def test_without_labels_there_is_no_decoder_side():
    assert set(PairCollator(0, 1)([{"input_ids": [7, 2]}])) == {"input_ids", "attention_mask"}


def test_the_rows_are_not_changed():
    rows = [{"input_ids": np.array([7, 2]), "labels": np.array([9, 2])}]
    PairCollator(0, 1)(rows)["labels"][0, 0] = 5
    assert rows[0]["labels"].tolist() == [9, 2]

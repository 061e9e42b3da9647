from __future__ import annotations

import torch

from vanilla_transformer.training.labelling import padded, per_cent, texts_of


def test_rows_are_padded_on_the_right():
    assert padded([[1, 2, 3], [], [4]], 9).tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert padded([[1]], 0).dtype == torch.int64 and padded([[], []], 0).shape == (2, 0)


def test_the_mask_is_of_tokens_even_if_one_is_the_pad_token():
    batch = texts_of([{"input_ids": [5, 0, 2]}, {"input_ids": [2]}], 0)
    assert batch["input_ids"].tolist() == [[5, 0, 2], [2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_per_cent():
    assert per_cent({"las": 0.123456, "uas": 1.0}) == {"las": 12.35, "uas": 100.0}

"""Rows of ids -> padded tensors. Shape letters: B batch, S source length, T target length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vanilla_transformer.modeling.loss import IGNORED


@dataclass
class PairCollator:
    """Pads source and target on the right and makes the decoder's input from the labels.

    The decoder's input is the labels shifted right by one, beginning with `decoder_start_token_id`; the model would
    make the same, but trainers that take the labels out of a batch (transformers', for its label smoothing) need it
    there. There is no decoder mask: with targets padded on the right, the look-ahead mask already hides the padding
    from every real position.

    Args:
        pad_token_id: fills `input_ids` and `decoder_input_ids`; labels are filled with -100.
        decoder_start_token_id: first decoder input.
        pad_to_multiple_of: rounds S and T up (8 suits tensor cores).

    Takes a list of rows with `input_ids` and, except for prediction, `labels` (lists, arrays or tensors); an
    `attention_mask` in the rows is kept. Returns `input_ids` (B, S), `attention_mask` (B, S) int64 and, with
    labels, `labels` and `decoder_input_ids` (B, T).
    """

    pad_token_id: int
    decoder_start_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sources = [row["input_ids"] for row in rows]
        masks = [row["attention_mask"] if "attention_mask" in row else np.ones(len(row["input_ids"])) for row in rows]
        batch = {"input_ids": self._pad(sources, self.pad_token_id), "attention_mask": self._pad(masks, 0)}
        if "labels" in rows[0]:
            labels = self._pad([row["labels"] for row in rows], IGNORED)
            batch["decoder_input_ids"] = self._shift_right(labels)
            batch["labels"] = labels
        return batch

    def _pad(self, rows: Sequence[Any], value: int) -> torch.Tensor:
        width = max(len(row) for row in rows)
        if self.pad_to_multiple_of is not None:
            width += -width % self.pad_to_multiple_of
        padded = np.full((len(rows), width), value, dtype=np.int64)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        return torch.from_numpy(padded)

    def _shift_right(self, labels: torch.Tensor) -> torch.Tensor:
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = self.decoder_start_token_id
        return shifted.masked_fill(shifted == IGNORED, self.pad_token_id)

"""What is done with a batch that does not fit into memory: it is known by its error, and cut into halves.

A loss is a sum over rows, divided by a number that the rows do not change. So the gradients of both halves add up to that of the
whole, but for rounding and for the units that are dropped.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch
from accelerate.utils.memory import clear_device_cache

from vanilla_transformer.modeling.loss import IGNORED

Batch = dict[str, torch.Tensor]
"""tensors whose first dimension is the rows, B; padded on the right"""

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS found no room for its own workspace
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the device or of the machine, did not suffice."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in _SIGNS)


def free_memory() -> None:
    """Give back what nobody holds any more. To be called where the error is forgotten: its traceback holds activations."""
    gc.collect()
    clear_device_cache()


@dataclass
class MicroBatch:
    """What goes through the model at once."""

    rows: list[int]
    """of the user's corpus, counted from 1"""
    tensors: Batch

    @property
    def widths(self) -> list[int]:
        """Padded tokens of a row: of the source, and of the target where there is one."""
        names = ("input_ids", "decoder_input_ids")
        return [self.tensors[name].shape[1] for name in names if name in self.tensors]

    @property
    def size(self) -> int:
        """Tokens, padding included: what `max_tokens` bounds."""
        return len(self.rows) * sum(self.widths)

    def halves(self) -> list[MicroBatch]:
        """The upper and the lower rows, without the columns that are padding in all of them. There must be two rows."""
        middle = len(self.rows) // 2
        return [
            MicroBatch(
                self.rows[part], _without_empty_columns({name: tensor[part] for name, tensor in self.tensors.items()})
            )
            for part in (slice(None, middle), slice(middle, None))
        ]

    def __str__(self) -> str:
        return f"{len(self.rows)} row{'s' * (len(self.rows) > 1)} x ({' + '.join(map(str, self.widths))}) tokens"


def _without_empty_columns(batch: Batch) -> Batch:
    """Only where it is known what a column is: sources, and targets or one label for each token."""
    S = _last_used(batch["attention_mask"] != 0)
    widths = {"input_ids": S, "attention_mask": S}
    if "decoder_input_ids" in batch:
        T = _last_used(batch["labels"] != IGNORED)
        widths |= {"decoder_input_ids": T, "labels": T}
    elif "word_positions" not in batch and batch["labels"].shape == batch["input_ids"].shape:
        widths["labels"] = S
    return {name: tensor[:, : widths[name]] if name in widths else tensor for name, tensor in batch.items()}


def _last_used(used: torch.Tensor) -> int:
    """(B, L) -> how many columns there are up to the last that any row uses; at least one."""
    columns = used.any(dim=0).nonzero()
    return int(columns.max()) + 1 if len(columns) else 1

"""Which sentences of a batch are still being written."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Movable(Protocol):
    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        """Rows `from_` move to the places `to`; then only the first `left` are there."""


class RunningSentences:
    """Tensors with a row for each sentence, as attributes. Sentences that are done leave, and the last ones take their rows.

    So what is left always stands together, and only as many rows are copied as leave.

    Args:
        count: sentences.
        others: whatever else has a row for each sentence.
        tensors: by name; None is left out.
    """

    def __init__(self, count: int, others: Sequence[Movable], **tensors: torch.Tensor | None):
        self.numbers = list(range(count))  # which sentence stands in which row
        self._others = others
        self._names = [name for name, tensor in tensors.items() if tensor is not None]
        self.__dict__.update(tensors)

    def leave(self, gone: Sequence[int]) -> None:
        """The sentences in these rows, in ascending order, are done."""
        left = len(self.numbers) - len(gone)
        to = [row for row in gone if row < left]
        from_ = [row for row in range(left, len(self.numbers)) if row not in gone]
        for place, row in zip(to, from_, strict=True):
            self.numbers[place] = self.numbers[row]
        del self.numbers[left:]
        device = getattr(self, self._names[0]).device
        places = torch.tensor(to, dtype=torch.long, device=device), torch.tensor(from_, dtype=torch.long, device=device)
        for name in self._names:
            tensor = getattr(self, name)
            tensor[places[0]] = tensor[places[1]]
            setattr(self, name, tensor[:left])
        for other in self._others:
            other.move(*places, left)

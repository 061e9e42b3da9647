"""Batches on their way into the training loop: examples -> tensors, prepared ahead by a thread, pinned for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from vanilla_transformer.training.checkpoints import Progress
from vanilla_transformer.training.prefetching import Prefetched
from vanilla_transformer.training.streamed_batches import StreamedBatches, StreamedCorpus
from vanilla_transformer.training.task import Corpus
from vanilla_transformer.training.token_batches import TokenBatches

# Batches that wait, prepared. More would only take memory: one is made in a tenth of the time that it is trained on.
_AHEAD = 4


class Feed(Iterator[dict[str, Any]]):
    """An endless sequence of batches as tensors, each with the `rows` that it was made of. Draws no random numbers.

    Args:
        train, batches: a corpus and what its method `batches` gave.
        collator: the task's.
        progress: where the run stands. What is known of a stream is noted there.
        pin: copy to pinned memory, from which a GPU takes batches while it computes.
        tell: prints a line.
    """

    def __init__(
        self,
        train: Corpus | StreamedCorpus,
        batches: TokenBatches | StreamedBatches,
        collator: Callable[[list[dict[str, Any]]], dict[str, Any]],
        progress: Progress,
        pin: bool,
        tell: Callable[[str], None],
    ):
        self.train, self.batches, self.collator = train, batches, collator
        self.progress, self.pin, self.tell = progress, pin, tell
        self.position = progress.batches * progress.processes
        self.place, self.whole_is_told = (-1, False), False
        self._made = Prefetched(self._batches(), _AHEAD)

    def __next__(self) -> dict[str, Any]:
        batch = next(self._made)
        self.position += self.progress.processes
        if isinstance(self.batches, StreamedBatches):
            self._note(self.batches)
        return batch

    def close(self) -> None:
        """No more batches. Of a stream whose first epoch is not over, tells what has become of the rows so far."""
        if isinstance(self.batches, StreamedBatches):
            self.batches.close()
            if not self.whole_is_told:
                self.tell(f"Data, train, {self.batches.told(self.position)}")
        self._made.close()

    def _batches(self) -> Iterator[dict[str, Any]]:
        for named in self.batches:
            examples: list[dict[str, Any]] = self.train.read(named)  # pyright: ignore[reportArgumentType] (names of its own)
            rows = [example.pop("row") for example in examples]
            batch = self.collator(examples)
            if self.pin:
                batch = {name: value.pin_memory() if torch.is_tensor(value) else value for name, value in batch.items()}
            yield batch | {"rows": rows}

    def _note(self, batches: StreamedBatches) -> None:
        whole = batches.epochs(self.position) is not None
        if (place := (batches.begun(self.position), whole)) != self.place:
            self.place = place
            self.progress.stream = batches.state(self.position)
        if whole and not self.whole_is_told:
            self.whole_is_told = True
            self.tell(f"Data, train, {batches.told(self.position)}")

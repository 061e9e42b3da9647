"""The task of labelling texts: any `Labelling`, as the loop takes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, Features, Value
from transformers import PreTrainedModel

from vanilla_transformer.modeling.loss import IGNORED
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.encoding import DroppedRows, first_rows, pair_lengths
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.task import Corpus, Task, length_limits
from vanilla_transformer.training.token_batches import Examples, cut_batches

# Part of the cache name: raise it when the same rows would give other examples than before.
_VERSION = 1


class LabelledTask(Task):
    """Encodes the rows of all parts, and scores what the model says about them.

    For training, empty and over-long rows are left out and counted. Where scores are measured, none is: a long text is read in
    windows, and its loss is that of all of them.

    Args:
        labelling: what is labelled, and how.
        rows: "train", and "validation" and "test" where they are: data sets with the fields that `labelling` knows.
        unknown: by part, the classes that the training part has not, and how often each is there: told in the log.
    """

    def __init__(
        self,
        labelling: Labelling,
        rows: dict[str, Dataset],
        data: DataArguments,
        model: PreTrainedModel,
        run: RunArguments,
        unknown: dict[str, dict[str, int]] | None = None,
    ):
        self.labelling, self.run = labelling, run
        self.best_metric = labelling.best_metric
        self.metrics = (*labelling.metrics, "loss")
        self.told = ("loss", *labelling.metrics)
        self.collator = labelling.collate
        # What the decoder reads is the same text once more.
        self.stacks = 2 if model.config.head_reads == "decoder" else 1
        self.limit = length_limits(data, run, model)[0]
        self.train = self._training_corpus(rows["train"])
        self.validation, self.test = (
            self._scored_corpus(rows[part], (unknown or {}).get(part, {})) if part in rows else None
            for part in ("validation", "test")
        )

    def _training_corpus(self, rows: Dataset) -> Corpus:
        encoded = encode(rows, self.labelling, None)
        lengths = pair_lengths(encoded.select_columns(["input_ids"]))[:, 0]
        empty = np.array([self.labelling.is_empty(row) for row in _rows(rows)])
        over_long = ~empty & (lengths > self.limit)
        kept = np.flatnonzero(~empty & ~over_long)
        dropped = DroppedRows(
            rows=len(rows),
            empty=int(empty.sum()),
            empty_rows=first_rows(empty),
            over_long=int(over_long.sum()),
            over_long_rows=first_rows(over_long),
            limits=(self.limit,),
            kept_rows=kept + 1,
        )
        if not len(kept):
            raise CorpusError(f"no row of the training data is left: {dropped}")
        encoded = encoded if len(kept) == len(rows) else encoded.select(kept)
        return Corpus(Examples(encoded, seed=self.run.seed), self._columns(lengths[kept]), dropped, rows)

    def _scored_corpus(self, rows: Dataset, unknown: dict[str, int]) -> Corpus:
        encoded = encode(rows, self.labelling, self.limit)
        lengths = pair_lengths(encoded.select_columns(["input_ids"]))[:, 0]
        shown = ", ".join(f"{name} ({count})" for name, count in list(unknown.items())[:10])
        notes = (f"classes unknown in training, counted as wrong: {shown}",) if unknown else ()
        dropped = DroppedRows(len(rows), 0, (), 0, (), (self.limit,), np.asarray(encoded["row"]) + 1, notes=notes)
        return Corpus(Examples(encoded), self._columns(lengths), dropped, rows)

    def _columns(self, lengths: np.ndarray) -> np.ndarray:
        return np.repeat(lengths[:, None], self.stacks, axis=1)

    @torch.no_grad()
    def evaluate(
        self, accelerator: Accelerator, model: PreTrainedModel, corpus: Corpus, num_beams: int
    ) -> dict[str, Any]:
        """`loss`, in nats an item (row, token or word), and the scores of the answers, in per cent."""
        total = items = 0.0
        answered: list[tuple[int, Any]] = []
        parts = cut_batches(corpus.lengths, self.run.max_tokens, None)
        for part in parts[accelerator.process_index :: accelerator.num_processes]:
            examples = corpus.examples.__getitems__([(0, int(index)) for index in part])
            batch = {name: tensor.to(accelerator.device) for name, tensor in self.collator(examples).items()}
            output: Any = model(**batch, num_items_in_batch=1)
            total += output.loss.item()
            items += (batch["labels"] != IGNORED).sum().item()
            answered += zip(part.tolist(), self.labelling.answers(output, examples), strict=True)
        shares = gather_object([(total, items, answered)])
        total, items = (math.fsum(column) for column in list(zip(*shares, strict=True))[:2])
        in_order = sorted((pair for share in shares for pair in share[2]), key=lambda pair: pair[0])
        row_of = corpus.examples.encoded["row"]
        answers = merged(((row_of[index], answer) for index, answer in in_order), self.labelling)
        return {"loss": round(total / max(items, 1), 5), **self.labelling.measure(answers, list(_rows(corpus.texts)))}


def encode(rows: Dataset, labelling: Labelling, limit: int | None, has_labels: bool = True) -> Dataset:
    """The examples of all rows, each with the number of its `row`, from 0; see `Labelling.encode`."""
    features = Features({**labelling.features(has_labels), "row": Value("int64")})

    def examples_of(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        found = labelling.encode(list(_as_rows(columns)), limit)
        flat = [{**example, "row": row} for row, examples in zip(indices, found, strict=True) for example in examples]
        return {name: [example[name] for example in flat] for name in features}

    parts = (
        rows._fingerprint,
        labelling.tokenizer.fingerprint,
        type(labelling).__name__,
        labelling.head(),
        limit,
        _VERSION,
    )
    return rows.map(
        examples_of, batched=True, with_indices=True, remove_columns=rows.column_names, features=features, desc="Encoding",
        new_fingerprint=hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest(),
    )  # fmt: skip


def merged(answered: Iterable[tuple[int, Any]], labelling: Labelling) -> list[Any]:
    """An answer for each row, from (row, answer) of each example, in order."""
    return [
        labelling.merged([answer for _, answer in group]) for _, group in groupby(answered, key=lambda pair: pair[0])
    ]


def _rows(data: Dataset) -> Iterator[dict[str, Any]]:
    for columns in data.iter(batch_size=1000):
        yield from _as_rows(columns)  # pyright: ignore[reportArgumentType]


def _as_rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))

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

from vanilla_transformer.tokenization.bpe_dropout import BpeDropout
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.encoding import DroppedRows, first_rows, pair_lengths
from vanilla_transformer.training.evaluation import counted_labels
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.task import Corpus, Task, length_limits
from vanilla_transformer.training.token_batches import Examples, cut_batches

# Part of the cache name: raise it when the same rows would give other examples than before.
_VERSION = 2


class LabelledTask(Task):
    """Encodes the rows of all parts, and scores what the model says about them.

    For training, empty and over-long rows are left out and counted. Where scores are measured, none is: a text longer than the
    model's positions is read in windows, as `predict` reads it, and its loss is that of all of them. With `bpe_dropout`, which is
    for labels of whole texts only, training texts are cut into other pieces each time they are seen.

    Args:
        labelling: what is labelled, and how.
        rows: "train", and "validation" and "test" where they are: data sets with the fields that `labelling` knows.
        unknown: by part, the classes that the training part has not, and how often each is there: told in the log.

    Raises:
        CorpusError: no row of the training part is left, or a row of another one cannot be read in windows.
        ValueError: max_source_length is more than fits.
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
        self.positions = model.config.max_position_embeddings
        self.limit = self._longest_text(data, model)
        self.bpe_dropout = BpeDropout(labelling.tokenizer, data.bpe_dropout) if data.bpe_dropout else None
        self.train = self._training_corpus(rows["train"])
        self.validation, self.test = (
            self._scored_corpus(part, rows[part], (unknown or {}).get(part, {})) if part in rows else None
            for part in ("validation", "test")
        )

    def _longest_text(self, data: DataArguments, model: PreTrainedModel) -> int:
        """The most tokens of a text to train on: what fits into the model, and, as often as it is read, into a batch."""
        if self.stacks == 2:
            return length_limits(data, self.run, model)[0]
        most = min(self.positions, self.run.max_tokens)
        if data.max_source_length is not None and data.max_source_length > most:
            raise ValueError(
                f"max_source_length={data.max_source_length} is more than {most}, the less of max_position_embeddings="
                f"{self.positions} and max_tokens={self.run.max_tokens}; raise these, or lower it"
            )
        return data.max_source_length or most

    def _training_corpus(self, rows: Dataset) -> Corpus:
        encoded = encode(rows, self.labelling, None)
        lengths = pair_lengths(encoded.select_columns(["input_ids"]))[:, 0]
        empty = lengths == 0
        over_long = lengths > self.limit
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
        examples = Examples(encoded, seed=self.run.seed, transform=self._recut if self.bpe_dropout else None)
        return Corpus(examples, self._columns(lengths[kept]), dropped, rows)

    def _recut(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The text, or each of a pair, in other pieces; one that would become too long for the model keeps those it has."""
        assert self.bpe_dropout is not None
        ids = np.asarray(example["input_ids"])
        ends = np.flatnonzero(ids == self.labelling.tokenizer.eos_token_id) + 1
        cut = [piece for text in np.split(ids, ends)[:-1] for piece in self.bpe_dropout.recut(text.tolist(), rng)]
        return example | {"input_ids": cut} if len(cut) <= self.positions else example

    def _scored_corpus(self, part: str, rows: Dataset, unknown: dict[str, int]) -> Corpus:
        try:
            encoded = encode(rows, self.labelling, self.positions)
        except ValueError as error:
            raise CorpusError(f"{part}, {error}") from None
        lengths = pair_lengths(encoded.select_columns(["input_ids"]))[:, 0]
        row_of = np.asarray(encoded["row"])
        windows = np.bincount(row_of)
        shown = ", ".join(f"{name} ({count})" for name, count in list(unknown.items())[:10])
        notes = (f"classes unknown in training, counted as wrong: {shown}",) if unknown else ()
        dropped = DroppedRows(
            rows=len(rows),
            empty=0,
            empty_rows=(),
            over_long=0,
            over_long_rows=(),
            limits=(self.positions,),
            kept_rows=row_of + 1,
            cut=int((windows > 1).sum()),
            pieces=int(windows[windows > 1].sum()),
            notes=notes,
        )
        return Corpus(Examples(encoded), self._columns(lengths), dropped, rows)

    def _columns(self, lengths: np.ndarray) -> np.ndarray:
        return np.repeat(lengths[:, None], self.stacks, axis=1)

    @torch.no_grad()
    def evaluate(
        self, accelerator: Accelerator, model: PreTrainedModel, corpus: Corpus, num_beams: int
    ) -> dict[str, Any]:
        """`loss`, in nats an item (row, token, word; squared units in regression), and the scores of the answers, in per cent."""
        losses: list[float] = []
        items = 0
        answered: list[tuple[int, Any]] = []
        # A window may be longer than what training takes into a batch.
        parts = cut_batches(corpus.lengths, max(self.run.max_tokens, int(corpus.lengths.sum(1).max())), None)
        for part in parts[accelerator.process_index :: accelerator.num_processes]:
            examples = corpus.examples.__getitems__([(0, int(index)) for index in part])
            batch = {name: tensor.to(accelerator.device) for name, tensor in self.collator(examples).items()}
            output: Any = model(**batch, num_items_in_batch=1)
            losses.append(output.loss.item())
            items += counted_labels(batch["labels"])
            answered += zip(part.tolist(), self.labelling.answers(output, examples), strict=True)
        shares = gather_object([(losses, items, answered)])
        loss = math.fsum(loss for share in shares for loss in share[0]) / max(sum(share[1] for share in shares), 1)
        in_order = sorted((pair for share in shares for pair in share[2]), key=lambda pair: pair[0])
        answers = merged(((corpus.row(index), answer) for index, answer in in_order), self.labelling)
        return {"loss": round(loss, 5), **self.labelling.measure(answers, list(rows_of(corpus.texts)))}


def encode(rows: Dataset, labelling: Labelling, limit: int | None) -> Dataset:
    """The examples of all rows, each with the number of its `row`, from 0; see `Labelling.encode`. Without a limit, which is
    for training, a row with nothing to learn from has no `input_ids`.
    """
    features = Features({**labelling.features(has_labels=True), "row": Value("int64")})

    def examples_of(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        given = list(_as_rows(columns))
        found = labelling.encode(given, limit, first_row=indices[0] + 1)
        flat = [{**example, "row": row} for row, examples in zip(indices, found, strict=True) for example in examples]
        if limit is None:
            for row, example in zip(given, flat, strict=True):
                example["input_ids"] = [] if labelling.is_empty(row) else example["input_ids"]
        return {name: [example[name] for example in flat] for name in features}

    kind, fingerprint = type(labelling).__name__, labelling.tokenizer.fingerprint
    parts = (rows._fingerprint, fingerprint, kind, labelling.head(), limit, _VERSION)
    return rows.map(
        examples_of, batched=True, with_indices=True, remove_columns=rows.column_names, features=features, desc="Encoding",
        new_fingerprint=hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest(),
    )  # fmt: skip


def merged(answered: Iterable[tuple[int, Any]], labelling: Labelling) -> list[Any]:
    """An answer for each row, from (row, answer) of each example, in order."""
    return [
        labelling.merged([answer for _, answer in group]) for _, group in groupby(answered, key=lambda pair: pair[0])
    ]


def rows_of(data: Dataset, batch_size: int = 1000) -> Iterator[dict[str, Any]]:
    """One by one, read many at a time."""
    for columns in data.iter(batch_size=batch_size):
        yield from _as_rows(columns)  # pyright: ignore[reportArgumentType]


def _as_rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))

"""Batches of a corpus that is larger than memory: read in pools of so many rows, again in each epoch, and never stored.

    rows of the stream    1 ... 100,000 | 100,001 ... 200,000 | ...       the files' order, the same in every epoch
    a pool                encoded, cut into batches by length, these shuffled with (seed, epoch, pool)
    the sequence          pool 1's batches, pool 2's, ..., then those of the next epoch, endless
    process p of W        numbers p, p + W, p + 2W, ... of it

So rows change places within their pool only: a corpus that is sorted by anything should be shuffled on the disk, once.
While one pool is trained on, a thread reads and encodes the next; two are in memory, and the texts of one small batch.

Every process reads and encodes the whole stream, which needs neither files of equal parts nor messages, and makes W processes
see what one with W accumulated batches sees. It costs each of them the encoding of W times what it trains on.

What a pool holds follows from the stream and the flags alone. How many batches that makes is known once it has been
encoded, and is kept in the checkpoints (`PoolRecord`), so that a resumed run only reads past the pools that are behind it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from datasets.exceptions import DatasetGenerationError

from vanilla_transformer.training.arguments import DataArguments
from vanilla_transformer.training.cached_rows import cannot_load, contents_of
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.encoding import DroppedRows, StreamPart, together
from vanilla_transformer.training.hub_data import contents_of_training_part
from vanilla_transformer.training.prefetching import Prefetched
from vanilla_transformer.training.task import Corpus
from vanilla_transformer.training.token_batches import cut_batches


@dataclass(frozen=True)
class PoolRecord:
    """What is remembered of a pool when its rows are gone."""

    batches: int
    examples: int
    tokens: int
    padded_tokens: int
    dropped: DroppedRows
    """of its rows, numbered from 1 in the pool; which were kept is not remembered"""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, state: dict[str, Any]) -> PoolRecord:
        parts = state["dropped"].items()
        dropped: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in parts}
        return cls(**{**state, "dropped": DroppedRows(**dropped)})


@dataclass(frozen=True)
class Pool:
    """Rows in memory, and their batches in the order in which they are seen."""

    epoch: int
    corpus: Corpus
    batches: list[np.ndarray]
    first_batch: int
    """its number in the whole sequence"""
    first_row: int
    """rows of the stream before it"""


class StreamedCorpus:
    """A corpus that is read while it is trained on.

    Args:
        stream: rows of texts, as from `load_pairs(streaming=True)`; read from its beginning in each epoch.
        contents: what it is made of and what becomes of it, as text: of another the run may not go on with this one's.
        prepare: (part of the stream, examples before it) -> its rows of ids. It is called from a thread of its own.
        pool_rows: rows of the stream in a pool.
    """

    def __init__(self, stream: Any, contents: str, prepare: Callable[[StreamPart, int], Corpus], pool_rows: int):
        self.stream, self.contents, self.prepare, self.pool_rows = stream, contents, prepare, pool_rows
        self.dropped = f"a stream, read in pools of {pool_rows:,} rows; what is left out is told after the first epoch"

    def fingerprint(self) -> str:
        return hashlib.blake2b(self.contents.encode(), digest_size=16).hexdigest()

    def batches(self, max_tokens: int, seed: int, **where: Any) -> StreamedBatches:
        return StreamedBatches(self, max_tokens, seed, **where)

    def read(self, named: tuple[Pool, int]) -> list[dict[str, Any]]:
        """The examples of a batch of `StreamedBatches`, each with its `row` of the stream, counted from 1."""
        pool, number = named
        examples = pool.corpus.read([(pool.epoch, index) for index in pool.batches[number].tolist()])
        return [example | {"row": pool.first_row + example["row"]} for example in examples]

    def rows_from(self, row: int) -> Iterator[dict[str, Any]]:
        """The rows from `row`, counted from 0, to the end of the stream.

        Raises:
            CorpusError: as the stream's reader; or the stream broke off.
        """
        read = row
        try:
            for text in self.stream.skip(row) if row else self.stream:
                yield text
                read += 1
        except (OSError, DatasetGenerationError) as error:
            raise cannot_load(error, f"the stream of training rows broke off after row {read:,}") from None


def refuse_mixtures(data: DataArguments, kinds: int) -> None:
    """CorpusError if training files are to be told apart: a stream is read from the first to the last, as if it were one file.

    kinds: how many languages or directions there are.
    """
    for name in ("train_weights", "sampling_temperature"):
        if getattr(data, name):
            raise CorpusError(f"{name} cannot be had with streaming, which reads one file after the other: leave one of them out")
    if kinds > 1:
        raise CorpusError(
            f"train_languages names {kinds} kinds of training files, and streaming would show one after the other: leave it out"
        )


def contents_of_stream(data: DataArguments, tokenizer: Any, *meaning: Any) -> str:
    """What a stream of the training part is made of, and what becomes of it. CorpusError if a file cannot be read."""
    ids = getattr(tokenizer, "fingerprint", None) or tokenizer.backend_tokenizer.to_str()
    name = data.dataset_name
    contents = contents_of(data.train_file) if name is None else contents_of_training_part(name, data.dataset_config)
    return repr((contents, ids, *meaning))


class StreamedBatches:
    """An endless sequence of `(pool, number of a batch in it)`, of which each process gets its share.

    The first pool is read at once, the others when they are due; `close()` ends that.

    Args:
        max_tokens, seed, process_index, num_processes, start: as of `TokenBatches`.
        known: what `state` gave for the same position; without it all rows before are encoded again to find it.

    Raises:
        CorpusError: in `__init__` or later, as the stream's reader; or nothing is left of the whole stream; or it has other rows
            than before.
    """

    def __init__(
        self,
        corpus: StreamedCorpus,
        max_tokens: int,
        seed: int,
        *,
        process_index: int = 0,
        num_processes: int = 1,
        start: int = 0,
        known: dict[str, Any] | None = None,
    ) -> None:
        self.corpus, self.max_tokens, self.seed = corpus, max_tokens, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.position = start * num_processes
        key = f"{corpus.contents} {corpus.pool_rows} {max_tokens}"
        self._key = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        known = known if known and known["key"] == self._key else {"pools": [], "whole": False}
        self.pools = [PoolRecord.of_json(record) for record in known["pools"]]
        """of the pools of an epoch, those that have been read"""
        self.whole: bool = known["whole"]
        """whether these are all"""
        self._closed = threading.Event()
        self._reader = Prefetched(self._read(), 1)
        try:
            self._first = next(self._reader)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[Pool, int]]:
        number = self.position + self.process_index
        for pool in chain([self._first], self._reader):
            while number < pool.first_batch + len(pool.batches):
                yield pool, number - pool.first_batch
                number += self.num_processes

    def close(self) -> None:
        """No more rows are read, and whoever waits for a batch is told that there are no more."""
        self._closed.set()
        self._reader.close()

    # ------------------------------------------------- where a run stands: the same whatever has been read ahead

    def epochs(self, position: int) -> float | None:
        """Epochs behind the first `position` batches of all processes; None as long as the length of one is not known."""
        total = self._batches_in_epoch(position)
        return None if total is None else position / total

    def announced(self) -> tuple[int, str]:
        """(batches, what they are), for the log: of an epoch, of which the length is not known before its end, the pools that
        have been read.
        """
        pools = list(self.pools)
        rows = sum(pool.dropped.rows for pool in pools)
        return sum(pool.batches for pool in pools), "An epoch" if self.whole else f"The first {rows:,} rows"

    def padding_share(self) -> float:
        """Of the pools that have been read."""
        return 1 - sum(pool.tokens for pool in self.pools) / max(1, sum(pool.padded_tokens for pool in self.pools))

    def begun(self, position: int) -> int:
        """How many pools of an epoch the first `position` batches have begun, up to all of them."""
        before = np.cumsum([0, *(pool.batches for pool in self.pools[:-1])])
        return int(np.searchsorted(before, position, side="left"))

    def state(self, position: int) -> dict[str, Any]:
        """What a run that resumes at `position` should be given as `known`."""
        pools = self.pools[: self.begun(position)]
        whole = self._batches_in_epoch(position) is not None
        return {"key": self._key, "pools": [pool.as_json() for pool in pools], "whole": whole}

    def told(self, position: int) -> str:
        """What has become of the rows, for the log."""
        pools = self.pools[: self.begun(position)]
        examples, batches = (sum(getattr(pool, name) for pool in pools) for name in ("examples", "batches"))
        of = "the whole stream" if self._batches_in_epoch(position) is not None else "of the stream so far"
        dropped = together([pool.dropped for pool in pools])
        return f"{of}: {dropped}; {examples:,} examples in {batches:,} batches, {100 * self.padding_share():.1f} % padding"

    def _batches_in_epoch(self, position: int) -> int | None:
        total = sum(pool.batches for pool in self.pools)
        # The batch behind an epoch's last one is made after its end was found; the last one itself perhaps before.
        return total if self.whole and position > total else None

    # --------------------------------------------------------------------------------- in the thread that reads

    def _read(self) -> Iterator[Pool]:
        epoch = passed = 0
        if self.whole:
            total = sum(pool.batches for pool in self.pools)
            epoch = self.position // total
            passed = epoch * total
        while True:
            yield from self._read_epoch(epoch, passed)
            self.whole = True
            total = sum(pool.batches for pool in self.pools)
            if not total:
                raise CorpusError(f"no row of the corpus is left: {together([pool.dropped for pool in self.pools])}")
            epoch, passed = epoch + 1, passed + total

    def _read_epoch(self, epoch: int, passed: int) -> Iterator[Pool]:
        """The pools that hold a batch from `self.position` on. passed: batches of the epochs before."""
        number = row = example = 0
        for record in self.pools:
            if passed + record.batches > self.position:
                break
            number, row, example, passed = _behind(record, number, row, example, passed)
        rows = self._until_closed(self.corpus.rows_from(row))
        for first in rows:
            part = StreamPart(chain([first], rows), self.corpus.pool_rows)
            corpus = self.corpus.prepare(part, example)
            batches = self._cut(corpus, (self.seed, epoch, number))
            record = _record(corpus, batches)
            if number == len(self.pools) and not self.whole:
                self.pools.append(record)
            elif number == len(self.pools) or self.pools[number] != record:
                raise CorpusError(
                    f"the stream gave other rows than before, from row {row + 1:,} on: a corpus must stay as it is while a run "
                    f"reads it; begin the run again"
                )
            if passed + len(batches) > self.position:
                yield Pool(epoch, corpus, batches, passed, row)
            number, row, example, passed = _behind(record, number, row, example, passed)
        if self.whole and number < len(self.pools):
            raise CorpusError(f"the stream ended after row {row:,}, earlier than before: begin the run again")

    def _cut(self, corpus: Corpus, seed: Sequence[int]) -> list[np.ndarray]:
        return cut_batches(corpus.lengths, self.max_tokens, np.random.default_rng(seed)) if len(corpus.lengths) else []

    def _until_closed(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if self._closed.is_set():
                raise InterruptedError("no more rows are wanted")
            yield row


def _record(corpus: Corpus, batches: list[np.ndarray]) -> PoolRecord:
    return PoolRecord(
        batches=len(batches),
        examples=len(corpus.lengths),
        tokens=int(corpus.lengths.sum()),
        padded_tokens=sum(len(batch) * int(corpus.lengths[batch].max(axis=0).sum()) for batch in batches),
        dropped=replace(corpus.dropped, kept_rows=(), notes=()),
    )


def _behind(record: PoolRecord, number: int, row: int, example: int, passed: int) -> tuple[int, int, int, int]:
    """The place behind a pool: pools, rows and examples before it in the epoch, batches in all."""
    return number + 1, row + record.dropped.rows, example + record.examples, passed + record.batches

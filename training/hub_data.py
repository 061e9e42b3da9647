"""Data sets of the Hub, or folders that look like one: a part of it as rows or as a stream, and what it is made of.

    pairs = load_part(None, "owner/name", None, "train", streaming=True, convert=texts_of_pairs)

Nearly all of it is `datasets`' own work. Here is what a run of days needs beside it: one line for whatever the network does,
and no copy of a training part that is streamed because it is larger than the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
from datasets import Dataset, IterableDataset, load_dataset_builder
from datasets import config as settings
from huggingface_hub import HfFileSystem

from vanilla_transformer.training.cached_rows import FAILURES, at_revision, cannot_load, hub_contents, load_hub
from vanilla_transformer.training.corpus_files import CorpusError

STREAMS = 4, 8  # the first version of `datasets` that streams the rows of one file after the other, and tries again


def streams() -> bool:
    """Whether the `datasets` that is installed can be relied on to stream from the Hub."""
    return tuple(map(int, datasets.__version__.split(".")[:2])) >= STREAMS


class HubStream:
    """Rows that are read over the network while they are iterated, one file after the other, and stored nowhere.

    Raises:
        CorpusError: while iterated: with data set and row, why it broke off. `datasets` tries again for minutes before that.
    """

    def __init__(self, rows: IterableDataset, what: str, first: int = 0):
        self.rows, self.what, self.first = rows, what, first

    def skip(self, count: int) -> HubStream:
        """Without the first rows, which are fetched all the same: what a file holds is not known before."""
        return HubStream(self.rows.skip(count), self.what, self.first + count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        read = self.first
        try:
            for row in self.rows:
                yield row
                read += 1
        except FAILURES as error:
            broken = cannot_load(error, f"{self.what}: broke off after row {read:,}")
            raise CorpusError(f"{broken}; a run that has a checkpoint goes on with --resume") from None


def load_part(
    files: Sequence[str] | None,
    name: str,
    config: str | None,
    split: str,
    streaming: bool,
    convert: Callable[[Any], Any],
) -> Any:
    """A part of a data set, its rows as `convert` makes them: a `Dataset`, or, with streaming, a `HubStream`.

    To give one part, `datasets` fetches and stores them all. So the others than the training part, where they are not stored
    yet, are streamed too, and kept in memory: beside a training part that is streamed they are all that there is room for.

    Raises:
        CorpusError: it cannot be had, is empty, or files are given too; or as `convert`. `datasets` is too old to stream.
    """
    what = f"data set {name!r}, configuration {config!r}, split {split!r}"
    can_stream = os.path.isdir(name) or streams()
    if streaming and not can_stream:
        raise CorpusError(
            f"data set {name!r}: datasets {datasets.__version__} does not stream it reliably; "
            f"pip install 'datasets>={STREAMS[0]}.{STREAMS[1]}', or leave --streaming out"
        )
    try:
        alone = not streaming and can_stream and not files and split != "train" and not _is_stored(name, config)
        rows = convert(load_hub(files, name, config, split, streaming or alone))
    except CorpusError:
        raise
    except (ValueError, *FAILURES) as error:
        raise cannot_load(error, what) from None
    if streaming:
        return HubStream(rows, what)
    if not alone:
        return rows
    if not (read := list(HubStream(rows, what))):
        raise CorpusError(f"{what}: the corpus is empty (no rows)")
    return Dataset.from_list(read, features=rows.features)


def contents_of_training_part(name: str, config: str | None) -> tuple[str, ...]:
    """As `hub_contents`, but of a file on the Hub the digest that Git keeps of what is in it, which is there without fetching it.
    Its address would change with every commit, also with one of the README alone.

    Raises:
        CorpusError: it cannot be had.
    """
    try:
        files = hub_contents(name, config, "train")
        hub = HfFileSystem(endpoint=settings.HF_ENDPOINT)
        return tuple(_digest(hub.info(file)) if file.startswith("hf://") else file for file in files)
    except FAILURES as error:
        raise cannot_load(error, f"data set {name!r}, configuration {config!r}") from None


def _digest(info: dict[str, Any]) -> str:
    return info.get("blob_id") or info["xet_hash"]  # buckets are not kept by Git


def _is_stored(name: str, config: str | None) -> bool:
    path, revision = at_revision(name)
    folder = load_dataset_builder(path, config, revision=revision).cache_dir
    return os.path.isfile(os.path.join(folder, settings.DATASET_INFO_FILENAME))

"""Rows that a generator reads from files -> a memory-mapped `datasets.Dataset`; data sets of the Hub.

Arrow files go to the ordinary `datasets` cache (HF_DATASETS_CACHE), under a name that contains the hash of the
files' contents: several processes share them, and a changed file is read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datasets import Dataset, Features, IterableDataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.utils import HfHubHTTPError

from vanilla_transformer.training.corpus_files import CorpusError, split_pair, unreadable

# Part of every cache name: raise it when the same files would give other rows than before.
_READER_VERSION = 1

# What reading over the network raises. The bases of the Hub's own error are HTTPError of httpx or httpx2, whichever
# huggingface_hub stands on, and OSError.
FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, DatasetGenerationError)  # type: ignore[assignment]


def file_list(files: Sequence[str] | None) -> tuple[str, ...]:
    """The files as a tuple of strings, also of a single one. CorpusError if there are none."""
    names = (files,) if isinstance(files, (str, os.PathLike)) else tuple(files or ())
    if not names:
        raise CorpusError("no data files given")
    return tuple(os.fspath(name) for name in names)


def cached_dataset(
    generate: Callable[..., Iterator[dict[str, Any]]],
    arguments: dict[str, Any],
    features: Features,
    streaming: bool = False,
) -> Any:
    """The rows of `generate(**arguments, contents=, version=)`, from the cache if the same were read before.

    `arguments["files"]` are the files whose contents matter. What the generator raises (CorpusError, OSError) comes
    through as it is.
    """
    if streaming:
        return IterableDataset.from_generator(generate, features=features, gen_kwargs=arguments)
    # `datasets` names its cache after the arguments of the generator, so the contents must be among them.
    # Modification times would be cheaper, but a file restored or rewritten within the clock's grain would be
    # answered from the old cache.
    cached = arguments | {"contents": contents_of(arguments["files"]), "version": _READER_VERSION}
    try:
        return Dataset.from_generator(generate, features=features, gen_kwargs=cached)
    except DatasetGenerationError as error:
        # `datasets` wraps whatever the generator raises; its own text says nothing.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (CorpusError, OSError)):
            cause = cause.__cause__
        raise cause or error from None


def load_hub(files: Sequence[str] | None, name: str, config: str | None, split: str, streaming: bool = False) -> Any:
    """A data set of the Hub (`at_revision`), or a folder. CorpusError if it cannot be had, is empty, or files are given too."""
    if files:
        raise CorpusError(f"give either data files or the data set {name!r}, not both")
    try:
        path, revision = at_revision(name)
        data = load_dataset(path, config, revision=revision, split=split, streaming=streaming)
    except (ValueError, *FAILURES) as error:
        raise cannot_load(error, f"data set {name!r}, configuration {config!r}, split {split!r}") from None
    if isinstance(data, Dataset) and not len(data):
        raise CorpusError(f"data set {name!r}, split {split!r}: the corpus is empty (no rows)")
    return data


def at_revision(name: str) -> tuple[str, str | None]:
    """"owner/name" or "owner/name@REVISION" (a branch, tag or commit) apart, as `datasets` takes them; a folder whole."""
    if os.path.exists(name):
        return name, None
    path, _, revision = name.partition("@")
    return path, revision or None


def contents_of(files: Sequence[str]) -> tuple[str, ...]:
    """A hash of the contents of each file. CorpusError if one cannot be read."""
    return tuple(_content_hash(path) for entry in files for path in split_pair(entry) or (entry,))


def hub_contents(name: str, config: str | None, split: str) -> tuple[str, ...]:
    """What a part of a data set is made of: the contents of files that are here, the addresses of others, which on the Hub
    contain the revision. CorpusError if it cannot be had.
    """
    path, revision = at_revision(name)
    try:
        files = (load_dataset_builder(path, config, revision=revision).config.data_files or {}).get(split, [])
    except (ValueError, *FAILURES) as error:
        raise cannot_load(error, f"data set {name!r}, configuration {config!r}") from None
    found = tuple(_content_hash(file) if os.path.isfile(file) else str(file) for file in files)
    return (path, str(config), split, *found)


def cannot_load(error: Exception, what: str) -> CorpusError:
    """The error for an unknown name, configuration or split, no network, or files that cannot be read."""
    reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return CorpusError(f"{what}: {reason}")


def describe(value: Any) -> str:
    """A value of the wrong kind, for a message."""
    return "missing (null)" if value is None else f"{type(value).__name__} {value!r}"


def _content_hash(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise unreadable(path, error) from None

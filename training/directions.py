"""From which language into which: of each file of a translation run."""

from __future__ import annotations

from dataclasses import dataclass

from vanilla_transformer.training.arguments import DataArguments
from vanilla_transformer.training.corpus_files import CorpusError


@dataclass(frozen=True)
class Direction:
    """`str()` is as flags and scores name it, "en-de"."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    @classmethod
    def parse(cls, name: str, flag: str) -> Direction:
        """From "en-de". CorpusError, with the flag, if it is no such name."""
        parts = name.split("-")
        if len(parts) != 2 or not all(parts):
            raise CorpusError(
                f"{flag}: {name!r} names no direction; write SOURCE-TARGET, for example en-de, with the languages' names in the "
                f"data (one that has a hyphen itself must be renamed there, zh-Hant to zh_Hant)"
            )
        return cls(*parts)


def directions_of(data: DataArguments, part: str) -> list[Direction]:
    """The direction of each file of a part ("train", "validation", "test"), in their order; of a data set of the Hub, one.

    That is what --train-languages, --validation-languages and --test-languages say of their files. Files of which they say
    nothing are all in --source-lang and --target-lang; or, where these are not given, in the directions of the training
    files, if there are as many.

    Raises:
        CorpusError: a name is none, or there are not as many as files, or nothing says which languages they are.
    """
    files = getattr(data, f"{part}_file")
    named = getattr(data, f"{part}_languages", [])
    if not named and (data.source_lang is None or data.target_lang is None):
        if not data.train_languages:
            raise CorpusError(
                "give --source-lang and --target-lang, as the data name the languages, e.g. en and de"
                " (or --train-languages en-de ko-en, one for each training file)"
            )
        if len(files) != len(data.train_languages):
            raise CorpusError(
                f"{part}_file: {len(files)} files, where the training files are {len(data.train_languages)}; say what they hold: "
                f"--{part}-languages, one for each, or --source-lang and --target-lang for all"
            )
        named = data.train_languages
    if not named:
        assert data.source_lang is not None and data.target_lang is not None
        return [Direction(data.source_lang, data.target_lang)] * max(1, len(files))
    if len(named) != len(files):
        raise CorpusError(f"{part}_languages names {len(named)}, but there are {len(files)} {part} files: one for each")
    return [Direction.parse(name, f"{part}_languages") for name in named]

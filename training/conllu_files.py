r"""CoNLL-U files (https://universaldependencies.org/format.html): sentences in, sentences with new trees out.

A sentence is kept as its own lines of text, so that what a parser knows nothing of comes out as it went in: comments,
lemmas, features, multi-word tokens (1-2), empty nodes (8.1), the enhanced graph. Only the columns HEAD and DEPREL are
replaced. Only words with whole numbers are words of the tree.

    for number, block in read_blocks("test.conllu"):                 # line of the first word, the sentence's text
        words = parse_block(block, f"test.conllu:{number}")          # tokens, upos, head, deprel
    write_conllu(file, [with_tree(block, heads, deprels)])   # or block_of(tokens, ...) for other rows
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from vanilla_transformer.training.corpus_files import CorpusError, read_lines

COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_HEAD, _DEPREL = COLUMNS.index("HEAD"), COLUMNS.index("DEPREL")


@dataclass(frozen=True)
class Words:
    """The words of a sentence. A column that is `_` throughout is None."""

    tokens: list[str]
    upos: list[str] | None
    head: list[int] | None
    """1-based, 0 is ROOT"""
    deprel: list[str] | None


def read_blocks(path: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, lines joined by "\n") of each sentence; also of a `.conllu.gz` file."""
    block: list[str] = []
    start = 1
    for number, line in read_lines(path):
        if not line.strip():
            if block:
                yield start, "\n".join(block)
            block = []
        else:
            start = start if block else number
            block.append(line)
    if block:
        yield start, "\n".join(block)


def parse_block(block: str, place: str) -> Words:
    """The words of a sentence.

    Raises:
        CorpusError: with `place` and the line within the sentence: not 10 columns, words not numbered 1, 2, ..., a HEAD
            that is no number, no words at all, a column that only some words have.
    """
    rows: list[list[str]] = []
    for number, line in enumerate(block.split("\n"), start=1):
        if line.startswith("#"):
            continue
        columns = line.split("\t")
        where = f"{place}, line {number} of the sentence"
        if len(columns) != len(COLUMNS):
            raise CorpusError(f"{where}: {len(columns)} columns instead of 10 with a tab between them: {line[:60]!r}")
        if not _is_word(columns[0], where):
            continue
        if columns[0] != str(len(rows) + 1):
            raise CorpusError(
                f"{where}: word {columns[0]} where word {len(rows) + 1} is due; number the words 1, 2, ..."
            )
        if not columns[_HEAD].isascii() or not (columns[_HEAD].isdecimal() or columns[_HEAD] == "_"):
            raise CorpusError(f"{where}: HEAD {columns[_HEAD]!r} is not the number of a word, nor 0, nor `_`")
        rows.append(columns)
    if not rows:
        raise CorpusError(f"{place}: a sentence without words; take it out")
    head = _column(rows, _HEAD, place)
    return Words(
        [row[1] for row in rows],
        _column(rows, COLUMNS.index("UPOS"), place, all_or_none=False),
        None if head is None else [int(value) for value in head],
        _column(rows, _DEPREL, place),
    )


def with_tree(block: str, heads: Sequence[int], deprels: Sequence[str]) -> str:
    """The same sentence with another tree. ValueError if it has not as many words."""
    lines = block.split("\n")
    rows = [n for n, line in enumerate(lines) if not line.startswith("#") and _is_word(line.split("\t")[0], "")]
    if not len(rows) == len(heads) == len(deprels):
        raise ValueError(
            f"{len(rows)} words, but {len(heads)} heads and {len(deprels)} deprels: one of each for every word"
        )
    for n, head, deprel in zip(rows, heads, deprels, strict=True):
        columns = lines[n].split("\t")
        columns[_HEAD], columns[_DEPREL] = str(int(head)), deprel
        lines[n] = "\t".join(columns)
    return "\n".join(lines)


def block_of(
    tokens: Sequence[str],
    heads: Sequence[int] | None = None,
    deprels: Sequence[str] | None = None,
    upos: Sequence[str] | None = None,
    comments: Sequence[str] = (),
) -> str:
    """A sentence that did not come from CoNLL-U; `_` in every column that is not given.

    Raises:
        ValueError: columns of different length; a token that is empty or holds a tab or the end of a line.
    """
    given = {"heads": heads, "deprels": deprels, "upos": upos}
    for name, column in given.items():
        if column is not None and len(column) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens, but {len(column)} {name}: one for every token")
    lines = [f"# {comment}" for comment in comments]
    for i, token in enumerate(tokens):
        if not token or any(end in token for end in "\t\n\r"):
            raise ValueError(
                f"token {i + 1} {token!r}: a word of CoNLL-U is not empty and holds no tab and no line end"
            )
        columns = [str(i + 1), token, *"_" * 8]
        for name, column in (("UPOS", upos), ("HEAD", heads), ("DEPREL", deprels)):
            if column is not None:
                columns[COLUMNS.index(name)] = str(column[i])
        lines.append("\t".join(columns))
    return "\n".join(lines)


def write_conllu(file: TextIO, blocks: Iterable[str]) -> int:
    """Write sentences, each with the empty line that ends it; how many. The file is open, in UTF-8 with newline="\n"."""
    count = 0
    for block in blocks:
        file.write(f"{block}\n\n")
        count += 1
    return count


def _is_word(identity: str, where: str) -> bool:
    """Whether a line is a word of the tree, not a multi-word token (1-2) or an empty node (8.1)."""
    if identity.isascii() and identity.isdecimal():
        return True
    parts = identity.replace(".", "-").split("-")
    if len(parts) == 2 and all(part.isascii() and part.isdecimal() for part in parts):
        return False
    raise CorpusError(f"{where}: ID {identity!r} is neither a number nor a range (1-2) nor an empty node (8.1)")


def _column(rows: list[list[str]], index: int, place: str, all_or_none: bool = True) -> list[str] | None:
    values = [row[index] for row in rows]
    missing = [number for number, value in enumerate(values, start=1) if value == "_"]
    if len(missing) == len(values):
        return None
    if missing and all_or_none:
        raise CorpusError(
            f"{place}: word {missing[0]} {rows[missing[0] - 1][1]!r} has no {COLUMNS[index]}, but others have"
        )
    return values

"""The data of docs/reproduction.md, made from the public sets that $VANILLA_TRANSFORMER_DATA names.

    python benchmarks/reproduction_data.py runs/reproduction/data

writes, for each of two pairs of languages,

    en-de/text.txt, ko-en/text.txt     raw text for pretraining, one paragraph or sentence a line, in a fixed random order
    en-de/held_out.txt, ...            500 of the lines, left out of text.txt: what pretraining is judged by

and multi30k_2000.jsonl, the first 2,000 pairs of Multi30k. Raw text comes from train parts alone, without their labels; of
parallel corpora each side stands by itself, in random order, so that nothing tells which line translates which. A line that also
stands in a validation or test part of any of these sets, blanks aside, is left out.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# Each: file below the data folder, and the fields of a row that hold text (a list of words is joined by `joint`).
ENGLISH_AND_GERMAN = [
    ("raw_text/en", ["text"]),
    ("raw_text/de", ["text"]),
    ("multi30k/en-de/train", ["translation.en", "translation.de"]),
    ("text_classification/sst2/train", ["text"]),
    ("text_classification/trec/train", ["text"]),
    ("text_classification/ag_news_7600/train", ["text"]),
    ("token_classification/snips/train", ["tokens"]),
    ("token_classification/wnut17/train", ["tokens"]),
    ("token_classification/wikigold/train", ["tokens"]),
    ("ud/english_ewt/train", ["tokens"]),
    ("dialogue/xdailydialog_en/train", ["dialog"]),
    ("dialogue/schema_guided/train", ["dialog"]),
]
KOREAN_AND_ENGLISH = [
    ("raw_text/ko", ["text"]),
    ("raw_text/en", ["text"]),
    ("ko-en/bible/train", ["translation.ko"]),
    ("ko-en/libreoffice_help/train", ["translation.ko", "translation.en"]),
    ("text_classification/nsmc_raw/train", ["text"]),
    ("text_classification/korsts/train", ["sentence1", "sentence2"]),
    ("text_classification/klue_nli_dev/train", ["premise"]),
    ("token_classification/klue_ner_dev/train", ["characters"]),
    ("ud/korean_gsd/train", ["tokens"]),
    ("ud/korean_kaist/train", ["tokens"]),
    ("klue_dp_dev/train", ["tokens"]),
    ("dialogue/korean_chatbot/train", ["dialog"]),
]
HELD_OUT = 500


def rows(file: Path) -> Iterator[dict]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def texts_of(row: dict, field: str) -> list[str]:
    if field == "characters":
        return ["".join(row["tokens"])]
    if field == "tokens":
        return [" ".join(row["tokens"])]
    if field == "dialog":
        return row["dialog"]
    value = row
    for name in field.split("."):
        value = value[name]
    return [str(value)]


def lines_of(file: Path, fields: list[str]) -> Iterator[str]:
    """The texts of a file, each on one line, field by field."""
    for field in fields:
        for row in rows(file):
            yield from (" ".join(text.split()) for text in texts_of(row, field))


def judged(data: Path, sources: list[tuple[str, list[str]]]) -> set[str]:
    """The lines of the validation and test parts of the sets of which the train part is among the sources."""
    folders = [(data / name.removesuffix("/train"), fields) for name, fields in sources if name.endswith("/train")]
    return {
        line
        for folder, fields in folders
        for pattern in ("validation*.jsonl.gz", "test*.jsonl.gz")
        for file in folder.glob(pattern)
        for line in lines_of(file, fields)
    }


def raw_text(data: Path, sources: list[tuple[str, list[str]]], left_out: set[str]) -> tuple[list[str], int]:
    """Every different line once, in an order that depends on nothing but the data; and how many are missing as `left_out`."""
    lines = dict.fromkeys(
        line for name, fields in sources for line in lines_of(data / f"{name}.jsonl.gz", fields) if line
    )
    kept = [line for line in lines if line not in left_out]
    random.Random(0).shuffle(kept)
    return kept, len(lines) - len(kept)


def main(folder: str) -> None:
    data = Path(os.environ.get("VANILLA_TRANSFORMER_DATA", "../shared/data"))
    tests = judged(data, ENGLISH_AND_GERMAN + KOREAN_AND_ENGLISH)
    for name, sources in {"en-de": ENGLISH_AND_GERMAN, "ko-en": KOREAN_AND_ENGLISH}.items():
        lines, left_out = raw_text(data, sources, tests)
        target = Path(folder, name)
        target.mkdir(parents=True, exist_ok=True)
        for part, kept in {"held_out": lines[:HELD_OUT], "text": lines[HELD_OUT:]}.items():
            (target / f"{part}.txt").write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        size = f"{len(lines):,} lines, {sum(map(len, lines)):,} characters"
        print(f"{target}: {size}; {left_out:,} other lines left out, as they stand in a validation or test part")
    pairs = islice(rows(data / "multi30k/en-de/train.jsonl.gz"), 2000)
    small = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    Path(folder, "multi30k_2000.jsonl").write_text(small, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

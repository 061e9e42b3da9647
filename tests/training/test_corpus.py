from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset

from vanilla_transformer.tokenization import VanillaTransformerTokenizer
from vanilla_transformer.training import encoding
from vanilla_transformer.training.corpus import (
    CorpusError,
    encode_pairs,
    encode_texts,
    iterate_texts,
    load_pairs,
    load_texts,
    pair_lengths,
)
from vanilla_transformer.training.encoding import StreamPart

PAIRS = [("A dog.", "Ein Hund."), ("Two cats,\u2028here", "Zwei Katzen, „hier“"), ('Say "yes"', "안녕 😀")]
SOURCES, TARGETS = [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]


def write_pairs(folder, name: str) -> str:
    """PAIRS in the format that `name` says; returns what a user would write after --train-file."""
    path = folder / name
    rows = [{"id": i, "translation": {"en": en, "de": de}} for i, (en, de) in enumerate(PAIRS)]
    if name == "columns.csv":
        with path.open("w", newline="") as file:
            file.write("id,en,de\r\n")
            for i, pair in enumerate(PAIRS):
                file.write(",".join([str(i), *('"' + text.replace('"', '""') + '"' for text in pair)]) + "\r\n")
    elif name == "sides.jsonl":
        lines = [json.dumps({"source": en, "target": de}) for en, de in PAIRS]
        path.write_text("\n".join(lines) + "\n\n")  # a blank line is no row
    elif name == "array.json":
        path.write_text(json.dumps(rows, indent=1))
    elif name == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "plain":
        (folder / "t.en").write_bytes("\r\n".join(SOURCES).encode())  # Windows ends, none behind the last line
        (folder / "t.de.gz").write_bytes(gzip.compress(("\n".join(TARGETS) + "\n").encode("utf-8-sig")))
        return f"{folder}/t.en,{folder}/t.de.gz"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return str(path)


FORMATS = [
    "t.jsonl",
    "t.jsonl.gz",
    "lines.json",
    "array.json",
    "sides.jsonl",
    "columns.csv",
    "rows.parquet",
    "plain",
]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("streaming", [False, True])
def test_every_format_gives_the_same_pairs(tmp_path, name, streaming):
    pairs = load_pairs([write_pairs(tmp_path, name)], "en", "de", streaming=streaming)
    assert isinstance(pairs, IterableDataset if streaming else Dataset)
    assert list(pairs) == [{"source": en, "target": de} for en, de in PAIRS]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_texts(tmp_path, name):
    entry = write_pairs(tmp_path, name)
    fields = ["en", "de"] if name == "columns.csv" else []
    texts = list(iterate_texts([entry], fields=fields))
    assert sorted(texts) == sorted(SOURCES + TARGETS)
    assert load_texts([entry], fields=fields)["text"][:] == texts
    assert [row["text"] for row in load_texts([entry], fields=fields, streaming=True)] == texts


def test_several_files_in_order_and_either_direction(tmp_path):
    entries = [write_pairs(tmp_path, name) for name in ("rows.parquet", "plain", "t.jsonl.gz")]
    pairs = load_pairs(entries, "de", "en")  # the plain pair is ordered by its suffixes
    assert pairs["source"][:] == TARGETS * 3
    assert pairs["target"][:] == SOURCES * 3


def test_a_plain_pair_with_other_suffixes_is_source_then_target(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_text("eins\n")
    assert list(load_pairs([f"{tmp_path}/a.txt,{tmp_path}/b.txt"], "en", "de")) == [{"source": "one", "target": "eins"}]


def test_only_a_newline_ends_a_line(tmp_path):
    line = "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg\rh"
    (tmp_path / "text").write_bytes(f"{line}\r\n\n  indented \nlast".encode())
    assert load_texts([f"{tmp_path}/text"])["text"][:] == [line, "", "  indented ", "last"]


def test_texts_of_a_text_field_and_of_named_fields(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "one", "title": "two", "label": 1}\n')
    assert list(iterate_texts([f"{tmp_path}/t.jsonl"])) == ["one"]
    assert list(iterate_texts([f"{tmp_path}/t.jsonl"], fields=["title", "text"])) == ["two", "one"]


def test_a_folder_or_hub_data_set_by_name(tmp_path):
    write_pairs(tmp_path, "train.jsonl")
    pairs = load_pairs(None, "en", "de", dataset_name=str(tmp_path))
    assert list(pairs) == [{"source": en, "target": de} for en, de in PAIRS]
    stream = load_pairs(None, "de", "en", dataset_name=str(tmp_path), streaming=True)
    assert next(iter(stream)) == {"source": TARGETS[0], "target": SOURCES[0]}
    texts = load_texts(None, dataset_name=str(tmp_path))
    assert sorted(texts["text"]) == sorted(SOURCES + TARGETS)
    with pytest.raises(CorpusError, match=r"row 1: no `fr` in its `translation`; found: en, de"):
        load_pairs(None, "en", "fr", dataset_name=str(tmp_path))
    with pytest.raises(CorpusError, match="split 'dev'"):
        load_pairs(None, "en", "de", dataset_name=str(tmp_path), split="dev")
    with pytest.raises(CorpusError, match="not both"):
        load_pairs(["x.jsonl"], "en", "de", dataset_name=str(tmp_path))


def test_a_changed_file_is_read_again_whatever_its_date_says(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"source": "old", "target": "alt"}\n')
    stamp = os.stat(path)
    assert load_pairs([str(path)], "en", "de")["source"][:] == ["old"]
    path.write_text('{"source": "new", "target": "neu"}\n')
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same path, size and date
    assert load_pairs([str(path)], "en", "de")["source"][:] == ["new"]


def test_languages_and_files_are_part_of_what_is_cached(tmp_path):
    entry = write_pairs(tmp_path, "t.jsonl")
    assert load_pairs([entry], "en", "de")["source"][:] == SOURCES
    assert load_pairs([entry], "de", "en")["source"][:] == TARGETS
    assert load_pairs([entry, entry], "en", "de").num_rows == 6


LOAD_AND_PRINT = """
import json, sys
from vanilla_transformer.training.corpus import load_pairs
print(json.dumps(list(load_pairs([sys.argv[1]], "en", "de")["target"])))
"""


def test_two_processes_at_once(tmp_path):
    # Interpreters of their own: a spawned worker could not import this file, which is in no package.
    rows = [json.dumps({"source": str(i), "target": f"{tmp_path} {i}"}) for i in range(5000)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    command = [sys.executable, "-c", LOAD_AND_PRINT, f"{tmp_path}/t.jsonl"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in processes)
    assert first == second == [f"{tmp_path} {i}" for i in range(5000)]


GOOD = b'{"translation": {"en": "a", "de": "b"}}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl",
            GOOD + b'{"translation": {"en": "caf\xe9"',
            r"t\.jsonl:2: invalid UTF-8 \(byte 0xE9 at position 28",
        ),
        (
            "t.jsonl",
            GOOD * 2 + b'{"translation": {"en": \n',
            r"t\.jsonl:3: broken JSON \(Expecting value, column 24\)",
        ),
        ("t.json", b'[{"source": "a", "target": "b"},\n{"source" "c"}]', r"t\.json:2: broken JSON"),
        ("t.jsonl", GOOD + b"[1, 2]\n", r"t\.jsonl:2: expected a JSON object with named fields, found list"),
        ("t.jsonl", b'{"source": "\\ud83d", "target": "b"}', r"t\.jsonl:1: half of a surrogate pair"),
        (
            "t.jsonl",
            GOOD + b'{"translation": {"en": "a", "fr": "b"}}',
            r"t\.jsonl:2: no `de` in its `translation`; found: en, fr",
        ),
        (
            "t.jsonl",
            GOOD + b'{"translation": {"en": "a", "de": null}}',
            r"t\.jsonl:2: `de` is not a text but missing",
        ),
        ("t.jsonl", b'{"translation": {"en": 5, "de": "b"}}', r"t\.jsonl:1: `en` is not a text but int 5"),
        (
            "t.jsonl",
            b'{"translation": "a"}',
            r"t\.jsonl:1: `translation` must be {language: text}, found str",
        ),
        (
            "t.jsonl",
            b'{"english": "a", "german": "b"}',
            r"t\.jsonl:1: no `en` \(nor `translation`, .* found: english, german",
        ),
        ("t.csv", b"en,de\na,b\nc,d,e\n", r"t\.csv:3: 3 fields where the header has 2 \(en, de\)"),
        ("t.csv", b'en,de\na,b\n"c,d\n', r"t\.csv:3: broken CSV"),
        ("t.csv", b"en,de\na,b\nc,\xff\n", r"t\.csv:3: invalid UTF-8"),
        ("t.parquet", b"PAR1 not really", r"t\.parquet: not a readable Parquet file"),
        ("t.jsonl.gz", gzip.compress(GOOD * 99)[:-9], r"t\.jsonl\.gz: not a complete gzip file"),
        ("t.jsonl.gz", GOOD, r"t\.jsonl\.gz: not a complete gzip file"),
        ("t.jsonl", b"", r"t\.jsonl: the corpus is empty"),
        ("t.csv", b"en,de\n", r"t\.csv: the corpus is empty"),
        ("t.txt", b"a\tb\n", r"t\.txt: pairs are read from \.jsonl"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as error:
        load_pairs([f"{tmp_path}/{name}"], "en", "de")
    assert "\n" not in str(error.value)
    with pytest.raises(CorpusError, match=message):
        list(load_pairs([f"{tmp_path}/{name}"], "en", "de", streaming=True))


def test_missing_files_folders_and_no_files(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl: no such file"):
        load_pairs([f"{tmp_path}/nowhere.jsonl"], "en", "de")
    with pytest.raises(CorpusError, match=r"nowhere\.de: no such file"):
        (tmp_path / "a.en").write_text("a\n")
        load_pairs([f"{tmp_path}/a.en,{tmp_path}/nowhere.de"], "en", "de")
    with pytest.raises(CorpusError, match=r"cannot be read \(Is a directory\)"):
        load_texts([str(tmp_path)])
    with pytest.raises(CorpusError, match="exactly one comma"):
        load_pairs(["a.en,b.de,c.fr"], "en", "de")
    for nothing in (None, []):
        with pytest.raises(CorpusError, match="no data files given"):
            load_pairs(nothing, "en", "de")


def test_unequal_line_counts_name_both(tmp_path):
    (tmp_path / "a.en").write_text("1\n2\n3\n")
    (tmp_path / "a.de").write_text("1\n2\n3\n4\n5\n")
    with pytest.raises(CorpusError, match=r"a\.en has 3 lines but .*a\.de has 5"):
        load_pairs([f"{tmp_path}/a.en,{tmp_path}/a.de"], "en", "de")


def test_texts_without_a_known_field(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"body": "one"}\n')
    with pytest.raises(CorpusError, match=r"t\.jsonl:1: expected `text`, `translation` .*; found: body"):
        list(iterate_texts([f"{tmp_path}/t.jsonl"]))
    with pytest.raises(CorpusError, match=r"t\.jsonl:1: expected title; found: body"):
        load_texts([f"{tmp_path}/t.jsonl"], fields=["title"])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(CorpusError, match=r"empty\.txt: the corpus is empty"):
        list(iterate_texts([f"{tmp_path}/empty.txt"]))


class LetterTokenizer:
    """Each character is its code point; then </s> = 2."""

    fingerprint = "letters"

    def __call__(self, texts, text_target=None, **options):
        assert options == {"return_attention_mask": False, "verbose": False}  # nothing may truncate
        ids = {"input_ids": [[*map(ord, text), 2] for text in texts]}
        return ids if text_target is None else ids | {"labels": self(text_target, **options)["input_ids"]}


def make_pairs(rows: list[tuple[str, str]]) -> Dataset:
    return Dataset.from_dict({"source": [a for a, _ in rows], "target": [b for _, b in rows]})


def test_encoded_pairs_written_out():
    encoded, dropped = encode_pairs(
        make_pairs([("ab", "c"), ("", "d")]),
        LetterTokenizer(),
        max_source_length=4,
        max_target_length=2,
        source_prefix="#",
    )
    assert encoded.column_names == ["input_ids", "labels"]
    assert encoded[0] == {"input_ids": [35, 97, 98, 2], "labels": [99, 2]}
    assert encoded.features["labels"].feature.dtype == "int32"
    assert (dropped.rows, dropped.kept, len(encoded)) == (2, 1, 1)


# Python 3.12 and newer warn of every fork beside threads; none of the parent's threads is needed in the children.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_many_rows_are_encoded_by_several_processes_into_the_same_ids(toy, monkeypatch):
    tokenizer = VanillaTransformerTokenizer.from_pretrained(toy / "tokenizer")
    rows = [(f"the {n} cats", f"die {n} Katzen") for n in range(60)] + [("", "leer"), ("a" * 99, "b")]
    limits = {"max_source_length": 50, "max_target_length": 50}
    monkeypatch.setattr(encoding, "_WORTH_PROCESSES", len(rows))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    seen, plain_map = [], Dataset.map

    def map_(data, *arguments, **options):
        seen.append(options["num_proc"])
        return plain_map(data, *arguments, **options)

    monkeypatch.setattr(Dataset, "map", map_)
    encoded, dropped = encode_pairs(make_pairs(rows), tokenizer, **limits)
    assert seen == [3]
    assert encoded["input_ids"] == tokenizer([source for source, _ in rows[:60]])["input_ids"]
    assert encoded["labels"] == tokenizer([target for _, target in rows[:60]])["input_ids"]
    assert dropped.empty_rows == (61,) and dropped.over_long_rows == (62,)


def test_dropped_rows_are_counted_and_numbered():
    rows = [("ok", "ok")] * 20
    rows[3] = ("", "x")
    rows[5] = ("x", " \t")
    for i in (1, 7, 8, 9, 10, 11):
        rows[i] = ("long " * 3, "x")
    rows[12] = ("x", "12345")
    rows[13] = ("x", "1234")  # with </s> exactly the limit
    encoded, dropped = encode_pairs(make_pairs(rows), LetterTokenizer(), max_source_length=9, max_target_length=5)
    assert str(dropped) == (
        "kept 11 of 20 rows; dropped 2 empty (rows 4, 6) and 7 longer than 9 source tokens, 5 target tokens "
        "(rows 2, 8, 9, 10, 11, ...)"
    )
    assert len(encoded) == dropped.kept == 11
    assert list(dropped.kept_rows) == [1, 3, 5, 7, 14, 15, 16, 17, 18, 19, 20]
    assert pair_lengths(encoded).tolist() == [[3, 3]] * 4 + [[2, 5]] + [[3, 3]] * 6


def test_nothing_dropped_and_no_limit():
    encoded, dropped = encode_pairs(
        make_pairs([("a" * 2000, "b")] * 3), LetterTokenizer(), max_source_length=None, max_target_length=None
    )
    assert str(dropped) == "kept all 3 rows"
    assert list(dropped.kept_rows) == [1, 2, 3]
    assert pair_lengths(encoded).tolist() == [[2001, 2]] * 3


def test_when_every_row_is_dropped_it_says_why():
    with pytest.raises(
        CorpusError, match=r"no row of the corpus is left: kept 0 of 1 rows; dropped 1 longer than 2 source"
    ):
        encode_pairs(make_pairs([("abc", "d")]), LetterTokenizer(), max_source_length=2, max_target_length=9)


def test_texts_are_encoded():
    texts = Dataset.from_dict({"text": ["ab", "", "abcdef"]})
    encoded, dropped = encode_texts(texts, LetterTokenizer(), max_length=4)
    assert encoded[:] == {"input_ids": [[97, 98, 2]]}
    assert str(dropped) == "kept 1 of 3 rows; dropped 1 empty (row 2) and 1 longer than 4 text tokens (row 3)"
    assert pair_lengths(encoded).tolist() == [[3]]


def test_a_stream_is_encoded_like_the_same_data_set(tmp_path):
    rows = [{"source": "x" * (i % 7), "target": "y" * (i % 5)} for i in range(2500)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    limits: dict[str, Any] = {"max_source_length": 6, "max_target_length": 5}
    stored, dropped = encode_pairs(load_pairs([f"{tmp_path}/t.jsonl"], "en", "de"), LetterTokenizer(), **limits)
    stream = load_pairs([f"{tmp_path}/t.jsonl"], "en", "de", streaming=True)
    streamed, dropped_streamed = encode_pairs(StreamPart(iter(stream), 10**6), LetterTokenizer(), **limits)
    assert streamed[:] == stored[:]
    assert dropped == dropped_streamed and str(dropped) == str(dropped_streamed)


def test_other_tokenizer_prefix_or_corpus_is_encoded_anew(tmp_path):
    class Shifted(LetterTokenizer):
        fingerprint = "shifted"

        def __call__(self, texts, **options):
            return super().__call__([chr(ord(t[0]) + 1) for t in texts], **options)

    (tmp_path / "t.jsonl").write_text('{"source": "a", "target": "b"}\n')
    pairs = load_pairs([f"{tmp_path}/t.jsonl"], "en", "de")
    limits: dict[str, Any] = {"max_source_length": 9, "max_target_length": 9}
    assert encode_pairs(pairs, LetterTokenizer(), **limits)[0]["input_ids"][:] == [[97, 2]]
    assert encode_pairs(pairs, Shifted(), **limits)[0]["input_ids"][:] == [[98, 2]]
    assert encode_pairs(pairs, LetterTokenizer(), source_prefix="#", **limits)[0]["input_ids"][:] == [[35, 97, 2]]
    assert encode_pairs(pairs, LetterTokenizer(), **limits)[0]["input_ids"][:] == [[97, 2]]


def test_pair_lengths_of_selected_and_shuffled_rows():
    rows = [("x" * n, "y" * (n % 4)) for n in range(1, 60) if n % 4]
    encoded, _ = encode_pairs(make_pairs(rows), LetterTokenizer(), max_source_length=50, max_target_length=None)
    order = np.random.default_rng(0).permutation(len(encoded))
    shuffled = encoded.select(order)
    expected = [[len(row["input_ids"]), len(row["labels"])] for row in shuffled.to_list()]
    assert pair_lengths(shuffled).tolist() == expected
    assert pair_lengths(shuffled).dtype == np.int64


def test_multi30k_is_read_whole(shared_data):
    folder = shared_data / "multi30k" / "en-de"
    pairs = load_pairs([str(folder / "validation.jsonl.gz"), str(folder / "test_2016_flickr.jsonl.gz")], "en", "de")
    assert len(pairs) == 2014
    assert all(re.search(r"\w", row["source"]) and re.search(r"\w", row["target"]) for row in pairs)

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from vanilla_transformer.training.conllu_files import block_of
from vanilla_transformer.training.labelled_rows import (
    CorpusError,
    load_classification,
    load_dialogues,
    load_parsing,
    load_tagging,
)


@pytest.fixture
def write(tmp_path: Path):
    """Writes rows to a new JSON Lines file; returns its name."""
    made = 0

    def write(*rows: dict[str, Any], name: str = "") -> str:
        nonlocal made
        made += 1
        path = tmp_path / (name or f"{made}.jsonl")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        return str(path)

    return write


# -- classification ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, columns",
    [
        ({"text": "a", "tokens": ["x"]}, {"text": "a"}),
        ({"sentence": "a"}, {"text": "a"}),
        ({"tokens": ["a", "b"]}, {"text": "a b"}),
        ({"tokens": ["나", "는", " ", "가"]}, {"text": "나는 가"}),
        ({"premise": "a", "hypothesis": "b", "text": "x"}, {"text": "a", "text_pair": "b"}),
        ({"sentence1": "a", "sentence2": "b"}, {"text": "a", "text_pair": "b"}),
        ({"question": "a", "sentence": "b"}, {"text": "a", "text_pair": "b"}),
    ],
)
def test_texts_are_found(write, row, columns):
    data = load_classification([write(row | {"label": "x"})])
    assert data[:] == {name: [text] for name, text in (columns | {"label": "x"}).items()}


@pytest.mark.parametrize(
    "labels, kind, dtype, read",
    [
        (["b", "a"], None, "string", ["b", "a"]),
        ([1, 0], None, "int64", [1, 0]),
        ([True, False], None, "bool", [True, False]),
        ([5.0, 3, 2.5], None, "float64", [5, 3, 2.5]),
        ([5.0, 3.0], None, "int64", [5, 3]),
        ([5, 3], "regression", "float64", [5, 3]),
        ([4.5, 3], "classes", "string", ["4.5", "3"]),
        (["10", "-2"], None, "int64", [10, -2]),
        (["10", "2.5", "1e-3"], None, "float64", [10, 2.5, 0.001]),
        (["007", "2"], None, "string", ["007", "2"]),
        (["10", "x"], None, "string", ["10", "x"]),
    ],
)
def test_labels_get_one_type(write, labels, kind, dtype, read):
    data = load_classification([write(*({"text": "t", "label": label} for label in labels))], kind=kind)
    assert data.features["label"].dtype == dtype
    assert data["label"][:] == read
    assert data.column_names == ["text", "label"]


def test_named_fields_several_files_and_formats(write, tmp_path: Path):
    (tmp_path / "a.csv").write_text('q,r,class\n"x, y",z,1\nu,,2\n')
    named = {"text_fields": ["q", "r"], "label_field": "class"}
    data = load_classification(
        [str(tmp_path / "a.csv"), write({"q": "", "r": "w", "class": "3"}, name="b.jsonl.gz")], **named
    )
    assert data[:] == {"text": ["x, y", "u", ""], "text_pair": ["z", "", "w"], "label": [1, 2, 3]}


def test_rows_without_labels_only_where_they_are_predicted(write):
    some = write({"text": "a"}, {"text": "b", "label": "x"}, {"text": "", "label": None})
    assert load_classification([some], labels_required=False)["label"][:] == [None, "x", None]
    none = write({"text": "a"}, {"text": ""})
    assert load_classification([none], labels_required=False)[:] == {"text": ["a", ""]}
    with pytest.raises(CorpusError, match=r"1.jsonl:1: no `label`; found: text; name the field with label_field"):
        load_classification([some])


@pytest.mark.parametrize(
    "rows, options, message",
    [
        (
            [{"a": "x", "label": 1}],
            {},
            r"1.jsonl:1: no field of texts .*found: a, label; name one or two with text_fields",
        ),
        (
            [{"premise": "x", "hypothesis": "y", "sentence1": "x", "sentence2": "y", "label": 1}],
            {},
            r"both premise\+hypothesis and sentence1\+sentence2 could be the texts",
        ),
        ([{"text": "x", "label": 1}, {"label": 1}], {}, "1.jsonl:2: no `text`; found: label"),
        ([{"text": "x", "label": 1}, {"text": 5, "label": 1}], {}, "1.jsonl:2: `text` is not a text but int 5"),
        ([{"text": "x", "label": 1}, {"text": "y", "label": None}], {}, "1.jsonl:2: `label` is missing"),
        (
            [{"text": "x", "label": 1}, {"text": "y", "label": "a"}],
            {},
            "1.jsonl:2: `label` is str 'a', a text, where .*1.jsonl:1",
        ),
        (
            [{"text": "x", "label": 1}, {"text": "y", "label": True}],
            {},
            "1.jsonl:2: `label` is bool True, a bool, where",
        ),
        ([{"text": "x", "label": [1]}], {}, r"1.jsonl:1: `label` is no label but list \[1\]"),
        ([{"text": "x", "label": float("nan")}], {}, "1.jsonl:1: `label` is nan; a label must be a finite number"),
        ([{"text": "x", "label": "high"}], {"kind": "regression"}, "1.jsonl:1: `label` is str 'high', but regression"),
        (
            [{"text": "x", "label": 1}],
            {"text_fields": ["a", "b", "c"]},
            "text_fields names 3 fields, a, b, c; name one or two",
        ),
        ([], {}, "1.jsonl: the corpus is empty"),
    ],
)
def test_texts_that_cannot_be_read(write, rows, options, message):
    with pytest.raises(CorpusError, match=message):
        load_classification([write(*rows)], **options)


def test_names_of_classes_are_kept_from_the_hub_and_from_parquet(tmp_path: Path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    (tmp_path / "set").mkdir()
    data.to_parquet(str(tmp_path / "set" / "train.parquet"))
    for where in (
        {"files": None, "dataset_name": str(tmp_path / "set")},
        {"files": [str(tmp_path / "set" / "train.parquet")]},
    ):
        read = load_classification(**where, labels_required=False)
        assert read.features["label"] == ClassLabel(names=["no", "yes"])
        assert read["label"][:] == [1, 0, None]
        with pytest.raises(CorpusError, match="3: `label` is -1: an unlabelled row"):
            load_classification(**where)
    with pytest.raises(CorpusError, match="either data files or the data set"):
        load_classification(["x"], dataset_name=str(tmp_path / "set"))


def test_a_changed_file_is_read_again(write):
    assert load_classification([write({"text": "a", "label": 1}, name="t.jsonl")])["text"][:] == ["a"]
    assert load_classification([write({"text": "b", "label": 1}, name="t.jsonl")])["text"][:] == ["b"]


# -- tagging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["ner_tags", "pos_tags", "upos", "tags", "slots", "chunk_tags"])
def test_tags_are_found(write, field):
    data = load_tagging([write({"tokens": ["a", "b"], field: ["X", "Y"], "id": 1}, {"tokens": [], field: []})])
    assert data[:] == {"tokens": [["a", "b"], []], "tags": [["X", "Y"], []]}


def test_tags_as_numbers_and_as_named_classes(write, tmp_path: Path):
    rows = load_tagging([write({"words": ["a", "b"], "t": [3, 0]})], token_field="words", tag_field="t")
    assert rows["tags"][:] == [[3, 0]] and rows.features["tags"] == List(Value("int64"))
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    (tmp_path / "set").mkdir()
    data = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[1, 0]]}, features=features)
    data.to_parquet(str(tmp_path / "set" / "test.parquet"))
    read = load_tagging(None, dataset_name=str(tmp_path / "set"), split="test")
    assert read.features["tags"] == List(ClassLabel(names=["O", "B-X"])) and read["tags"][:] == [[1, 0]]


def test_tokens_without_tags_where_they_are_predicted(write):
    assert load_tagging([write({"tokens": ["a"]})], labels_required=False)[:] == {"tokens": [["a"]]}
    some = load_tagging([write({"tokens": ["a"], "tags": ["X"]}, {"tokens": ["b"]})], labels_required=False)
    assert some["tags"][:] == [["X"], None]


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"tokens": ["a"], "upos": ["X"], "ner_tags": ["O"]},
            "several fields could be the tags: ner_tags, upos; .*with tag_field",
        ),
        ({"tokens": ["a"], "labels": ["X"]}, "no field of tags .*found: tokens, labels; name it with tag_field"),
        ({"tokens": ["a", "b"], "tags": ["X"]}, "1.jsonl:1: 2 tokens but 1 in `tags`"),
        ({"tokens": ["a", ""], "tags": ["X", "X"]}, "1.jsonl:1: token 2 of 2 in `tokens` is empty"),
        (
            {"tokens": ["a", None], "tags": ["X", "X"]},
            r"1.jsonl:1: token 2 of 2 in `tokens` is not a text but missing \(null\)",
        ),
        ({"tokens": "a b", "tags": ["X", "X"]}, "1.jsonl:1: `tokens` is not a list of tokens but str 'a b'"),
        ({"tokens": ["a", "b"], "tags": ["X", None]}, r"1.jsonl:1, token 2: `tags` is no label but missing \(null\)"),
        ({"tokens": ["a", "b"], "tags": ["X", 1]}, "1.jsonl:1, token 2: `tags` is int 1, a number, where"),
        ({"tokens": ["a"], "tags": None}, r"1.jsonl:1: `tags` is missing \(null\)"),
    ],
)
def test_tags_that_cannot_be_read(write, row, message):
    with pytest.raises(CorpusError, match=message):
        load_tagging([write(row)])


# -- trees ---------------------------------------------------------------------------------------------------

TREE = {
    "tokens": ["the", "dog", "barks"],
    "upos": ["DET", "NOUN", "VERB"],
    "head": [2, 3, 0],
    "deprel": ["det", "nsubj", "root"],
}


def test_trees_of_rows_and_of_conllu(write, tmp_path: Path):
    (tmp_path / "t.conllu").write_text(
        block_of(TREE["tokens"], TREE["head"], TREE["deprel"], TREE["upos"], ["sent_id = x"]) + "\n\n"
    )
    block = (tmp_path / "t.conllu").read_text().strip("\n")
    data = load_parsing([str(tmp_path / "t.conllu"), write(TREE)])
    assert data[:] == {name: [column, column] for name, column in TREE.items()} | {"conllu": [block, None]}
    assert load_tagging([str(tmp_path / "t.conllu")])["tags"][:] == [TREE["upos"]]
    bare = write({name: TREE[name] for name in ("tokens", "head", "deprel")})
    assert load_parsing([bare]).column_names == ["tokens", "head", "deprel", "conllu"]


def test_sentences_without_trees_where_they_are_predicted(write, tmp_path: Path):
    (tmp_path / "t.conllu").write_text(block_of(TREE["tokens"]))
    data = load_parsing([str(tmp_path / "t.conllu"), write({"tokens": ["a"]})], labels_required=False)
    assert data["tokens"][:] == [TREE["tokens"], ["a"]] and data.column_names == ["tokens", "conllu"]
    with pytest.raises(CorpusError, match="t.conllu:1: no `head`; found: tokens, conllu"):
        load_parsing([str(tmp_path / "t.conllu")])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"head": [2, 0, 0]},
            r"1.jsonl:2: `head` is no tree, for 2 roots .*word 2 'dog', word 3 'barks'; correct the sentence",
        ),
        (
            {"head": [2, 1, 0]},
            "1.jsonl:2: `head` is no tree, for a cycle: word 1 'the' -> word 2 'dog' -> word 1 'the'",
        ),
        ({"head": [2, 4, 0]}, "1.jsonl:2: `head` is no tree, for word 2 'dog' has head 4"),
        ({"head": [2, 0]}, "1.jsonl:2: 3 tokens but 2 in `head`"),
        ({"deprel": ["a"]}, "1.jsonl:2: 3 tokens but 1 in `deprel`"),
        ({"head": ["2", "3", "0"]}, "1.jsonl:2: `head` of word 1 is not a whole number but str '2'"),
        ({"deprel": ["a", None, "b"]}, r"1.jsonl:2: `deprel` of word 2 is not a text but missing \(null\)"),
        ({"deprel": None}, "1.jsonl:2: `deprel` is missing: a sentence without its tree"),
    ],
)
def test_what_is_no_tree(write, change, message):
    with pytest.raises(CorpusError, match=message):
        load_parsing([write(TREE, TREE | change)])


# -- dialogues -----------------------------------------------------------------------------------------------


def test_dialogues(write):
    turns = [{"speaker": "A", "text": "Hi"}, {"speaker": "B", "text": ""}]
    chat = [{"role": "user", "content": "Hi"}]
    rows = [
        {"dialog": ["a", "b", "c"]},
        {"dialog": turns},
        {"dialog": chat},
        {"question": "Why?", "answer": "So."},
        {"dialog": []},
    ]
    assert load_dialogues([write(*rows)])["dialog"][:] == [["a", "b", "c"], ["Hi", ""], ["Hi"], ["Why?", "So."], []]
    assert load_dialogues([write({"messages": chat})], dialog_field="messages")["dialog"][:] == [["Hi"]]


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"turns": ["a"]},
            "1.jsonl:1: no `dialog`, nor `question` and `answer`; found: turns; name the field with dialog_field",
        ),
        ({"dialog": "a"}, "1.jsonl:1: `dialog` is not a list of turns but str 'a'"),
        ({"dialog": ["a", 5]}, "1.jsonl:1: turn 2 is not a text but int 5"),
        ({"dialog": ["a", {"said": "b"}]}, "1.jsonl:1: turn 2 must have one of text, content, utterance; found: said"),
    ],
)
def test_what_is_no_dialogue(write, row, message):
    with pytest.raises(CorpusError, match=message):
        load_dialogues([write(row)])


# -- real data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load, name, rows, columns",
    [
        (load_classification, "text_classification/korsts/test.jsonl.gz", 1379, ["text", "text_pair", "label"]),
        (load_classification, "token_classification/snips/test.jsonl.gz", 700, ["text", "label"]),
        (load_tagging, "token_classification/snips/test.jsonl.gz", 700, ["tokens", "tags"]),
        (load_tagging, "token_classification/klue_ner_dev/test.jsonl.gz", 500, ["tokens", "tags"]),
        (load_parsing, "klue_dp_dev/test.jsonl.gz", 200, ["tokens", "head", "deprel", "conllu"]),
        (load_parsing, "ud/korean_gsd/test.jsonl.gz", 989, ["tokens", "upos", "head", "deprel", "conllu"]),
        (load_dialogues, "dialogue/schema_guided/test.jsonl.gz", 250, ["dialog"]),
    ],
)
def test_real_data(shared_data: Path, load, name, rows, columns):
    data = load([str(shared_data / name)])
    assert len(data) == rows and data.column_names == columns

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from vanilla_transformer.modeling.loss import IGNORED
from vanilla_transformer.training.class_names import NO_CLASS, ClassNames
from vanilla_transformer.training.corpus_files import CorpusError


def column(values: list[Any], feature: Any = None) -> Dataset:
    return Dataset.from_dict({"y": values}, features=feature and Features({"y": feature}))


@pytest.mark.parametrize(
    "values, feature, names",
    [
        (["b", "a", "b"], None, ("a", "b")),
        ([10, 9, -1], None, ("-1", "9", "10")),
        ([True, False], None, ("false", "true")),
        ([1, 1], ClassLabel(names=["z", "a", "never"]), ("z", "a", "never")),
        ([["O", "B-X"], [], ["O"]], None, ("B-X", "O")),
        ([[1, 0]], List(ClassLabel(names=["O", "B-X"])), ("O", "B-X")),
        (["a", None, "b"], None, ("a", "b")),
    ],
)
def test_the_order_of_classes(values, feature, names):
    classes = ClassNames.of_column(column(values, feature), "y")
    assert classes.names == names == ClassNames.of_column(column(values[::-1], feature), "y").names
    assert classes.id2label == dict(enumerate(names)) and classes.label2id == {n: i for i, n in enumerate(names)}
    assert ClassNames.of_model({str(i): n for i, n in reversed(classes.id2label.items())}) == classes


def test_only_the_rows_selected_count():
    assert ClassNames.of_column(column(["a", "b", "c"]).select([0, 2]), "y").names == ("a", "c")


@pytest.mark.parametrize(
    "values, message",
    [([0.5, 1.5], "not classes: learn them by regression"), (["a", "a"], r"1 class \(a\)"), ([[]], r"0 classes")],
)
def test_what_are_no_classes(values, message):
    feature = List(Value("string")) if values == [[]] else None
    with pytest.raises(CorpusError, match=message):
        ClassNames.of_column(column(values, feature), "y")


def test_two_classes_need_two_names():
    with pytest.raises(ValueError, match="'a' stands for several classes"):
        ClassNames.of_column(
            column([0, 1], ClassLabel(names=["a", "b"])).cast_column("y", Value("int64")), "y"
        ).__class__(("a", "a"))
    with pytest.raises(ValueError, match="the ids must be 0 to 1; found"):
        ClassNames.of_model({0: "a", 2: "b"})


@pytest.mark.parametrize(
    "names, values, feature, ids",
    [
        (("a", "b"), ["b", "a", None], None, [1, 0, None]),
        (("a", "b"), [["b", "a"], []], None, [[1, 0], []]),
        (("1", "2", "5"), [5, 1], None, [2, 0]),  # by name, never by place
        (("no", "yes"), [1, 0], None, [1, 0]),  # by number: the names are none
        (("no", "yes"), [1, 0], ClassLabel(names=["yes", "no"]), [0, 1]),  # by name, whatever their order was
        (("false", "true"), [True, False], None, [1, 0]),
    ],
)
def test_labels_to_ids(names, values, feature, ids):
    assert ClassNames(names).encode(column(values, feature), "y", "train")["y"][:] == ids


@pytest.mark.parametrize(
    "names, values, feature, row, label",
    [
        (("a", "b"), ["a", "c"], None, 2, "c"),
        (("a", "b"), [["a"], ["b"], ["a", "c"]], None, 3, "c"),
        (("1", "2"), [1, 0], None, 2, "0"),
        (("no", "yes"), [1, 2], None, 2, "2"),
        (("no", "yes"), [1, -1], None, 2, "-1"),
        (("no", "yes"), [1, 0], ClassLabel(names=["maybe", "no"]), 2, "maybe"),
        (("no", "yes"), [True], None, 1, "true"),  # which one would be a guess
    ],
)
def test_an_unknown_label_is_refused(names, values, feature, row, label):
    with pytest.raises(CorpusError, match=f"validation, row {row}: `y` '{label}' is none of the classes: {names[0]}, "):
        ClassNames(names).encode(column(values, feature), "y", "validation")


def test_or_counted():
    classes, data = ClassNames(("a", "b")), column([["a", "z"], ["c", "c", "b"]])
    assert classes.unknown(data, "y") == {"c": 2, "z": 1}
    assert classes.unknown(column(["a"]), "y") == {}
    ids = classes.encode(data, "y", "test", refuse_unknown=False)["y"][:]
    assert ids == [[0, IGNORED], [IGNORED, IGNORED, 1]]
    assert [classes.name(number) for number in ids[0]] == ["a", NO_CLASS]


def test_the_first_twenty_classes_are_named():
    with pytest.raises(CorpusError, match=r"none of the classes: c00, .*c19, \.\.\. \(30 in all\)"):
        ClassNames(tuple(f"c{n:02}" for n in range(30))).encode(column(["x"]), "y", "test")

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from vanilla_transformer.training.corpus import CorpusError
from vanilla_transformer.training.directions import Direction, directions_of

EN_DE, DE_EN, EN_FR = Direction("en", "de"), Direction("de", "en"), Direction("en", "fr")


def given(**flags: Any) -> Any:
    """Flags as `DataArguments` holds them."""
    empty = {f"{part}_{what}": [] for part in ("train", "validation", "test") for what in ("file", "languages")}
    return SimpleNamespace(**{**empty, "source_lang": None, "target_lang": None, **flags})


def test_one_pair_of_languages_is_that_of_all_files():
    data = given(source_lang="en", target_lang="de", train_file=["a", "b"], test_file=["c"])
    assert directions_of(data, "train") == [EN_DE] * 2
    assert directions_of(data, "test") == [EN_DE]
    assert directions_of(data, "validation") == [EN_DE]  # of a data set of the Hub


def test_each_file_has_its_own():
    two: dict[str, Any] = {"train_file": ["a", "b"], "train_languages": ["en-de", "en-fr"]}
    data = given(**two, validation_file=["c", "d"], test_file=["e"], test_languages=["de-en"])
    assert directions_of(data, "train") == [EN_DE, EN_FR]
    assert directions_of(data, "validation") == [EN_DE, EN_FR]  # as the training files, being as many
    assert directions_of(data, "test") == [DE_EN]
    both = given(**two, validation_file=["c", "d"], source_lang="de", target_lang="en")
    assert directions_of(both, "train") == [EN_DE, EN_FR]
    assert directions_of(both, "validation") == [DE_EN] * 2  # what is said of them comes before what is said of others
    assert str(EN_DE) == "en-de"


@pytest.mark.parametrize(
    "flags, part, message",
    [
        ({"train_file": ["a"]}, "train", "give --source-lang and --target-lang, as the data name the languages"),
        ({"train_file": ["a"], "source_lang": "en"}, "train", "give --source-lang and --target-lang"),
        ({"train_languages": ["ende"]}, "train", "train_languages: 'ende' names no direction; write SOURCE-TARGET"),
        ({"train_languages": ["en-"]}, "train", "'en-' names no direction"),
        ({"train_languages": ["en-zh-Hant"]}, "train", "zh-Hant to zh_Hant"),
        (
            {"train_languages": ["en-de", "de-en"]},
            "train",
            "train_languages names 2, but there are 1 train files: one for each",
        ),
        (
            {"train_languages": ["en-de"], "test_file": ["a", "b"]},
            "test",
            "test_file: 2 files, where the training files are 1; say what they hold: --test-languages, one for each",
        ),
        (
            {"test_languages": ["en-de"], "test_file": ["a", "b"]},
            "test",
            "test_languages names 1, but there are 2 test files",
        ),
    ],
)
def test_what_is_not_said_or_is_said_wrong_is_refused(flags, part, message):
    with pytest.raises(CorpusError, match=re.escape(message)):
        directions_of(given(**{"train_file": ["a"], **flags}), part)

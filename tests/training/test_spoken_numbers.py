"""The demo's corpus: every rule of the three languages written out, and nothing held out seen in training."""

from __future__ import annotations

import json
from datetime import date, time
from pathlib import Path

import pytest

from vanilla_transformer.training import spoken_numbers
from vanilla_transformer.training.spoken_numbers import (
    Row,
    Value,
    cardinal,
    make_corpus,
    make_row,
    raw_text,
    read_aloud,
    spellings,
    write_corpus,
)


@pytest.mark.parametrize(
    ("value", "english", "german", "korean"),
    [
        (0, "zero", "null", "영"),
        (1, "one", "eins", "일"),
        (21, "twenty-one", "einundzwanzig", "이십일"),
        (101, "one hundred and one", "einhunderteins", "백일"),
        (1204, "one thousand, two hundred and four", "eintausendzweihundertvier", "천이백사"),
        (10001, "ten thousand and one", "zehntausendeins", "만 일"),
        # num2words 0.5.14 says "einhunderteinstausend…"
        (101001, "one hundred and one thousand and one", "einhunderteintausendeins", "십만 천일"),
        (201000, "two hundred and one thousand", "zweihunderteintausend", "이십만 천"),
        (
            999999,
            "nine hundred and ninety-nine thousand, nine hundred and ninety-nine",
            "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
            "구십구만 구천구백구십구",
        ),
        (
            date(2024, 3, 7),
            "March seventh, twenty twenty-four",
            "siebter März zweitausendvierundzwanzig",
            "이천이십사년 삼월 칠일",
        ),
        (
            date(1905, 6, 1),
            "June first, nineteen oh-five",
            "erster Juni neunzehnhundertfünf",
            "천구백오년 유월 일일",
        ),
        (
            date(2000, 10, 20),
            "October twentieth, two thousand",
            "zwanzigster Oktober zweitausend",
            "이천년 시월 이십일",
        ),
        (
            date(1999, 12, 31),
            "December thirty-first, nineteen ninety-nine",
            "einunddreißigster Dezember neunzehnhundertneunundneunzig",
            "천구백구십구년 십이월 삼십일일",
        ),
        (time(14, 5), "two oh five p.m.", "vierzehn Uhr fünf", "오후 두 시 오 분"),
        (time(1, 30), "one thirty a.m.", "ein Uhr dreißig", "오전 한 시 삼십 분"),
        (time(21, 1), "nine oh one p.m.", "einundzwanzig Uhr eins", "오후 아홉 시 일 분"),
        (time(20, 0), "eight p.m.", "zwanzig Uhr", "오후 여덟 시"),
        (time(0, 10), "twelve ten a.m.", "null Uhr zehn", "오전 열두 시 십 분"),
        (time(12, 0), "twelve p.m.", "zwölf Uhr", "오후 열두 시"),
        (
            time(23, 59),
            "eleven fifty-nine p.m.",
            "dreiundzwanzig Uhr neunundfünfzig",
            "오후 열한 시 오십구 분",
        ),
    ],
)
def test_read_aloud(value: Value, english: str, german: str, korean: str) -> None:
    assert read_aloud(value, "en") == english
    assert read_aloud(value, "de") == german
    assert read_aloud(value, "ko") == korean


@pytest.mark.parametrize(
    ("value", "language", "written"),
    [
        (7, "de", ["7"]),
        (1204, "en", ["1,204", "1204"]),
        (1204, "de", ["1.204", "1204"]),
        (123456, "ko", ["123,456", "123456"]),
        (date(2024, 3, 7), "de", ["2024-03-07"]),
        (time(9, 5), "en", ["09:05", "9:05"]),
        (time(0, 5), "ko", ["00:05", "0:05"]),
        (time(14, 5), "ko", ["14:05"]),
    ],
)
def test_spellings(value: Value, language: str, written: list[str]) -> None:
    assert spellings(value, language) == written


def test_a_row_bears_its_language_tag() -> None:
    spoken = "eintausendzweihundertvier"
    assert make_row(1204, "de") == {"translation": {"digits": ">>de<< 1.204", "spoken": spoken}}
    assert make_row(1204, "de", 1) == {"translation": {"digits": ">>de<< 1204", "spoken": spoken}}


def test_each_hour_and_month_is_read_its_own_way() -> None:
    for language in spoken_numbers.LANGUAGES:
        assert len({read_aloud(time(hour, 30), language) for hour in range(24)}) == 24
        assert len({read_aloud(date(2024, month, 1), language) for month in range(1, 13)}) == 12


def test_german_ones_before_thousand_are_right_everywhere() -> None:
    assert not any("einstausend" in cardinal(number, "de") for number in range(1000, 1_000_000, 1000))
    assert cardinal(1000, "de") == "eintausend"
    assert cardinal(501_001, "de") == "fünfhunderteintausendeins"


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Row]]:
    return make_corpus(seed=1, train_rows=6000, validation_rows=300, test_rows=600)


def parse(row: Row) -> tuple[str, str]:
    """The value whatever its language and spelling: ">>de<< 1.204" -> ("de", "1204"), "9:05" -> "09:05"."""
    tag, written = row["translation"]["digits"].split(" ")
    if ":" in written:
        return tag.strip("<>"), written.zfill(5)
    return tag.strip("<>"), written.replace(",", "").replace(".", "")


def test_parts_have_the_sizes_asked_for(corpus: dict[str, list[Row]]) -> None:
    assert [(part, len(rows)) for part, rows in corpus.items()] == [
        ("train", 6000), ("validation", 300), ("test", 600),
    ]  # fmt: skip
    assert [len(rows) for rows in make_corpus(1, 5, 4, 2).values()] == [5, 4, 2]


def test_no_value_of_one_part_occurs_in_another(corpus: dict[str, list[Row]]) -> None:
    values = {part: {parse(row)[1] for row in rows} for part, rows in corpus.items()}
    assert len(values["test"]) == 200 and len(values["validation"]) == 100  # each in three languages
    assert not values["train"] & values["test"]
    assert not values["train"] & values["validation"]
    assert not values["validation"] & values["test"]
    text = set(raw_text(corpus["train"]))
    for part in ("validation", "test"):
        assert not {row["translation"]["digits"] for row in corpus[part]} & text


def test_every_row_is_the_right_answer(corpus: dict[str, list[Row]]) -> None:
    """One answer per source over the whole corpus, and the one that `read_aloud` gives for the value."""
    answers: dict[str, str] = {}
    for row in [row for rows in corpus.values() for row in rows]:
        language, written = parse(row)
        if ":" in written:
            value: Value = time.fromisoformat(written)
        else:
            value = date.fromisoformat(written) if "-" in written else int(written)
        sides = row["translation"]
        assert sides["spoken"] == read_aloud(value, language)
        assert answers.setdefault(sides["digits"], sides["spoken"]) == sides["spoken"]


def test_training_covers_lengths_kinds_languages_and_spellings(corpus: dict[str, list[Row]]) -> None:
    parsed = [parse(row) for row in corpus["train"]]
    for language in ("en", "de", "ko"):
        assert 0.28 < sum(tag == language for tag, _ in parsed) / 6000 < 0.38
    integers = [written for _, written in parsed if written.isdigit()]
    assert 0.45 < len(integers) / 6000 < 0.55
    assert {len(written) for written in integers} == {1, 2, 3, 4, 5, 6}
    assert set("0123456789") <= set(integers)
    sources = [row["translation"]["digits"] for row in corpus["train"]]
    assert any(source.split()[1].isdigit() and len(source.split()[1]) == 6 for source in sources)
    assert any("." in source for source in sources) and any("," in source for source in sources)


def test_held_out_parts_take_the_kinds_in_turn(corpus: dict[str, list[Row]]) -> None:
    first = [parse(row)[1] for row in corpus["test"][:9]]
    assert first[0] == first[1] == first[2] and first[0].isdigit() and int(first[0]) >= 100
    assert "-" in first[3] and ":" in first[6]


def test_same_seed_same_corpus(corpus: dict[str, list[Row]]) -> None:
    assert make_corpus(1, 6000, 300, 600) == corpus
    assert make_corpus(2, 6000, 300, 600)["train"] != corpus["train"]


def test_raw_text_takes_the_pairs_apart() -> None:
    assert raw_text([make_row(7, "en"), make_row(8, "de")]) == [">>en<< 7", ">>de<< 8", "seven", "acht"]


def test_files(tmp_path: Path) -> None:
    corpus = make_corpus(3, 20, 9, 9)
    files = write_corpus(corpus, tmp_path / "data")
    assert sorted(files) == ["raw_train", "raw_validation", "test", "train", "validation"]
    for part, rows in corpus.items():
        lines = files[part].read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows
    assert "\\u" not in files["test"].read_text(encoding="utf-8")  # Hangul is readable in the file
    for part in ("train", "validation"):
        assert files[f"raw_{part}"].read_text(encoding="utf-8").splitlines() == raw_text(corpus[part])


@pytest.mark.parametrize("rows", [(0, 1, 1), (1, 0, 1), (1, 1, -3)])
def test_empty_parts_are_refused(rows: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="_rows must be 1 or more"):
        make_corpus(1, *rows)


def test_more_times_of_day_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="6480 together.*not 12000"):
        make_corpus(1, 10, 6000, 6000)

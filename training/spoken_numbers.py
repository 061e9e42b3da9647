"""The demo's data, made by code: what is written in digits, and how it is read aloud in three languages.

    digits                   spoken
    >>en<< 1,204             one thousand, two hundred and four
    >>de<< 2024-03-07        siebter März zweitausendvierundzwanzig
    >>ko<< 14:05             오후 두 시 오 분

There is exactly one right answer to each line, so a model can be judged by "is the line right?" alone. The
words of the numbers come from num2words. What this file adds is what a language decides about dates and
clocks (names of months, native Korean hours, "ein Uhr" but "eins"), and one correction of num2words.

The held-out values are drawn first and never enter the training part: in no language and in no spelling.
"""

from __future__ import annotations

import calendar
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from pathlib import Path

import numpy as np
from num2words import num2words

LANGUAGES = ("en", "de", "ko")
KINDS = ("integer", "date", "time")
SOURCE_LANG, TARGET_LANG = "digits", "spoken"
Value = int | date | time
Row = dict[str, dict[str, str]]

# Shares in training. Times are few (1,440 in all) and soon learned; integers are the long road.
KIND_SHARES = (0.5, 0.3, 0.2)
# Integers by their number of digits, 1 to 6: left to themselves, nine in ten would have six.
DIGIT_COUNT_SHARES = (0.02, 0.08, 0.15, 0.20, 0.25, 0.30)
ZERO_SHARE = 0.25  # of the digits after the first: "20,007" is harder than "23,417" and rarer by nature
FIRST_YEAR, LAST_YEAR = 1900, 2099
MOST_HELD_OUT = 720 * len(LANGUAGES) * len(KINDS)  # rows in which half of the 1,440 times of day occur

MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    # June and October are irregular: 유월 and 시월, where the numbers are 육 and 십.
    "ko": "일월 이월 삼월 사월 오월 유월 칠월 팔월 구월 시월 십일월 십이월".split(),
}
# Korean counts hours with its native numbers, in the form before a noun, and minutes with the Chinese ones.
KOREAN_HOURS = "한 두 세 네 다섯 여섯 일곱 여덟 아홉 열 열한 열두".split()


def cardinal(number: int, language: str) -> str:
    """The words of a number: 1204, "en" -> "one thousand, two hundred and four"."""
    words = num2words(number, lang=language)
    # num2words 0.5.14 says "einhunderteinstausend" for 101,000; before a noun German drops the s of "eins".
    return words.replace("einstausend", "eintausend") if language == "de" else words


def read_date(day: date, language: str) -> str:
    """2024-03-07 -> "March seventh, twenty twenty-four" / "siebter März zweitausend…" / "이천이십사년 …"."""
    month, year = MONTHS[language][day.month - 1], num2words(day.year, lang=language, to="year")
    if language == "en":
        return f"{month} {num2words(day.day, lang='en', to='ordinal')}, {year}"
    if language == "de":
        return f"{num2words(day.day, lang='de', to='ordinal')}r {month} {year}"
    return f"{year} {month} {cardinal(day.day, 'ko')}일"


def read_time(clock: time, language: str) -> str:
    """14:05 -> "two oh five p.m." / "vierzehn Uhr fünf" / "오후 두 시 오 분"; no minutes at the full hour."""
    hour, minute = clock.hour, clock.minute
    if language == "de":
        words = ["ein" if hour == 1 else cardinal(hour, "de"), "Uhr"]
        return " ".join(words + [cardinal(minute, "de")] * (minute > 0))
    hour_of_twelve = (hour - 1) % 12  # 0 for one o'clock, 11 for twelve
    if language == "en":
        minutes = ["oh"] * (0 < minute < 10) + [cardinal(minute, "en")] * (minute > 0)
        return " ".join([cardinal(hour_of_twelve + 1, "en"), *minutes, "a.m." if hour < 12 else "p.m."])
    minutes = [f"{cardinal(minute, 'ko')} 분"] * (minute > 0)
    return " ".join(["오전" if hour < 12 else "오후", KOREAN_HOURS[hour_of_twelve], "시", *minutes])


def read_aloud(value: Value, language: str) -> str:
    """The one right answer for a value."""
    if isinstance(value, date):
        return read_date(value, language)
    return read_time(value, language) if isinstance(value, time) else cardinal(value, language)


def spellings(value: Value, language: str) -> list[str]:
    """The ways to write a value in digits, the usual one first: "1,204" and "1204"; "09:05" and "9:05"."""
    if isinstance(value, date):
        return [value.isoformat()]
    if isinstance(value, time):
        padded = value.strftime("%H:%M")
        return [padded] if value.hour >= 10 else [padded, padded[1:]]
    grouped = f"{value:,}".replace(",", "." if language == "de" else ",")
    return [grouped] if value < 1000 else [grouped, str(value)]


def make_row(value: Value, language: str, spelling: int = 0) -> Row:
    """One line of the corpus: `{"translation": {"digits": ">>en<< 1,204", "spoken": "one thousand, …"}}`."""
    written = spellings(value, language)
    source = f">>{language}<< {written[min(spelling, len(written) - 1)]}"
    return {"translation": {SOURCE_LANG: source, TARGET_LANG: read_aloud(value, language)}}


def draw_value(kind: str, rng: np.random.Generator) -> Value:
    """A random integer (0 to 999,999), date or time of day."""
    if kind == "time":
        return time(int(rng.integers(24)), int(rng.integers(60)))
    if kind == "date":
        year, month = int(rng.integers(FIRST_YEAR, LAST_YEAR + 1)), int(rng.integers(1, 13))
        return date(year, month, int(rng.integers(1, calendar.monthrange(year, month)[1] + 1)))
    length = int(rng.choice(len(DIGIT_COUNT_SHARES), p=DIGIT_COUNT_SHARES)) + 1
    digits = rng.integers(1, 10, size=length)
    digits[rng.random(length) < ZERO_SHARE] = 0
    if length > 1 and digits[0] == 0:  # a one-digit number may be zero
        digits[0] = rng.integers(1, 10)
    return int("".join(map(str, digits)))


def make_corpus(seed: int, train_rows: int, validation_rows: int, test_rows: int) -> dict[str, list[Row]]:
    """`{"train": rows, "validation": rows, "test": rows}`; the same arguments give the same corpus.

    No value of one part occurs in another, in any language or spelling. The held-out parts take the three
    kinds in turn, each value in all three languages; integers below 100 stay in training, because their words
    can be learned from nothing else. The training part may say the same thing twice.

    Raises:
        ValueError: a number of rows is not positive, or so many held-out rows that few times of day are left.
    """
    sizes = {"train_rows": train_rows, "validation_rows": validation_rows, "test_rows": test_rows}
    for name, rows in sizes.items():
        if rows < 1:
            raise ValueError(f"{name} must be 1 or more, not {rows}")
    if validation_rows + test_rows > MOST_HELD_OUT:
        raise ValueError(
            f"validation_rows and test_rows may be {MOST_HELD_OUT} together (half of the 1440 times of day), "
            f"not {validation_rows + test_rows}"
        )
    rng = np.random.default_rng(seed)
    held_out: set[Value] = set()
    validation = _held_out_rows(validation_rows, held_out, rng)
    test = _held_out_rows(test_rows, held_out, rng)
    train: list[Row] = []
    while len(train) < train_rows:
        value = draw_value(KINDS[rng.choice(len(KINDS), p=KIND_SHARES)], rng)
        language, spelling = LANGUAGES[rng.integers(len(LANGUAGES))], int(rng.random() < 0.25)
        if value not in held_out:
            train.append(make_row(value, language, spelling))
    return {"train": train, "validation": validation, "test": test}


def _held_out_rows(rows: int, held_out: set[Value], rng: np.random.Generator) -> list[Row]:
    """`rows` rows of values that are not yet in `held_out`; adds them to it."""
    chosen: list[Row] = []
    while len(chosen) < rows:
        kind = KINDS[len(chosen) // len(LANGUAGES) % len(KINDS)]
        value = draw_value(kind, rng)
        if value in held_out or (isinstance(value, int) and value < 100):
            continue
        held_out.add(value)
        chosen += [make_row(value, language, int(rng.random() < 0.25)) for language in LANGUAGES]
    return chosen[:rows]


def raw_text(rows: Iterable[Row]) -> list[str]:
    """Both sides of the rows as separate lines, for the vocabulary and for denoising.

    Give it the training part only. All the digits come first, then all the words: no line holds a pair.
    """
    rows = list(rows)
    return [row["translation"][side] for side in (SOURCE_LANG, TARGET_LANG) for row in rows]


def write_corpus(corpus: Mapping[str, Sequence[Row]], folder: Path) -> dict[str, Path]:
    """Writes each part as JSON Lines, and the raw text of all but the test part; returns the paths by name.

    The names: train, validation, test (`.jsonl`), raw_train, raw_validation (`.txt`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {part: folder / f"{part}.jsonl" for part in corpus}
    for part, rows in corpus.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[part].write_text("".join(lines), encoding="utf-8")
    for part in ("train", "validation"):
        files[f"raw_{part}"] = folder / f"raw_{part}.txt"
        lines = (line + "\n" for line in raw_text(corpus[part]))
        files[f"raw_{part}"].write_text("".join(lines), encoding="utf-8")
    return files

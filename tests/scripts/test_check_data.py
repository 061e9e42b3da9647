from __future__ import annotations

import json

import pytest

from vanilla_transformer.scripts.check_data import main
from vanilla_transformer.tokenization.learn_vocabulary import learn_vocabulary


def write(path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"translation": {"en": en, "de": de}}) + "\n" for en, de in rows))
    return str(path)


def clean_rows(first: int = 0, count: int = 40) -> list[tuple[str, str]]:
    return [(f"The number {n} is wanted.", f"Die Nummer {n} wird gesucht.") for n in range(first, first + count)]


LANGUAGES = ["--source-lang", "en", "--target-lang", "de"]


def test_a_clean_corpus_exits_0(tmp_path, capsys):
    train, test = write(tmp_path / "train.jsonl", clean_rows()), write(tmp_path / "test.jsonl", clean_rows(500, 9))
    assert main([*LANGUAGES, "--train-file", train, "--test-file", test]) == 0
    assert capsys.readouterr().out == "train: 40 pairs\ntest: 9 pairs\nno fault found\n"


def test_faults_exit_1_with_counts_rows_and_examples(tmp_path, capsys):
    rows = clean_rows()
    rows[4] = ("Something that has no target.", "")
    rows[5] = ("Left as it is, untouched.", "Left as it is, untouched.")
    train = write(tmp_path / "train.jsonl", rows)
    assert main([*LANGUAGES, "--train-file", train, "--test-file", write(tmp_path / "t.jsonl", rows[7:8])]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "train: 40 pairs",
        "  FAULT  empty: 1 row (5): a side is empty or blank",
        "         row 5: Something that has no target. | ",
        "  FAULT  copy: 1 row (6): the target is the source, untranslated",
        "         row 6: Left as it is, untouched. | Left as it is, untouched.",
        "test: 1 pairs",
        "  FAULT  overlap: 1 row (1): the same pair is in two parts (also in train)",
        "         row 1: The number 7 is wanted. | Die Nummer 7 wird gesucht.",
        "3 kinds of fault found",
    ]


def test_notes_alone_exit_0(tmp_path, capsys):
    rows = clean_rows()
    train = write(tmp_path / "train.jsonl", [*rows, rows[2]])
    assert main([*LANGUAGES, "--train-file", train]) == 0
    printed = capsys.readouterr().out
    assert "  note   duplicate: 1 row (41): the same pair stood in an earlier row\n" in printed
    assert printed.endswith("no fault found\n")


def test_json_with_a_tokenizer_and_limits(tmp_path, capsys):
    rows = clean_rows()
    learn_vocabulary([text for pair in rows for text in pair], 280).save_pretrained(tmp_path / "tokenizer")
    rows[3] = ("The number 3 is wanted, " * 5, "Die Nummer 3 wird gesucht, " * 5)
    rows[8] = ("Emoji 😀 and 한국어 here.", "Emoji 😀 und 한국어 hier.")  # bytes: nothing is lost
    flags = [
        *LANGUAGES,
        "--validation-file",
        write(tmp_path / "v.jsonl", rows),
        "--tokenizer",
        str(tmp_path / "tokenizer"),
    ]
    assert main([*flags, "--max-source-length", "40", "--max-target-length", "60", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clean"] is True and report["rows"] == {"validation": 40}
    (finding,) = report["findings"]
    assert (finding["kind"], finding["severity"], finding["count"], finding["rows"]) == ("over_long", "note", 1, [4])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to check: give --train-file"),
        (["--train-file", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--train-file", "nowhere.jsonl", "--max-source-length", "9"], "give --tokenizer too"),
    ],
)
def test_bad_use_exits_2_with_one_line(capsys, flags, message):
    assert main([*LANGUAGES, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("vanilla-transformer check-data: error: ") and message in error and "\n" not in error


@pytest.mark.slow  # five seconds; other commands are started as programs
def test_through_the_installed_program(tmp_path, run_command):
    train = write(tmp_path / "train.jsonl", [*clean_rows(), ("A sentence without its target.", " ")])
    done = run_command("check-data", *LANGUAGES, "--train-file", train, "--json")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["findings"][0]["rows"] == [41]

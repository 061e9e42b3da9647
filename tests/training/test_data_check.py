from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from vanilla_transformer.training.corpus import load_pairs
from vanilla_transformer.training.data_check import Finding, check_parts


def make_pairs(rows: list[tuple[str, str]]) -> Dataset:
    return Dataset.from_dict({"source": [a for a, _ in rows], "target": [b for _, b in rows]})


def clean_rows(count: int = 60) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [(f"Number {n} is the one we want.", f"Die Nummer {n} wollen wir.") for n in rng.permutation(10**4)[:count]]


def by_kind(findings: list[Finding]) -> dict[str, list[int]]:
    return {finding.kind: finding.rows.tolist() for finding in findings}


class AsciiTokenizer:
    """A token per character, but every character beyond ASCII is lost."""

    def __call__(self, texts, **options):
        return {"input_ids": [[ord(c) for c in text if c.isascii()] + [0] for text in texts]}

    def batch_decode(self, ids, skip_special_tokens):
        return ["".join(map(chr, row[:-1])) for row in ids]


def test_a_clean_corpus_has_no_finding():
    assert check_parts({"train": make_pairs(clean_rows())}, AsciiTokenizer(), 40, 40) == []


# Kind of finding -> what is put where. Each must be found in exactly these rows (counted from 0), and nothing else.
FAULTS = {
    "empty": {3: ("", "Ein Satz."), 9: ("A sentence.", " \t")},
    "copy": {5: ("This was left as it is.", "This was left as it is. ")},
    "short_copy": {6: ("Hamburg", "Hamburg")},
    "length_ratio": {
        7: ("This sentence has a long source, but", "@@"),
        8: ("No", "Das ist nun wirklich ein recht langer Satz, nicht?"),
    },
    "control_characters": {
        1: ("A bell\x07 rang here today.", "Eine Glocke hat geläutet."),
        2: ("Two lines here now.", "Zwei\nZeilen sind hier."),
        4: ("Nothing to see in it.", "Hier ist nichts\u200b zu sehen."),
    },
    "mojibake": {
        11: ("A girl is at the door.", "Ein MÃ¤dchen steht da."),
        12: ("Itâ€™s a dog, not a cat.", "Es ist ein Hund, keine Katze."),
        13: ("A replaced letter here.", "Ein M\ufffddchen steht da."),
        14: ("Hello to all of you.", "ì•ˆë…• liebe Leute alle."),
    },
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_found_where_it_is_and_nowhere_else(kind):
    rows = clean_rows()
    for row, pair in FAULTS[kind].items():
        rows[row] = pair
    (finding,) = check_parts({"train": make_pairs(rows)})
    assert (finding.kind, finding.rows.tolist()) == (kind, [row + 1 for row in FAULTS[kind]])
    assert finding.is_fault == (kind != "short_copy")
    assert all(
        example.startswith(f"row {row + 1}: ") for row, example in zip(FAULTS[kind], finding.examples, strict=False)
    )


def test_all_faults_together():
    rows = clean_rows()
    for kind in FAULTS:
        for row, pair in FAULTS[kind].items():
            rows[row] = pair
    assert by_kind(check_parts({"train": make_pairs(rows)})) == {
        kind: [row + 1 for row in places] for kind, places in FAULTS.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "Das Menü“ – „Größe“ kostet 5 € …",
        "«ÉCOLÉ» à l’Élysée, où ça ? Âge, Ãgua, São",
        "안녕하세요 ‘여러분’",
        "می‌خواهم 👩‍👧 नहीं",
        "Tab\there",
    ],
)
def test_right_text_is_no_fault(text):
    rows = [*clean_rows(), (f"{text} a", f"{text} b")]
    assert check_parts({"train": make_pairs(rows)}) == []


def test_examples_show_what_nobody_sees():
    rows = clean_rows()
    rows[2] = ("안녕 " * 30 + "\x07하세요" + " 안녕" * 30, "Hello" * 40)
    (example,) = check_parts({"train": make_pairs(rows)})[0].examples
    assert "녕 \\x07하세요 안" in example and example.startswith("row 3: ...") and example.endswith("HelloHello...")
    assert len(example) < 170 and "\n" not in example


def test_duplicates_are_the_later_rows():
    rows = clean_rows()
    rows[20], rows[30] = rows[10], rows[10]
    rows[40] = (rows[11][0], "Etwas anderes wollen wir.")  # the same source with another target is none
    assert by_kind(check_parts({"train": make_pairs(rows)})) == {"duplicate": [21, 31]}


def test_lengths_in_tokens_and_lost_characters():
    rows = clean_rows()
    rows[0] = ("A large and long sentence, long, so long.", "Ein großer, sehr langer Satz — so lang.")
    findings = check_parts({"train": make_pairs(rows)}, AsciiTokenizer(), 40, 40)
    assert by_kind(findings) == {"lost_characters": [1], "over_long": [1]}
    assert findings[0].detail == "lost: ß (U+00DF), — (U+2014)"
    longest = max(len(target) for _, target in rows[1:])
    assert by_kind(check_parts({"train": make_pairs(rows[1:])}, AsciiTokenizer(), 99, longest + 1)) == {}
    over = [i + 1 for i, (_, target) in enumerate(rows[1:]) if len(target) == longest]
    assert by_kind(check_parts({"train": make_pairs(rows[1:])}, AsciiTokenizer(), 99, longest)) == {"over_long": over}


def test_overlap_between_parts():
    rows = clean_rows(90)
    test = [rows[85], (rows[3][0], "Anders übersetzt ist sie hier."), rows[7], rows[86]]
    findings = check_parts({"train": make_pairs(rows[:80]), "test": make_pairs(test)})
    assert [(f.part, f.kind, f.rows.tolist(), f.detail) for f in findings] == [
        ("test", "overlap", [3], "also in train"),
        ("test", "source_overlap", [2], "also in train"),
    ]


def test_a_lost_line_is_reported_once_with_its_rows():
    rows = clean_rows(400)
    sources, targets = [a for a, _ in rows], [b for _, b in rows]
    targets[300] = "Ein Satz, der zu lang ist, " * 5  # inside the block that is no finding of its own
    shifted = list(zip(sources[:-1], targets[:250] + targets[251:], strict=True))
    (finding,) = check_parts({"train": make_pairs(shifted)})
    assert finding.kind == "misaligned"
    assert finding.rows.tolist() == list(range(251, 400))
    assert (
        finding.detail == "rows 251 to 399: the target stands 1 row earlier (is a line missing or surplus just before?)"
    )


def test_unrelated_sides_say_so():
    rows = clean_rows(400)
    order = np.random.default_rng(5).permutation(400)
    (finding,) = check_parts({"train": make_pairs([(rows[i][0], rows[j][1]) for i, j in enumerate(order)])})
    assert finding.kind == "misaligned" and finding.detail.startswith("the two sides have nothing to do with")


def test_json_of_a_finding():
    rows = np.arange(1, 501)
    assert Finding("train", "empty", rows, ("row 1: a | ",), "why").to_json(most_rows=3) == {
        "part": "train",
        "kind": "empty",
        "severity": "fault",
        "meaning": "a side is empty or blank",
        "count": 500,
        "rows": [1, 2, 3],
        "detail": "why",
        "examples": ["row 1: a | "],
    }


def test_multi30k_has_what_it_really_has(shared_data):
    folder = shared_data / "multi30k" / "en-de"
    parts = {
        part: load_pairs([str(folder / f"{part}.jsonl.gz")], "en", "de")
        for part in ("train", "validation", "test_2016_flickr")
    }
    # Two targets are "@@", three pairs stand twice, one validation source is in the training part with another target.
    assert {(f.part, f.kind): f.rows.tolist() for f in check_parts(parts)} == {
        ("train", "length_ratio"): [16510, 16664],
        ("train", "duplicate"): [14215, 16867, 20149],
        ("validation", "source_overlap"): [687],
    }

"""Plain lines, tables and JSON: as many lines as asked for, and everything in its place."""

from __future__ import annotations

import csv
import io
import json

import pytest

from vanilla_transformer.deployment.line_output import LineOutput
from vanilla_transformer.deployment.translated_lines import Candidate, TranslatedLine

BEST = Candidate("Ein\tMann\nläuft\u2028", -1.25, -0.5, False, 62.5, [(0, 0), (1, 2)])
SECOND = Candidate("", -2.0, -0.75, True, 12.0, [])
LINE = TranslatedLine(7, [BEST, SECOND], 2, False)


def test_plain_lines():
    assert LineOutput().heading() == ""
    assert LineOutput().written(LINE) == "Ein\tMann läuft\u2028\n\n"
    assert LineOutput(scores=True).written(LINE) == "-1.2500\t-0.5000\tEin\tMann läuft\u2028\n-2.0000\t-0.7500\t\n"


def test_a_table():
    output = LineOutput("tsv", utility="chrf", alignments=True)
    rows = list(csv.DictReader(io.StringIO(output.heading() + output.written(LINE)), delimiter="\t"))
    assert rows[0] == {
        **{"line": "7", "rank": "1", "score": "-1.2500", "normalized_score": "-0.5000", "chrf": "62.5000"},
        **{"translation": "Ein Mann läuft\u2028", "alignment": "0-0 1-2"},
    }
    assert (rows[1]["rank"], rows[1]["translation"], rows[1]["alignment"]) == ("2", "", "")
    assert LineOutput("tsv").heading() == "line\trank\tscore\tnormalized_score\ttranslation\n"


def test_json():
    written = LineOutput("jsonl", utility="bleu", alignments=True).written(LINE)
    assert written.count("\n") == 1
    row = json.loads(written)
    best = {"translation": BEST.text, "score": -1.25, "normalized_score": -0.5, "cut": False}
    best |= {"utility": {"bleu": 62.5}, "alignment": "0-0 1-2"}
    second = {"translation": "", "score": -2.0, "normalized_score": -0.75, "cut": True}
    second |= {"utility": {"bleu": 12.0}, "alignment": ""}
    assert row == {"line": 7, **best, "pieces": 2, "n_best": [best, second]}


@pytest.mark.parametrize("candidates", [[BEST], [SECOND]])
def test_json_of_one_translation(candidates):
    row = json.loads(LineOutput("jsonl").written(TranslatedLine(1, candidates, 1, False)))
    assert list(row) == ["line", "translation", "score", "normalized_score", "cut", "pieces"]

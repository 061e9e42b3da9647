r"""Translated lines -> text: plain lines, a table, or JSON.

    text     one line for each translation, best first; with scores, "score <tab> normalized score <tab> text"
    tsv      a heading, and a row for each translation: line, rank (from 1), score, normalized_score, with minimum Bayes
             risk the utility under its name, translation, and if asked for alignment
    jsonl    an object for each line: {"line": 7, "translation": ..., "score": ..., "normalized_score": ..., "cut": false,
             "pieces": 1, "utility": {"chrf": ...}, "alignment": "0-0 1-2", "n_best": [...]}, the last three if asked for

Line numbers count the input's lines from 1. A line end inside a translation becomes a blank in text and TSV, and so does a tab in
TSV; JSON keeps both. Scores are sums of natural logarithms.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from vanilla_transformer.deployment.translated_lines import Candidate, TranslatedLine
from vanilla_transformer.deployment.word_alignment import pharaoh

Format = Literal["text", "tsv", "jsonl"]


def one_line(text: str) -> str:
    """`text` without the line ends that it may hold: a line in must give a line out."""
    return re.sub(r"[\r\n]+", " ", text)


@dataclass(frozen=True)
class LineOutput:
    """How lines are written.

    Args:
        format: "text", "tsv" or "jsonl".
        scores: with them, in plain text (the others always have them).
        utility: the name of minimum Bayes risk's, or None.
        alignments: with them, in TSV and JSON.
    """

    format: Format = "text"
    scores: bool = False
    utility: str | None = None
    alignments: bool = False

    def heading(self) -> str:
        """What stands once above all lines."""
        return "\t".join(self._columns()) + "\n" if self.format == "tsv" else ""

    def written(self, line: TranslatedLine) -> str:
        if self.format == "jsonl":
            return json.dumps(self._object(line), ensure_ascii=False) + "\n"
        rows = self._row if self.format == "tsv" else self._plain
        return "".join(rows(line, rank, candidate) + "\n" for rank, candidate in enumerate(line.candidates, start=1))

    def _columns(self) -> list[str]:
        columns = ["line", "rank", "score", "normalized_score"]
        columns += [self.utility] if self.utility else []
        return [*columns, "translation", *(["alignment"] if self.alignments else [])]

    def _row(self, line: TranslatedLine, rank: int, candidate: Candidate) -> str:
        cells = [str(line.number), str(rank), f"{candidate.score:.4f}", f"{candidate.normalized_score:.4f}"]
        cells += [f"{candidate.utility or 0.0:.4f}"] if self.utility else []
        cells.append(re.sub(r"[\t\r\n]+", " ", candidate.text))
        return "\t".join([*cells, *([pharaoh(candidate.words or [])] if self.alignments else [])])

    def _plain(self, line: TranslatedLine, rank: int, candidate: Candidate) -> str:
        scores = f"{candidate.score:.4f}\t{candidate.normalized_score:.4f}\t" if self.scores else ""
        return scores + one_line(candidate.text)

    def _object(self, line: TranslatedLine) -> dict[str, Any]:
        best = line.candidates[0]
        found = {"line": line.number, **self._fields(best), "pieces": line.pieces}
        return found | ({"n_best": [*map(self._fields, line.candidates)]} if len(line.candidates) > 1 else {})

    def _fields(self, candidate: Candidate) -> dict[str, Any]:
        found: dict[str, Any] = {"translation": candidate.text, "score": round(candidate.score, 6)}
        found |= {"normalized_score": round(candidate.normalized_score, 6), "cut": candidate.cut}
        if self.utility:
            found["utility"] = {self.utility: candidate.utility}
        return found | ({"alignment": pharaoh(candidate.words or [])} if self.alignments else {})

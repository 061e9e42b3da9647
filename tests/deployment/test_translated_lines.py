"""Lines through pieces and back, with a translator that can be followed by eye."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from vanilla_transformer.deployment import translated_lines
from vanilla_transformer.deployment.line_input import Line
from vanilla_transformer.deployment.translated_lines import LineTranslator
from vanilla_transformer.deployment.word_alignment import TokenLinks
from vanilla_transformer.modeling import Translation


class Upper:
    """Writes capitals; a word is a token, and `limit` of them with `</s>` fit. The second best has a "2" behind it."""

    def __init__(self, limit: int = 5, samples: list[str] | None = None):
        self.model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=limit))
        self.limit = limit
        self.samples = samples
        self.asked: list[tuple[list[str], dict[str, Any]]] = []

    def tokenizer(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [*range(len(text.split())), 2]}

    def stream(self, texts, *, n_best=1, chunk_size=1024, **options):
        texts = list(texts)
        assert all(len(text.split()) < self.model.config.max_position_embeddings for text in texts)
        if texts:
            self.asked.append((texts, options))
        return iter([self._translation(text, n_best) for text in texts])

    def _translation(self, text: str, n_best: int) -> Translation:
        best: list[Translation] = []
        pieces = int(bool(text.strip()))
        for rank in range(n_best):
            made = text.strip().upper() + (str(rank + 1) if rank else "") if pieces else ""
            if self.samples and pieces:
                made = self.samples[rank]
            ids = [*range(len(text.split())), 2]
            best.append(Translation(made, -1.0 - rank, -0.5, ids, "cut" in text, pieces, best))
        return best[0]


def dots(text: str) -> list[str]:
    """Splits behind full stops."""
    bare = text.strip()
    start = text.index(bare)
    inner = re.split(r"(?<=\.)(\s*)(?=.)", bare)
    return [text[:start], *inner, text[start + len(bare) :]]


def texts(found) -> list[list[str]]:
    return [[candidate.text for candidate in line.candidates] for line in found]


def lines(*all_texts: str) -> list[Line]:
    return [Line(number, text) for number, text in enumerate(all_texts, start=1)]


def test_a_line_that_fits_is_one_piece_as_it_stands():
    upper = Upper()
    found = LineTranslator(upper).translate(lines("a b", "", "  \t", " c "))
    assert texts(found) == [["A B"], [""], [""], ["C"]]
    assert [line.number for line in found] == [1, 2, 3, 4]
    assert [(line.pieces, line.too_long) for line in found] == [(1, False), (0, False), (0, False), (1, False)]
    assert upper.asked[0][0][-1] == " c "


def test_sentences_come_back_with_their_white_space():
    found = LineTranslator(Upper(), split=dots).translate(lines("  a b.  c.d. \t", "x"))
    assert texts(found) == [["  A B.  C.D. \t"], ["X"]]
    best = found[0].candidates[0]
    assert (found[0].pieces, found[0].too_long, best.score) == (3, False, -3.0)
    # 3 + 2 + 2 tokens: ((5 + 7) / 6) ^ 0.6
    assert best.normalized_score == pytest.approx(-3 / 2**0.6)
    assert found[1].candidates[0].normalized_score == -0.5  # one piece: the model's own


@pytest.mark.parametrize("split", [None, dots])
def test_what_is_too_long_is_halved_and_counted(split):
    found = LineTranslator(Upper(limit=4), {"length_penalty": 1.0, "length_penalty_kind": "hf"}, split=split).translate(
        lines("  aa bb cc dd ee ff. gg\u2028", "cut. hh ii")
    )
    assert texts(found) == [["  AA BB CC DD EE FF. GG\u2028"], ["CUT. HH II"]]
    assert [line.too_long for line in found] == [True, False] and found[0].pieces >= 3
    best = found[0].candidates[0]
    assert best.normalized_score == pytest.approx(best.score / (7 + found[0].pieces))
    assert found[1].candidates[0].cut and not best.cut


def test_n_best_are_joined_by_rank_and_never_fewer():
    found = LineTranslator(Upper(), n_best=2, split=dots).translate(lines("a. b.", ""))
    assert texts(found) == [["A. B.", "A.2 B.2"], ["", ""]]
    assert [candidate.score for candidate in found[0].candidates] == [-2.0, -4.0]


def test_constraints_go_with_their_lines():
    upper = Upper()
    asked = [
        Line(1, "a. b.", prefix="P"),
        Line(2, "c. d."),
        Line(3, "e", required=("R",), banned=("B",)),
        Line(4, "f", prefix="Q", required=("R",), banned=("B",)),
    ]
    found = LineTranslator(upper, {"num_beams": 3, "banned": ["X"]}, split=dots).translate(asked)
    assert texts(found) == [["A. B."], ["C. D."], ["E"], ["F"]]
    first, second = upper.asked
    assert first == (["a. b.", "c.", "d."], {"num_beams": 3, "banned": ["X"], "target_prefix": ["P", "", ""]})
    assert second == (
        ["e", "f"],
        {"num_beams": 3, "banned": ["X", "B"], "required": ["R"], "target_prefix": ["", "Q"]},
    )
    with pytest.raises(ValueError, match="^in.jsonl:7: longer than the model's max_position_embeddings=5"):
        LineTranslator(upper).translate([Line(7, "a b c d e", prefix="P", file="in.jsonl")])


class Strict(Upper):
    """Refuses, as the search does, without a word about where: the text "bad" and the phrase "never"."""

    refusal = "the required phrases have 9 tokens, more than the 2 that an output may have"

    def stream(self, texts, *, required=(), **options):
        texts = list(texts)
        if any("bad" in text for text in texts) or "never" in required:
            self.asked.append((texts, options))
            raise ValueError(self.refusal)
        return super().stream(texts, **options)


@pytest.mark.parametrize("blamed", range(7))
def test_of_lines_that_ask_for_something_the_one_to_blame_is_named(blamed):
    texts = ["a"] * 7
    texts[blamed] = "bad"
    asked = [Line(n, text, required=("x",), file="in.jsonl") for n, text in enumerate(texts, start=11)]
    with pytest.raises(ValueError, match=f"^in.jsonl:{11 + blamed}: {Strict.refusal}$"):
        LineTranslator(Strict()).translate([Line(10, "a"), *asked])


def test_a_line_whose_phrases_cannot_be_is_named():
    asked = [Line(1, "a"), Line(2, "b", required=("x",)), Line(3, "c", required=("never",)), Line(4, "d")]
    with pytest.raises(ValueError, match=f"^standard input, line 3: {Strict.refusal}$"):
        LineTranslator(Strict()).translate(asked)


def test_what_is_wrong_with_all_lines_is_said_once_and_of_none():
    strict = Strict()
    with pytest.raises(ValueError, match=f"^{Strict.refusal}$"):
        LineTranslator(strict).translate(lines("bad", "bad"))
    assert len(strict.asked) == 1


def test_minimum_bayes_risk_takes_the_most_usual_sample():
    # Drawn likeliest first. "the cat" is near to most others; the likeliest is not.
    samples = ["a dog ran", "the cats sat", "the cat", "the cat", "the cat"]
    upper = Upper(samples=samples)
    work = LineTranslator(upper, {"top_p": 0.9}, n_best=2, samples=5)
    [line, empty] = work.translate(lines("source", ""))
    assert line.candidates[0].text == "the cat"
    assert line.candidates[1].text != "the cat"
    assert line.candidates[0].utility > line.candidates[1].utility > 0
    assert line.candidates[0].score == -3.0  # of the sample that was chosen
    assert [candidate.text for candidate in empty.candidates] == ["", ""]
    asked = upper.asked[0][1]
    assert (asked["do_sample"], asked["num_beams"], asked["top_p"]) == (True, 1, 0.9)


def test_alignments_of_pieces_stand_at_their_words(monkeypatch):
    def first_to_last(model, tokenizer, sources, outputs, prefix):
        """One token for each word; the first target word looks at the last source word, and the last at the first."""
        spans = [[match.span() for match in re.finditer(r"\S+", source)] for source in sources]
        return [TokenLinks(row, row, [*range(len(row))][::-1]) for row in spans]

    monkeypatch.setattr(translated_lines, "token_links", first_to_last)
    work = LineTranslator(Upper(), n_best=1, align=True, split=dots)
    two, none, one = work.translate(lines("  a bb.  c dd e.\t", "", "f"))
    assert two.candidates[0].text == "  A BB.  C DD E.\t"
    assert two.candidates[0].words == [(0, 1), (1, 0), (2, 4), (3, 3), (4, 2)]
    assert none.candidates[0].words is not None and one.candidates[0].words == [(0, 0)]


def test_every_line_draws_by_its_number_in_whatever_chunk_it_comes():
    upper = Upper()
    work = LineTranslator(upper, {"do_sample": True, "seed": 3})
    for chunk in (lines("a", "b"), [Line(3, "a")], lines("a", "b")):
        work.translate(chunk)
    assert [(options["seed"], options["numbers"]) for _, options in upper.asked] == [(3, [0, 1]), (3, [2]), (3, [0, 1])]


def test_not_even_one_character_fits():
    class Wide(Upper):
        def tokenizer(self, text):
            return {"input_ids": [0] * 9}

    with pytest.raises(ValueError, match="^standard input, line 4: the character 'a' alone is too long for .*=5"):
        LineTranslator(Wide()).translate([Line(4, "a")])

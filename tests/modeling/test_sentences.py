"""Long texts in pieces: where sentences end, that nothing is lost, and that only what is too long is cut further."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from vanilla_transformer.modeling.sentences import sentences, split_text


@pytest.mark.parametrize(
    "marked",
    [
        "One.| Two!| Three?|  Four…|\nFive",
        "Wait...| What?!| Yes.",
        'He said: "Go."| Then (really?)| he went [at last.]| Home.',
        "„Ja.“| Er ging.| »Nein!«| Sie blieb.| « Oui.»",
        "Pi is 3.14159 on www.example.org, e.g.this.| True",
        "Line one\nis not over.|\nLine two is.",
        "A heading|\n\nA text|\r\n \r\nAnother",
        "क्या?| हाँ।| Ja| \n\t\n هل؟| نعم۔| Ende",
        "今天很好。|你呢？|我也是！| 再见",
        "他说：“走吧。”|“好。”|他走了。",
        "「行く。」|（本当？）|と言った。|\u3000終",
        "まさか！？|ほんと!?これ｡|それ",
        "。。”|！”| ？",
        "...",
        "x",
    ],
)
def test_where_sentences_end(marked):
    expected = [sentence.strip() for sentence in marked.split("|")]
    assert sentences(marked.replace("|", ""))[1::2] == expected
    outside = "\u3000\n" + marked.replace("|", "") + " \t"
    assert sentences(outside)[1::2] == expected and "".join(sentences(outside)) == outside


def test_pieces_by_hand():
    def split(text: str, longest: int) -> list[str]:
        return split_text(text, lambda piece: len(piece) <= longest)

    text = " Ab.  Cd.\nEf. Gh. "
    for longest in (99, 3):
        assert split(text, longest) == [" ", "Ab.", "  ", "Cd.", "\n", "Ef.", " ", "Gh.", " "]
    assert split("你好。走吧。", 5) == ["", "你好。", "", "走吧。", ""]
    # A sentence too long by itself: the white space nearest its middle.
    assert split("one two  three four. Go.", 10) == ["", "one two", "  ", "three", " ", "four.", " ", "Go.", ""]
    assert split("abcdefghij", 3) == ["", "ab", "", "cde", "", "fg", "", "hij", ""]
    with pytest.raises(ValueError, match="the character 'x' alone is too long"):
        split("x. Go.", 0)


def test_nothing_is_lost_and_no_sentence_that_fits_is_cut():
    draw = random.Random(0)
    for _ in range(300):
        text = "a" + "".join(
            draw.choices(["a", "bc", " ", "  ", "\n", ". ", ".", "。", "” ", "?!"], k=draw.randint(0, 60))
        )
        longest = draw.randint(1, 20)
        parts = split_text(text, lambda piece, longest=longest: len(piece) <= longest)
        assert "".join(parts) == text
        assert all(piece.strip() == piece and 0 < len(piece) <= longest for piece in parts[1::2])
        assert all(gap.strip() == "" for gap in parts[::2])
        begins, ends = (list(accumulate(map(len, parts)))[i::2] for i in (0, 1))
        sentence_begins, sentence_ends = (list(accumulate(map(len, sentences(text))))[i::2] for i in (0, 1))
        assert set(ends) >= set(sentence_ends) and set(begins[:-1]) >= set(sentence_begins[:-1])
        for begin, end in zip(sentence_begins, sentence_ends, strict=False):
            if end - begin <= longest:
                assert not any(begin < cut < end for cut in ends)


def test_long_runs_of_one_character_take_no_time_to_speak_of():
    for text in [
        "." * 200_000 + "x",
        " " * 200_000 + "x",
        "a" + " " * 200_000 + "x",
        "x" + "\n " * 100_000 + "x",
        "." + '"' * 200_000 + "x",
    ]:
        assert "".join(sentences(text)) == text  # with a step for each pair of characters: hours

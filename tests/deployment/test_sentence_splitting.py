"""Sentences and the white space around them: together they are the text, whatever it holds."""

from __future__ import annotations

import random
import sys

import pytest

from vanilla_transformer.deployment.sentence_splitting import sentence_splitter

sentencex = pytest.importorskip("sentencex", reason="sentencex is not installed (the extra `sentences`)")


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("en", "One. Two!", ["", "One.", " ", "Two!", ""]),
        ("en", "  Mr. Smith paid $3.5.  He left.\t", ["  ", "Mr. Smith paid $3.5.", "  ", "He left.", "\t"]),
        ("en", "A title\n\nA sentence. ", ["", "A title", "\n\n", "A sentence.", " "]),
        ("de", "Das ist z. B. gut. Ja.", ["", "Das ist z. B. gut.", " ", "Ja.", ""]),
        ("zh", "你好。世界！", ["", "你好。", "", "世界！", ""]),
        ("en", "no end", ["", "no end", ""]),
        ("en", "Mr. Bell I\u00a0. He fell.", ["", "Mr. Bell I\u00a0.", " ", "He fell.", ""]),  # sentencex alone panics
    ],
)
def test_sentences_by_the_rules_of_the_language(language, text, expected):
    assert sentence_splitter(language)(text) == expected


def test_the_parts_are_the_text_again_and_sentences_are_bare():
    rng = random.Random(0)
    letters = [
        *"abIJ. .!?\n\r\t \u2028\u00a0\u3000\u2009\"'()«»。！？…",
        "Mr.",
        "z.B.",
        "\x00",
        "😀",
        "\x85",
        "\x1c",
        "한",
    ]
    split = {language: sentence_splitter(language) for language in ("en", "fr", "ja", "xx")}
    several = 0
    for _ in range(1500):
        text = "".join(rng.choices(letters, k=rng.randint(1, 25)))
        for each in split.values():
            parts = each(text)
            assert "".join(parts) == text
            assert len(parts) % 2 == 1 and all(part == part.strip() != "" for part in parts[1::2])
            assert not any(part.strip() for part in parts[::2])
            several += len(parts) > 3
    assert several > 1000


@pytest.mark.parametrize("fault", ["panic", "lost characters"])
def test_a_fault_of_the_library_costs_no_line(fault, monkeypatch):
    class PanicException(BaseException):
        pass

    def broken(language, text):
        if fault == "panic":
            raise PanicException("end byte index 15 is not a char boundary")
        return [text[:-1]]

    monkeypatch.setattr(sentencex, "segment", broken)
    assert sentence_splitter("en")(" One. Two.") == [" ", "One.", " ", "Two.", ""]


def test_ctrl_c_is_no_fault(monkeypatch):
    def interrupted(language, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(sentencex, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sentence_splitter("en")("One. Two.")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'vanilla-transformer\[sentences\]'"):
        sentence_splitter("en")

"""BPE-dropout: without dropout the tokenizer's ids, with it the paper's algorithm, and always the same for the same seed."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from vanilla_transformer.tokenization import VanillaTransformerTokenizer, bpe_dropout, learn_vocabulary
from vanilla_transformer.tokenization.bpe_dropout import BpeDropout

WORDS = "the red cat and the green dog sleep under the blue tree while unhappier birds sing in houses".split()
STRANGE = [
    "",
    " ",
    "  two  spaces ",
    ">>de<< the red cat",
    ">>de<<the <BT> cat<BT><BT>",
    "<BT> the cat",
    "14:05, 1999!?",
    "</s> <pad> <mask> is text",
    "Ä ß 한국어 दुनिया 😀 \u2028\x00",
    "aaaaaaaaaa the thethethe",
]


@pytest.fixture(scope="module")
def tokenizer() -> VanillaTransformerTokenizer:
    lines = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    return learn_vocabulary(lines, 320, languages=["de"], extra_tokens=["<BT>"])


def seeded(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.mark.parametrize("text", STRANGE)
def test_without_dropout_the_ids_are_the_tokenizers_and_with_it_they_are_the_same_text(tokenizer, text):
    assert BpeDropout(tokenizer, 0.0)(text, seeded(1)) == tokenizer(text)["input_ids"]
    cut = BpeDropout(tokenizer, 0.5)
    for seed in range(20):
        ids = cut(text, seeded(seed))
        assert tokenizer.decode(ids[:-1]) == text and ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1
        for added in (">>de<<", "<BT>"):
            assert ids.count(tokenizer.convert_tokens_to_ids(added)) == text.count(added)


def test_what_the_tokenizer_was_asked_before_does_not_matter(tokenizer):
    expected = BpeDropout(tokenizer, 0.0)(STRANGE[7], seeded(1))
    tokenizer([STRANGE[7], "a"], truncation=True, max_length=3, padding="max_length")
    assert BpeDropout(tokenizer, 0.0)(STRANGE[7], seeded(1)) == expected
    with_special = learn_vocabulary([" ".join(WORDS)] * 2, 300)
    with_special.split_special_tokens = False
    text = "a<mask> b"
    assert BpeDropout(with_special, 0.0)(text, seeded(1)) == with_special(text)["input_ids"]


def test_without_dropout_real_text_in_five_languages_gets_the_tokenizers_ids(shared_data: Path):
    texts: list[str] = []
    for name in ("multi30k/en-de", "multi30k/en-fr", "multi30k/en-cs", "ko-en/tatoeba"):
        with gzip.open(shared_data / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts += [text for line in islice(lines, 250) for text in json.loads(line)["translation"].values()]
    tokenizer = learn_vocabulary(texts, 2000)
    cut = BpeDropout(tokenizer, 0.0)
    rng = seeded(1)
    expected = tokenizer(texts)["input_ids"]
    assert [cut(text, rng) for text in texts] == expected
    assert [cut.recut(ids, rng) for ids in expected] == expected
    with_dropout = BpeDropout(tokenizer, 0.1)
    assert tokenizer.batch_decode([with_dropout(text, rng)[:-1] for text in texts]) == texts


def test_the_same_generator_gives_the_same_ids_whatever_was_cut_before(tokenizer, monkeypatch):
    text = " ".join(WORDS)
    cut = BpeDropout(tokenizer, 0.3)
    expected = [cut(text, seeded(1, epoch)) for epoch in range(10)]
    assert len({tuple(ids) for ids in expected}) > 5
    fresh = BpeDropout(tokenizer, 0.3)
    fresh("something else", seeded(7))
    assert [fresh(text, seeded(1, epoch)) for epoch in reversed(range(10))] == expected[::-1]
    plain = tokenizer(text)["input_ids"]
    assert [fresh.recut(plain, seeded(1, epoch)) for epoch in range(10)] == expected
    monkeypatch.setattr(bpe_dropout, "_MOST_REMEMBERED", 0)  # forgets everything before each text
    assert [fresh(text, seeded(1, epoch)) for epoch in range(10)] == expected
    assert fresh._remembered < 2000


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_a_long_word_is_cut_as_if_it_were_remembered_and_is_not(tokenizer, monkeypatch, p):
    draw = random.Random(1)
    words = ["".join(draw.choices([*WORDS, "e", "ee", "ß", "zq"], k=k)) for k in (1, 2, 3, 5, 8, 13, 21, 40) * 4]
    texts = [*words, " ".join(words[:8]), "aaaaaaaa" * 20, "thethethe" * 30, f">>de<<{words[-1]} cat<BT>{words[-1]}"]
    monkeypatch.setattr(bpe_dropout, "_LONGEST_REMEMBERED", 10_000)
    remembering = BpeDropout(tokenizer, p)
    expected = [remembering(text, seeded(n)) for n, text in enumerate(texts)]
    for longest in (0, 7, 100):
        monkeypatch.setattr(bpe_dropout, "_LONGEST_REMEMBERED", longest)
        cut = BpeDropout(tokenizer, p)
        assert [cut(text, seeded(n)) for n, text in enumerate(texts)] == expected
        assert longest == 100 or cut._remembered < remembering._remembered / 4


def test_a_word_of_thousands_of_letters_takes_little_memory(tokenizer):
    text = "".join(random.Random(1).choices(WORDS, k=2000))
    cut = BpeDropout(tokenizer, 0.1)
    tracemalloc.start()
    ids = cut(text, seeded(1))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(text) > 8000 and tokenizer.decode(ids[:-1]) == text
    assert most < 500 * len(text), "more than in proportion to its letters"


def merges_of(tokenizer: Any) -> dict[tuple[str, str], int]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return {tuple(merge): rank for rank, merge in enumerate(merges)}


def algorithm_1(word: str, merges: dict[tuple[str, str], int], p: float, rng: np.random.Generator) -> tuple[str, ...]:
    """The paper's, word for word."""
    pieces = list(word)
    while True:
        possible = [(merges[pair], i) for i, pair in enumerate(zip(pieces, pieces[1:], strict=False)) if pair in merges]
        possible = [merge for merge in possible if rng.random() >= p]
        if not possible:
            return tuple(pieces)
        _, i = min(possible)
        pieces[i : i + 2] = ["".join(pieces[i : i + 2])]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_each_way_to_cut_a_word_is_as_likely_as_in_the_papers_algorithm(tokenizer, p):
    merges, rng, n = merges_of(tokenizer), seeded(3), 4000
    cut = BpeDropout(tokenizer, p)
    ours: dict[tuple[str, ...], int] = {}
    theirs: dict[tuple[str, ...], int] = {}
    for _ in range(n):
        pieces = tuple(tokenizer.convert_ids_to_tokens(cut("sleep", rng)[:-1]))
        ours[pieces] = ours.get(pieces, 0) + 1
        pieces = algorithm_1("Ġsleep", merges, p, rng)
        theirs[pieces] = theirs.get(pieces, 0) + 1
    assert len(theirs) > 4
    for pieces in ours.keys() | theirs.keys():
        a, b = ours.get(pieces, 0), theirs.get(pieces, 0)
        assert abs(a - b) <= 5 * np.sqrt(a + b), (pieces, a, b)  # five standard deviations of the difference


def test_real_words_have_as_many_pieces_as_in_the_papers_algorithm_and_more_than_in_tokenizers_own(shared_data: Path):
    with gzip.open(shared_data / "multi30k/en-de/train.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line)["translation"] for line in islice(lines, 400)]
    texts = [text for pair in pairs for text in pair.values()]
    tokenizer = learn_vocabulary(texts, 1200)
    words = [
        word
        for text in texts[:200]
        for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(f" {text}")
    ]
    merges, rng = merges_of(tokenizer), seeded(4)
    cut = BpeDropout(tokenizer, 0.1)
    ours = sum(len(cut(text, rng)) - 1 for text in texts[:200] * 10) / 10
    paper = sum(len(algorithm_1(word, merges, 0.1, rng)) for word in words)
    assert len(words) > 2000 and ours == pytest.approx(paper, rel=0.02)
    # In model.dropout of tokenizers merges that are possible no more stay in the queue, and call others back.
    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.model.dropout = 0.1
    theirs = sum(len(other.encode(text).ids) - 1 for text in texts[:200])
    assert sum(len(ids) - 1 for ids in tokenizer(texts[:200])["input_ids"]) < theirs < 0.97 * ours


def test_what_cannot_be_cut_is_refused(tokenizer):
    for p in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"bpe_dropout={p} is a probability"):
            BpeDropout(tokenizer, p)
    other = SimpleNamespace(backend_tokenizer=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), eos_token_id=0)
    with pytest.raises(ValueError, match="bpe_dropout=0.1 needs a tokenizer of byte-level BPE"):
        BpeDropout(other, 0.1)
    ids = tokenizer("the cat")["input_ids"]
    with pytest.raises(ValueError, match="bpe_dropout needs ids without dropout"):
        BpeDropout(tokenizer, 0.1).recut([*tokenizer.convert_tokens_to_ids(["Ġ", "t", "h", "e"]), ids[-1]], seeded(1))

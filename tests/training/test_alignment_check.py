from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from vanilla_transformer.training.alignment_check import MIN_ROWS, Block, SideWords, misaligned_blocks


def made_up_corpus(rows: int = 800, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences over 300 words, translated word by word into other words, in another order, some left out."""
    rng = np.random.default_rng(seed)
    source_words, target_words = (
        ["".join(rng.choice(list(letters), rng.integers(3, 9))) for _ in range(300)]
        for letters in ("abcdefgh", "mnopqrst")
    )
    sources, targets = [], []
    for _ in range(rows):
        words = rng.choice(300, rng.integers(4, 15))
        kept = rng.permutation(words)[: len(words) - rng.integers(0, 2)]
        sources.append(" ".join(source_words[i] for i in words))
        targets.append(" ".join(target_words[i] for i in kept))
    return sources, targets


def blocks(sources: list[str], targets: list[str]) -> list[Block]:
    sides = SideWords(), SideWords()
    for side, texts in zip(sides, (sources, targets), strict=True):
        for start in range(0, len(texts), 300):
            side.add(texts[start : start + 300])
    return misaligned_blocks(*sides)


@pytest.mark.parametrize("rows", [0, 1, MIN_ROWS - 1, MIN_ROWS, 800])
def test_a_clean_corpus_has_none(rows):
    assert blocks(*(side[:rows] for side in made_up_corpus())) == []


def test_a_lost_target_shifts_everything_behind_it():
    sources, targets = made_up_corpus()
    assert blocks(sources[:-1], targets[:300] + targets[301:]) == [Block(300, 798, -1)]


def test_a_lost_source_shifts_everything_behind_it():
    sources, targets = made_up_corpus()
    assert blocks(sources[:300] + sources[301:], targets[:-1]) == [Block(300, 798, 1)]


def test_a_line_lost_near_the_beginning_shifts_nearly_all():
    # What goes together is then learned at an offset that the lengths have told.
    sources, targets = made_up_corpus()
    assert blocks(sources[:-1], targets[:8] + targets[9:]) == [Block(8, 798, -1)]


def test_several_lost_lines():
    sources, targets = made_up_corpus()
    assert blocks(sources[:-7], targets[:300] + targets[307:]) == [Block(300, 306, None), Block(307, 792, -7)]


@pytest.mark.parametrize("length", [12, 60])
def test_a_block_that_ends(length):
    sources, targets = made_up_corpus()
    end = 300 + length
    assert blocks(sources, targets[:300] + targets[301:end] + targets[300:301] + targets[end:]) == [
        Block(300, end - 1, -1)
    ]


def test_a_block_in_another_order_has_no_offset():
    sources, targets = made_up_corpus()
    order = 300 + np.random.default_rng(1).permutation(60)
    found = blocks(sources, targets[:300] + [targets[i] for i in order] + targets[360:])
    assert [block.offset for block in found] == [None]
    assert abs(found[0].first - 300) <= 1 and abs(found[0].last - 359) <= 1  # a row may keep its place


def test_unrelated_sides_are_one_block():
    sources, targets = made_up_corpus()
    order = np.random.default_rng(1).permutation(800)
    assert blocks(sources, [targets[i] for i in order]) == [Block(0, 799, None)]


def test_one_wrong_row_is_no_block():
    sources, targets = made_up_corpus()
    targets[300] = targets[500]
    assert blocks(sources, targets) == []


def test_numbers_and_names_are_enough():
    rng = np.random.default_rng(0)
    numbers = [f"{rng.integers(10**6)} {rng.integers(10**6)}" for _ in range(200)]
    sources, targets = [f"look at {n} now" for n in numbers], [f"jetzt {n} ansehen" for n in numbers]
    assert blocks(sources, targets) == []
    assert blocks(sources[:-1], targets[:90] + targets[91:]) == [Block(90, 198, -1)]


@pytest.mark.parametrize(
    ("folder", "languages", "rows"),
    [
        ("multi30k/en-de", ("en", "de"), 4000),
        ("ko-en/libreoffice_help", ("ko", "en"), 4000),
        ("ko-en/tatoeba", ("ko", "en"), 3212),
    ],
)
def test_real_corpora(shared_data, folder, languages, rows):
    with gzip.open(shared_data / folder / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line)["translation"] for _, line in zip(range(rows), file, strict=False)]
    sources, targets = ([pair[language] for pair in pairs] for language in languages)
    assert blocks(sources, targets) == []
    (block,) = blocks(sources[:-1], targets[:1070] + targets[1071:])
    assert abs(block.first - 1070) <= 1 and block.last == rows - 2 and block.offset == -1

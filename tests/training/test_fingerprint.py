from __future__ import annotations

import pytest
from datasets import Dataset

from vanilla_transformer.training import fingerprint
from vanilla_transformer.training.documents import Blocks
from vanilla_transformer.training.fingerprint import fingerprint_of

ROWS = {"input_ids": [[5, 6], [7], [], [8, 9, 10]], "labels": [0, 1, 1, 0], "tags": [["a"], [], ["b", None], ["c"]]}


def test_the_same_rows_are_the_same_however_they_are_stored(tmp_path, monkeypatch):
    rows = Dataset.from_dict(ROWS)
    whole = fingerprint_of(rows)
    assert len(whole) == 32
    rows.save_to_disk(tmp_path / "stored")
    doubled = Dataset.from_dict({name: values * 2 for name, values in ROWS.items()})
    for same in (Dataset.load_from_disk(tmp_path / "stored"), doubled.select(range(4)), doubled.select([4, 1, 6, 3])):
        assert fingerprint_of(same) == whole
    monkeypatch.setattr(fingerprint, "_ROWS_AT_ONCE", 10**6)
    assert fingerprint_of(rows) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": [[5, 6], [7], [], [8, 9, 11]]},
        {"input_ids": [[5], [6, 7], [], [8, 9, 10]]},
        {"labels": [0, 1, 0, 1]},
        {"tags": [["a"], [], ["b", "None"], ["c"]]},
        {"tags": None},
    ],
)
def test_other_rows_are_others(change):
    other = {name: values for name, values in {**ROWS, **change}.items() if values is not None}
    assert fingerprint_of(Dataset.from_dict(other)) != fingerprint_of(Dataset.from_dict(ROWS))


def test_blocks_are_told_by_their_texts_and_by_how_these_are_joined():
    texts = Dataset.from_dict({"input_ids": [[5, 2], [6, 7, 2], [8, 2], [9, 2]]})
    whole = Blocks.of(texts, [4], pack_to=5)
    assert fingerprint_of(whole) == fingerprint_of(Blocks.of(texts, [4], pack_to=5))
    others = [Blocks.of(texts, [4]), Blocks.of(texts, [3, 1], pack_to=5), Blocks.of(texts.select([0, 1, 3, 2]), [4], pack_to=5)]
    assert len({fingerprint_of(blocks) for blocks in (whole, *others)}) == 4


def test_so_are_fewer_and_another_order():
    rows = Dataset.from_dict(ROWS)
    found = {fingerprint_of(rows), fingerprint_of(rows.select(range(3))), fingerprint_of(rows.select([1, 0, 2, 3]))}
    assert len(found) == 3

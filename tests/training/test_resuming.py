"""Batches of an update, shared anew; other rows refused."""

from __future__ import annotations

import pytest

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.checkpoints import Progress
from vanilla_transformer.training.resuming import continued


def before(processes: int, accumulated: int, batches: int = 12) -> Progress:
    return Progress(
        update=4,
        batches=batches,
        processes=processes,
        batches_per_update=processes * accumulated,
        accumulation_steps=accumulated,
        corpus="rows",
    )


def go_on(progress: Progress, processes: int, corpus: str = "rows", **flags) -> tuple[Progress, list[str]]:
    said: list[str] = []
    return continued(progress, Progress(processes=processes, corpus=corpus), RunArguments(**flags), said.append), said


def test_nothing_has_changed():
    found, said = go_on(before(2, 3), 2, accumulation_steps=3)
    assert found == before(2, 3) and said == []


@pytest.mark.parametrize("processes, accumulated", [(1, 4), (2, 2), (4, 1)])
def test_an_update_keeps_its_batches_over_other_processes(processes, accumulated):
    for had in (1, 2, 4):
        found, said = go_on(before(had, 4 // had, batches=16 // had), processes, accumulation_steps=4 // had)
        assert (found.processes, found.batches_per_update, found.batches) == (processes, 4, 16 // processes)
        assert found.update == 4 and found.accumulation_steps == 4 // had
        told = (
            f"Resuming with {processes} x {accumulated} batches an update (processes x accumulated) instead of "
            f"{had} x {4 // had}: as many tokens as before."
        )
        assert said == ([] if had == processes else [told])


def test_batches_that_processes_cannot_share_are_refused_unless_others_are_wanted():
    with pytest.raises(ValueError, match="an update had 3 batches, which 2 processes cannot share alike; take a number"):
        go_on(before(1, 3), 2, accumulation_steps=3)
    found, said = go_on(before(1, 3), 2, accumulation_steps=2, override=True)
    assert (found.batches_per_update, found.batches, found.accumulation_steps) == (4, 6, 2)
    assert said[0].endswith("2 x 2 batches an update (processes x accumulated) instead of 1 x 3: 4 batches instead of 3.")


def test_a_checkpoint_that_did_not_note_its_batches_has_those_of_the_flag():
    old = Progress(update=4, batches=12, processes=2)
    found, said = go_on(old, 1, accumulation_steps=3)
    assert (found.batches_per_update, found.batches) == (6, 24) and "instead of 2 x 3: as many tokens" in said[0]


def test_other_rows_are_refused_unless_they_are_wanted():
    with pytest.raises(ValueError, match="--resume: the training rows are not those .*; give the same, or --override"):
        go_on(before(1, 1), 1, corpus="others")
    found, said = go_on(before(1, 1), 1, corpus="others", override=True)
    assert found.corpus == "others" and said[0].startswith("Resuming, but the training rows are not those")
    older = before(1, 1)
    older.corpus = ""  # did not note them
    found, said = go_on(older, 1, corpus="others")
    assert found.corpus == "others" and said == []

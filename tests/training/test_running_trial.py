"""A trial is watched while it is made: what it tells the pruner, when it is stopped, and what came of it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from vanilla_transformer.training.running_trial import RunningTrial


@pytest.fixture
def make(tmp_path):
    """`make(rows, outcome, prune=False)`: a trial of 8 updates, and its evaluations. What is done to it: `.trial.done`."""

    def make(rows: list[dict[str, Any]], outcome: dict[str, Any] | None = None, prune: bool = False) -> RunningTrial:
        done: list[Any] = []
        lines = [json.dumps({"split": "validation", **row}) + "\n" for row in rows]
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        trial = SimpleNamespace(report=lambda *told: done.append(told), should_prune=lambda: prune, done=done)
        process = SimpleNamespace(stop=lambda: done.append("stop"), outcome=lambda: {"rows": 6} if outcome is None else outcome)
        claim: Any = SimpleNamespace(renew=lambda: done.append("renew"))
        return RunningTrial(3, trial, tmp_path, 8, 0, process, claim)  # type: ignore[arg-type]

    return make


def row(step: int, chrf: float, **more: Any) -> dict[str, Any]:
    return {"step": step, "chrf": chrf, **more}


def test_each_evaluation_is_reported_once_and_only_what_can_be_compared(make):
    one = make([row(2, 5.0), row(4, math.nan), row(6, 7.0), row(6, 9.0, split="test"), row(6, 8.0, averaged=["step-6"])])
    one.watch("chrf", 0)
    one.watch("chrf", 0)
    assert one.trial.done == ["renew", (5.0, 2), (7.0, 6), "renew"] and one.rows == 3


@pytest.mark.parametrize("step, prune_after, stopped", [(4, 4, True), (4, 5, False), (7, 0, True), (8, 0, False)])
def test_it_is_stopped_neither_too_early_nor_at_its_end(make, step, prune_after, stopped):
    one = make([row(step, 5.0)], prune=True)
    one.watch("chrf", prune_after)
    assert ("stop" in one.trial.done) == stopped and one.pruned_at == (step if stopped else None)


@pytest.mark.parametrize(
    "rows, outcome, told",
    [
        ([row(2, 5.0, best=True), row(4, 6.0, best=True), row(6, 5.5)], {"rows": 6}, {"score": 6.0, "update": 4}),
        ([row(2, 5.0, best=True)], {"reason": "out of memory"}, {"reason": "out of memory"}),
        (
            [row(2, 5.0, best=True)],
            {"rows": 5},
            {"reason": "judged by 5 validation rows, and the others by 6: its flags leave some out"},
        ),
        ([], {"rows": 6}, {"reason": "chrf is missing"}),
        ([row(2, math.nan, best=True)], {"rows": 6}, {"reason": "chrf is nan"}),
    ],
)
def test_what_came_of_it(make, rows, outcome, told):
    one = make(rows, outcome)
    facts = one.facts("chrf", 6)
    assert facts.pop("folder") == one.folder.name and facts.pop("seconds") >= 0
    assert facts == told


def test_one_that_was_pruned_says_so_and_one_that_somebody_stopped_stops_the_search(make):
    one = make([row(2, 5.0, best=True)], {"interrupted": True}, prune=True)
    with pytest.raises(KeyboardInterrupt):
        one.facts("chrf", 6)
    one.watch("chrf", 0)
    assert one.facts("chrf", 6)["pruned_at"] == 2

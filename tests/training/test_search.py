"""The search itself, with trials that only write down a score. Real ones: scripts/test_search_hyperparameters.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from filelock import FileLock, Timeout

from vanilla_transformer.training import search, search_space, study, trial_process
from vanilla_transformer.training.arguments import (
    DataArguments,
    ModelArguments,
    RunArguments,
    TaskArguments,
    TransferArguments,
)
from vanilla_transformer.training.search import Search
from vanilla_transformer.training.search_arguments import SearchArguments
from vanilla_transformer.training.search_space import Range, check_values, grid, make_space, parse_space, with_values
from vanilla_transformer.training.trial_process import Claim

PARTS = (TaskArguments, ModelArguments, DataArguments, TransferArguments, RunArguments)
RANDOM = ["learning_rate=1e-4..1e-1:log", "dropout=0.0..0.5", "encoder_layers=1..6"]


class FakeTrial:
    """In the place of TrialProcess: one evaluation each time it is asked whether it lives; `score` says what it finds."""

    score: Callable[[dict[str, Any], int], float]
    made: list[dict[str, Any]]
    stop_at: int | None = None
    """Ctrl-C once so many trials have begun"""

    def __init__(self, what: str, prepare: Any, arguments: list[Any], log: Path, jobs: int, place: int):
        self.what, self.place = what, place
        self.flags = {name: value for part in arguments for name, value in vars(part).items()}
        self.folder = Path(self.flags["output_dir"])
        self.step, self.was_stopped = 0, False
        if what == "train":
            assert not self.flags["test_file"]
            self.made.append(self.flags)
            (self.folder / "checkpoints").mkdir()
            (self.folder / "model.safetensors").touch()
        if what == "test":
            assert self.flags["resume"] and self.flags["test_file"] == ["test.jsonl"]
            self._write({"split": "test", "step": 3, "bleu": 0.5})

    def is_alive(self) -> bool:
        if self.stop_at == len(self.made):
            raise KeyboardInterrupt
        if self.was_stopped or self.step == 3:
            return False
        self.step += 1
        row = {"split": "validation", "step": self.step, "bleu": type(self).score(self.flags, self.step), "best": True}
        self._write(row)
        return True

    def _write(self, row: dict[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def stop(self) -> None:
        self.was_stopped = True

    def outcome(self) -> dict[str, Any]:
        if self.flags["dropout"] == 0.9:
            return {"reason": "the loss is nan at update 3"}
        rows = 5 if self.flags["max_tokens"] == 8 else 6
        return {"interrupted": True} if self.was_stopped else {"metric": "bleu", "rows": rows}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Search]]:
    """`make(["dropout=0.1,0.2"], trials=2)`: a search; flags of runs may follow."""
    FakeTrial.made, FakeTrial.stop_at = [], None
    FakeTrial.score = lambda flags, step: step - abs((flags["learning_rate"] or 0) - 0.01)
    monkeypatch.setattr(search, "TrialProcess", FakeTrial)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)

    def made(texts: list[str], folder: str = "search", **flags: Any) -> Search:
        own = {name: flags.pop(name) for name in list(flags) if name in SearchArguments.__dataclass_fields__}
        first = [part() for part in PARTS]
        given = {"output_dir": str(tmp_path / folder), "max_steps": 3, "validation_file": ["validation.jsonl"], **flags}
        return Search(SearchArguments(**own), with_values(first, given), parse_space(texts, PARTS), prepare=print)

    yield made


def values(found: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(flags[name] for name in names) for flags in found]


# ------------------------------------------------------------------------------------------------------ the space


def test_the_forms_in_which_values_may_be_given():
    space = parse_space([*RANDOM, "norm-position=pre,post", "target_tag=yes,no", "warmup_steps=10..35:step=10"], PARTS)
    assert space["learning_rate"] == Range(low=1e-4, high=1e-1, log=True)
    assert space["encoder_layers"] == Range(low=1, high=6) and space["encoder_layers"].points() == [1, 2, 3, 4, 5, 6]
    assert space["norm_position"].choices == ("pre", "post") and space["target_tag"].choices == (True, False)
    assert space["warmup_steps"].points() == [10, 20, 30] and space["warmup_steps"].distribution().high == 30
    assert space["dropout"].points() is None
    assert Range(low=0.1, high=0.3, step=0.1).points() == [0.1, 0.2, 0.3]
    # YAML 1.1 reads 1e-4 as text; a name that is "none" is no missing value where it is one of the names.
    of_file = {
        "learning_rate": {"low": "1e-4", "high": 0.1, "log": True},
        "share_embeddings": ["none", "all"],
        "d_k": [None, 8],
    }
    space = make_space(of_file, PARTS)
    assert space["learning_rate"] == Range(low=1e-4, high=1e-1, log=True)
    assert space["share_embeddings"].choices == ("none", "all") and space["d_k"].choices == (None, 8)


@pytest.mark.parametrize(
    "text, line",
    [
        ("dropout", "search 'dropout': write flag=values"),
        ("drop_out=0.1", "no flag is called drop_out; did you mean dropout?"),
        ("trials=1,2", "no flag is called trials"),
        ("output_dir=a,b", "output_dir says where a run is written or how it is judged"),
        ("train_weights=1,2", "train_weights takes several values at once"),
        ("dropout=0.1,0.1", "dropout names 0.1 twice"),
        ("dropout=low", "dropout must be a number, and 'low' is not"),
        ("dropout=nan,0.1", "dropout must be a number, and 'nan' is not"),
        ("dropout=0.3..0.3", "dropout=0.3..0.3 is empty: low must be less than high"),
        ("dropout=0.1..", "dropout has no high; give both ends"),
        ("dropout=0..0.3:log", "logarithms need a low that is greater than 0"),
        ("dropout=0.1..0.3:log:step=0.1", "has a log and a step: give one of them"),
        ("dropout=0.1..0.3:step=0.5", "step must be greater than 0 and at most"),
        ("dropout=0.1..0.3:linear", "write low..high, low..high:log or low..high:step=number"),
        ("encoder_layers=1.5..3", "encoder_layers must be a whole number, and '1.5' is not"),
        ("norm_position=middle", "norm_position must be one of post, pre, and 'middle' is not"),
        ("target_tag=maybe", "target_tag must be yes or no, and 'maybe' is not"),
    ],
)
def test_what_cannot_be_searched_is_refused(text, line):
    with pytest.raises(ValueError, match="search") as error:
        parse_space([text], PARTS)
    assert line in str(error.value)


@pytest.mark.parametrize(
    "given, line",
    [
        (["dropout"], "search must hold lines such as"),
        ({}, "search must hold lines such as"),
        ({"dropout": {"low": 0.1, "hgih": 0.2}}, "dropout has hgih; a range has low, high, log, step"),
        ({"norm_position": {"low": 1, "high": 2}}, "norm_position is no number, so it has no low and high"),
        ({"dropout": []}, "dropout has no values"),
        ({"adam-beta1": [0.9], "adam_beta1": [0.8]}, "adam_beta1 is given twice"),
        ({"dropout": {"low": 0.1, "high": 0.2, "log": "perhaps"}}, "log of dropout must be yes or no"),
    ],
)
def test_what_a_file_cannot_say_is_refused(given, line):
    with pytest.raises(ValueError) as error:
        make_space(given, PARTS)
    assert line in str(error.value)


def test_a_value_that_the_flag_does_not_allow_is_refused_before_anything_trains():
    arguments = [part() for part in PARTS]
    check_values(arguments, parse_space(RANDOM, PARTS))
    with pytest.raises(ValueError, match=r"search: warmup_steps=0\.\.9: warmup_steps=0 must be at least 1"):
        check_values(arguments, parse_space(["warmup_steps=0..9"], PARTS))
    # Each is checked beside values of the others: a straight line needs a highest point, which is searched, too.
    check_values(arguments, parse_space(["schedule=linear,constant", "learning_rate=1e-3,1e-2"], PARTS))


# -------------------------------------------------------------------------------------------------- making trials


def test_a_grid_is_covered_exactly_once(make):
    make(["dropout=0.1,0.2,0.3", "encoder_layers=1..2"], sampler="grid").run()
    points = grid(parse_space(["dropout=0.1,0.2,0.3", "encoder_layers=1..2"], PARTS))
    assert len(points) == 6
    names = ("dropout", "encoder_layers")
    assert sorted(values(FakeTrial.made, *names)) == sorted(values(points, *names))


def test_what_is_no_grid_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match="dropout=0.0..0.5 has no end of values, and sampler=grid tries all"):
        make(["dropout=0.0..0.5"], sampler="grid")
    with pytest.raises(ValueError, match="trials=3 is more than the grid has points, 2"):
        make(["dropout=0.1,0.2"], sampler="grid", trials=3)
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_one_seed_of_the_sampler_makes_one_search(make, sampler):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(RANDOM, folder, sampler=sampler, trials=13, sampler_seed=seed).run()
    found = values(FakeTrial.made, "learning_rate", "dropout", "encoder_layers")
    assert found[:13] == found[13:26] and not set(found[:13]) & set(found[26:])
    assert len(set(found[:13])) == 13
    assert all(
        1e-4 <= rate <= 1e-1 and 0 <= dropout <= 0.5 and layers in range(1, 7) for rate, dropout, layers in found
    )


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_stopped_and_resumed_is_never_stopped(make, sampler, tmp_path):
    texts = ["learning_rate=1e-3,1e-2,2e-2,3e-2", "encoder_layers=1..4"] if sampler == "grid" else RANDOM
    names = ("learning_rate", "encoder_layers")
    make(texts, "whole", sampler=sampler, trials=14).run()
    whole = values(FakeTrial.made, *names)
    FakeTrial.made, FakeTrial.stop_at = [], 12
    with pytest.raises(KeyboardInterrupt, match="11 of 14 trials are done; continue with the same flags and --resume"):
        make(texts, "part", sampler=sampler, trials=14).run()
    FakeTrial.stop_at = None
    results = make(texts, "part", sampler=sampler, trials=14, resume=True).run()
    parts = values(FakeTrial.made, *names)
    assert parts[11] == parts[12], "the half trial is made again"
    assert parts[:11] + parts[12:] == whole
    assert results.finished()[-1].user_attrs["number"] == 14
    first, second = ((tmp_path / name / "trials.jsonl").read_text().splitlines() for name in ("whole", "part"))
    left_out = {"seconds"}
    assert [{k: v for k, v in json.loads(line).items() if k not in left_out} for line in first] == [
        {k: v for k, v in json.loads(line).items() if k not in left_out} for line in second
    ]


def test_more_trials_than_before_are_added_and_others_than_before_are_refused(make):
    make(RANDOM, sampler="random", trials=2).run()
    make(RANDOM, sampler="random", trials=3, resume=True).run()
    assert len(FakeTrial.made) == 3
    make(RANDOM, sampler="random", trials=3, resume=True).run()
    assert len(FakeTrial.made) == 3
    with pytest.raises(ValueError, match="holds a search already; give another folder, or --resume"):
        make(RANDOM, trials=2)
    others = ["learning_rate=1e-4..1:log", *RANDOM[1:2]]
    with pytest.raises(ValueError) as error:
        make(others, sampler="random", trials=3, resume=True, seed=7)
    for change in (
        "seed: 1 -> 7",
        "search learning_rate: 0.0001..0.1:log -> 0.0001..1.0:log",
        "search encoder_layers: 1..6 -> None",
    ):
        assert change in str(error.value)


def test_several_at_a_time_make_the_same_trials(make):
    make(RANDOM, "one", sampler="random", trials=7).run()
    one, FakeTrial.made = FakeTrial.made, []
    make(RANDOM, "three", sampler="random", trials=7, jobs=3).run()
    assert values(FakeTrial.made, "learning_rate") == values(one, "learning_rate")


def test_a_failing_trial_is_no_end_of_the_search(make, tmp_path):
    results = make(["dropout=0.1,0.9", "max_tokens=8,4096"], sampler="grid").run()
    assert len(FakeTrial.made) == 4
    rows = [json.loads(line) for line in (tmp_path / "search" / "trials.jsonl").read_text().splitlines()]
    reasons = {(row["flags"]["dropout"], row["flags"]["max_tokens"]): row.get("reason") for row in rows}
    assert reasons.pop((0.1, 4096)) is None
    assert reasons.pop((0.1, 8)) == "judged by 5 validation rows, and the others by 6: its flags leave some out"
    assert set(reasons.values()) == {"the loss is nan at update 3"}
    assert "failed: the loss is nan at update 3" in results.table()


def test_flags_that_do_not_go_together_fail_their_trial_alone(make):
    make(["warmup_steps=2,3", "schedule=constant,linear"], sampler="grid", learning_rate=0.1).run()
    assert sorted(values(FakeTrial.made, "warmup_steps", "schedule")) == [
        (2, "constant"),
        (2, "linear"),
        (3, "constant"),
    ]


def test_a_trial_below_the_median_is_stopped_after_its_evaluation(make, tmp_path, capsys):
    FakeTrial.score = lambda flags, step: flags["learning_rate"] * step
    rates = "learning_rate=" + ",".join(str(rate) for rate in range(1, 21))
    results = make([rates], sampler="grid", pruner="median").run()
    rows = [json.loads(line) for line in (tmp_path / "search" / "trials.jsonl").read_text().splitlines()]
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert {row["pruned_at"] for row in pruned} == {1}, "the first evaluation tells all here"
    assert all(row["state"] == "complete" for row in rows[:5]), "five are needed for a median"
    # By hand: a trial is stopped if its first score is below the median of the first scores of the complete ones before it.
    for number, row in enumerate(rows[5:], start=5):
        middle = median(other["flags"]["learning_rate"] for other in rows[:number] if other["state"] == "complete")
        assert (row["state"] == "pruned") == (row["flags"]["learning_rate"] < middle), row
    assert f"Trial {pruned[0]['trial']}: pruned at update 1" in capsys.readouterr().out
    assert results.best().params == {"learning_rate": 20.0}
    FakeTrial.made = []
    make([rates], "late", sampler="grid", prune_after=2).run()
    rows = [json.loads(line) for line in (tmp_path / "late" / "trials.jsonl").read_text().splitlines()]
    assert {row["pruned_at"] for row in rows if row["state"] == "pruned"} == {2}
    make([rates], "never", sampler="grid", pruner="none").run()
    assert "pruned" not in (tmp_path / "never" / "trials.jsonl").read_text()


def test_the_best_is_kept_written_and_alone_scored_on_the_test_part(make, tmp_path):
    results = make(
        ["learning_rate=1e-3,1e-2,1e-1"], sampler="grid", test_file=["test.jsonl"], d_model=32, pruner="none"
    ).run()
    number = next(n for n, flags in enumerate(FakeTrial.made, start=1) if flags["learning_rate"] == 1e-2)
    written = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())
    assert written == {
        **{"learning_rate": 0.01, "d_model": 32, "max_steps": 3, "test_file": ["test.jsonl"]},
        **{"validation_file": ["validation.jsonl"], "output_dir": str(tmp_path / "search" / "best")},
    }
    kept = sorted(path.parent.name for path in tmp_path.glob("search/trials/*/model.safetensors"))
    assert kept == [path.parent.name for path in tmp_path.glob("search/trials/*/checkpoints")] == [f"trial-{number:04}"]
    tested = [path for path in tmp_path.glob("search/trials/*/metrics.jsonl") if '"test"' in path.read_text()]
    assert [path.parent.name for path in tested] == kept
    table = results.table().splitlines()
    assert table[0].split() == ["trial", "BLEU", "update", "min", "learning_rate"]
    assert [float(line.split()[1]) for line in table[1:4]] == [3.0, 2.991, 2.91]
    assert table[-1] == "Test part, scored with this trial alone: bleu 0.5"
    # Resumed, it is not scored again.
    make(
        ["learning_rate=1e-3,1e-2,1e-1"],
        sampler="grid",
        test_file=["test.jsonl"],
        d_model=32,
        pruner="none",
        resume=True,
    ).run()
    assert tested[0].read_text().count('"test"') == 1


def test_importances_and_their_picture(make):
    few = make(["learning_rate=1e-3,1e-2", "dropout=0.1"], "few", sampler="grid").run()
    assert few.importances() == "Importances need 4 complete trials, and there are 2."
    assert few.draw().read_bytes()[:4] == b"\x89PNG"
    FakeTrial.score = lambda flags, step: flags["dropout"]
    results = make(RANDOM[:2], "many", sampler="random", trials=12, pruner="none").run()
    found = results.importances()
    assert isinstance(found, dict) and found["dropout"] > 0.8 > 0.2 > found["learning_rate"]
    assert results.draw().name == "importances.png" and results.draw().stat().st_size > 10_000
    FakeTrial.score = lambda flags, step: 0.0
    alike = make(RANDOM[:2], "alike", sampler="random", trials=4, pruner="none").run()
    assert alike.importances() == "All complete trials have one score, so no flag is known to matter."


def test_without_time_no_trial_begins(make, monkeypatch, capsys):
    made = make(RANDOM, trials=3, timeout_minutes=1)
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(search.time, "monotonic", lambda: next(clock))
    made.run()
    assert 0 < len(FakeTrial.made) < 3
    assert "The time is over. Missing: trial" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"seeds": 3}, "seeds=3 is for finetune, when the search is over"),
        ({"override": True}, "override accepts other flags for a run"),
        ({"max_tokens": "auto"}, "max_tokens=auto could differ from trial to trial"),
        ({"trials": 0}, "trials=0 must be at least 1"),
        ({"jobs": 0}, "jobs=0 must be at least 1"),
        ({"timeout_minutes": -1}, "timeout_minutes=-1 must not be negative"),
    ],
)
def test_what_a_search_cannot_do_is_refused(make, flags, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        make(RANDOM, **flags)
    assert not (tmp_path / "search").exists()


def test_other_things_in_the_folder_and_other_launchers_are_refused(make, tmp_path, monkeypatch):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "training.yaml").touch()
    with pytest.raises(ValueError, match="holds a run or a model; give another folder"):
        make(RANDOM)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave out accelerate launch"):
        make(RANDOM, "other")


def test_without_optuna_one_line_says_what_to_install(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'vanilla-transformer\[search\]'"):
        make(RANDOM)


def test_why_a_trial_ended_stands_in_its_folder(make, tmp_path):
    FakeTrial.score = lambda flags, step: flags["learning_rate"] * step
    make(["learning_rate=" + ",".join(str(rate) for rate in range(1, 13)), "dropout=0.1,0.9"], sampler="grid").run()
    said = {}
    for text in (tmp_path / "search" / "trials.jsonl").read_text().splitlines():
        row = json.loads(text)
        log = (tmp_path / "search" / "trials" / f"trial-{row['trial']:04}" / "log.txt").read_text().splitlines()
        assert log[-1].startswith(f"Trial {row['trial']}: ")
        said[row["state"]] = log[-1]
    assert "pruned at update 1" in said["pruned"] and "failed: the loss is nan" in said["failed"]
    assert "bleu " in said["complete"]


# -------------------------------------------------------------------------------------------- killed while it wrote


def test_a_process_killed_while_it_held_the_study_holds_it_no_more(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # with Optuna's lock and a relative folder, the next one waited for ever
    make(RANDOM, sampler="random", trials=2, output_dir="search").run()
    lock = tmp_path / "search" / ".study.journal.lock"
    assert lock.is_file(), "the study is locked by another file"
    hold = (
        f"from filelock import FileLock; import time; lock = FileLock({str(lock)!r}); lock.acquire(); "
        f"print(1, flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "1\n"
            with pytest.raises(Timeout):
                FileLock(lock).acquire(timeout=0)
        finally:
            holder.kill()
    make(RANDOM, sampler="random", trials=3, output_dir="search", resume=True).run()
    assert len(FakeTrial.made) == 3


@pytest.mark.parametrize("length", [1, 10_000])
def test_half_a_line_of_the_study_costs_its_trial_and_no_other(make, tmp_path, capsys, length):
    """As a full disk or a power cut leaves it: what Optuna writes behind it could not be read again."""
    make(RANDOM, "whole", sampler="random", trials=5).run()
    whole, FakeTrial.made = values(FakeTrial.made, "learning_rate"), []
    make(RANDOM, sampler="random", trials=4).run()
    journal = tmp_path / "search" / "study.journal"
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines) + last[:-1][:length])
    for trials in (5, 5):
        results = make(RANDOM, sampler="random", trials=trials, resume=True).run()
    assert "study.journal: its last line was half written, and is left out." in capsys.readouterr().out
    assert values(FakeTrial.made, "learning_rate") == [*whole[:4], whole[3], whole[4]]
    assert [trial.user_attrs["number"] for trial in results.finished()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("dropout", ["0.1,0.2,0.3", "0.8,0.9"])
def test_a_process_killed_while_it_told_of_a_trial_has_not_made_it(make, monkeypatch, tmp_path, dropout):
    """Optuna takes what is told in several parts; until the last, the trial is not over."""

    class Killed(BaseException):
        pass

    def kill(self, *arguments, **options):
        raise Killed

    made = make([f"dropout={dropout}"], sampler="grid")
    monkeypatch.setattr(made.study.optuna.Study, "tell", kill)
    with pytest.raises(Killed):
        made.run()
    for claim in tmp_path.glob("search/trials/*.claim"):
        claim.unlink()  # of a process that is dead, and here is not
    monkeypatch.undo()
    monkeypatch.setattr(search, "TrialProcess", FakeTrial)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    results = make([f"dropout={dropout}"], sampler="grid", resume=True).run()
    count = dropout.count(",") + 1
    assert [trial.user_attrs["number"] for trial in results.finished()] == list(range(1, count + 1))
    assert len(FakeTrial.made) == count + 1
    assert len(results.table().splitlines()) >= count + 2


# ------------------------------------------------------------------------------------------ claims and processes


def test_a_claim_holds_until_it_is_released_or_its_process_is_dead(tmp_path, monkeypatch):
    file = tmp_path / "trial-0001.claim"
    claim = Claim.take(file)
    assert claim is not None and Claim.take(file) is None
    claim.release()
    assert Claim.take(file) is not None
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    file.write_text(f"{socket.gethostname()} {dead.pid}")
    assert Claim.take(file) is not None and file.read_text().endswith(f" {os.getpid()}")
    # On another machine: only its signs of life tell, and never its clock, or ours, which may jump.
    file.write_text("elsewhere 1")
    now = 1000.0
    monkeypatch.setattr(trial_process.time, "monotonic", lambda: now)
    monkeypatch.setattr(trial_process.time, "time", lambda: 0.0)
    for date in (2e9, 0, 1e9):
        os.utime(file, (date, date))
        assert Claim.take(file) is None
        now += 50
    now += 11
    assert Claim.take(file) is not None
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_trial_that_another_process_makes_is_left_to_it(make, tmp_path):
    one = make(RANDOM, sampler="random", trials=3)
    theirs = Claim.take(tmp_path / "search" / "trials" / "trial-0002.claim")
    assert theirs is not None
    taken = []
    while (found := one._claim()) is not None:
        taken.append(found[0])
    assert taken == [1, 3]


def test_each_of_several_trials_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(trial_process.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    own = trial_process._own_gpu
    assert [own(3, place) for place in range(3)] == ["0", "1", "0"] and own(1, 0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [own(2, place) for place in range(2)] == ["4", "6"]


def test_what_is_fixed_are_flags():
    names = {name for part in PARTS for name in part.__dataclass_fields__}
    assert set(search_space.FIXED) <= names and set(study.FREE_ON_RESUME) <= names

"""A search for hyper-parameters: ordinary runs with other flags, and a study that remembers them (Optuna).

    output_dir/
        study.journal        every trial, its flags and scores; any number of processes and machines may work on it
        trials/trial-0007/   an ordinary run, with log.txt; its weights are dropped unless it is the best
        trials.jsonl  best.yaml  importances.png      see search_results.py

A search that was stopped and resumed is the one that was not, and several processes together make the trials that one would have
made (but for TPE, which looks at what is finished). Random search beats a grid where few flags matter (Bergstra and Bengio 2012).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.run_folder import read_metrics
from vanilla_transformer.training.running_trial import RunningTrial
from vanilla_transformer.training.search_arguments import SearchArguments
from vanilla_transformer.training.search_results import SearchResults
from vanilla_transformer.training.search_space import Space, check_values, with_values
from vanilla_transformer.training.study import Study
from vanilla_transformer.training.trial_process import Claim, TrialProcess

Prepare = Callable[[list[Any]], Any]


class Search:
    """`Search(...).run()`.

    Args:
        flags: what is searched, and how.
        arguments: the dataclasses of a run's flags, the searched ones having any of their values.
        space: the searched flags.
        prepare: these dataclasses -> a run that is ready; a function of a module, because processes are sent its name.

    Raises:
        ValueError: the folder holds another search; a flag does not allow a value; what is fixed cannot be trained.
    """

    def __init__(self, flags: SearchArguments, arguments: Sequence[Any], space: Space, prepare: Prepare):
        self.flags, self.arguments, self.space, self.prepare = flags, list(arguments), space, prepare
        self.run_flags = next(part for part in arguments if isinstance(part, RunArguments))
        self.data = next(part for part in arguments if isinstance(part, DataArguments))
        if self.run_flags.seeds != 1:
            raise ValueError(
                f"seeds={self.run_flags.seeds} is for finetune, when the search is over: --config best.yaml --seeds 5"
            )
        if self.run_flags.override:
            raise ValueError(
                "override accepts other flags for a run, and trials of a search must be alike; leave it out"
            )
        if self.run_flags.max_tokens == "auto":
            raise ValueError("max_tokens=auto could differ from trial to trial, which would not be alike: give a number")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("a search starts its processes itself: leave out accelerate launch, and give --jobs")
        check_values(arguments, space)
        self.path = Path(self.run_flags.output_dir)
        self.study = Study(self.path, flags, self.arguments, space)
        self.trials = flags.trials or (len(self.study.points) if self.study.points else 30)
        if self.study.is_there and not self.run_flags.resume:
            raise ValueError(
                f"output_dir {self.path} holds a search already; give another folder, or --resume to go on with it, or to help"
            )
        if any((self.path / name).exists() for name in ("training.yaml", "config.json")):
            raise ValueError(f"output_dir {self.path} holds a run or a model; give another folder")
        if self.study.is_there:
            self.study.check_description()
        facts = self._facts()
        self.metric, self.validation_rows = facts["metric"], facts["rows"]
        if self.validation_rows is None:
            raise ValueError("give --validation-file: it is on the validation part that trials are compared")
        (self.path / "trials").mkdir(parents=True, exist_ok=True)
        self.study.make(self.metric)
        self.results = SearchResults(self.path, self.study.study, self.arguments, space, self.metric)

    # ------------------------------------------------------------------------------------------------ the search

    def run(self) -> SearchResults:
        """Make trials until there are as many as asked for. KeyboardInterrupt, once all is written, if interrupted."""
        print(
            f"{self.trials} trials of {', '.join(f'{name}={values}' for name, values in self.space.items())}; sampler "
            f"{self.flags.sampler}, pruner {self.flags.pruner}; by {self.metric} of {self.validation_rows} validation rows.",
            flush=True,
        )
        end = time.monotonic() + 60 * self.flags.timeout_minutes if self.flags.timeout_minutes else math.inf
        running: list[RunningTrial] = []
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        is_waiting = False
        try:
            while True:
                is_time = time.monotonic() < end
                while len(running) < self.flags.jobs and is_time and (claimed := self._claim()):
                    place = min(set(range(self.flags.jobs)) - {one.place for one in running})
                    if (begun := self._begin(*claimed, place)) is not None:
                        running.append(begun)
                if not running:
                    if not (missing := self._missing()) or not is_time:
                        break
                    if not is_waiting:
                        print(f"Waiting for another process, which makes {_listed(missing)}.", flush=True)
                    is_waiting = True
                for one in list(running):
                    self._look_after(one, running)
                time.sleep(0.1 if running else 1.0)
        except KeyboardInterrupt:
            done = self.trials - len(self._missing())
            raise KeyboardInterrupt(
                f"{done} of {self.trials} trials are done; continue with the same flags and --resume"
            ) from None
        finally:
            signal.signal(signal.SIGTERM, before)
            for one in running:
                self._abandon(one)
        self.results.write()
        if missing := self._missing():
            print(
                f"The time is over. Missing: {_listed(missing)}; continue with the same flags and --resume.", flush=True
            )
        else:
            self._score_test()
        return self.results

    def _missing(self) -> list[int]:
        """Numbers of the trials that are not over."""
        return sorted(
            set(range(1, self.trials + 1)) - {trial.user_attrs["number"] for trial in self.results.finished()}
        )

    def _claim(self) -> tuple[int, Claim] | None:
        """The next trial that nobody makes, and the sign for others that we do."""
        for number in self._missing():
            claim = Claim.take(self.path / "trials" / f"trial-{number:04}.claim")
            if claim is not None:
                if number in self._missing():  # another process may just have finished it
                    return number, claim
                claim.release()
        return None

    def _begin(self, number: int, claim: Claim, place: int) -> RunningTrial | None:
        """Ask for the flags of a trial, and start it. None if a run cannot have them: then it is over already."""
        folder = self.path / "trials" / f"trial-{number:04}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        trial = self.study.ask(number)
        print(f"Trial {number} of {self.trials}: {_told(trial.params)}", flush=True)
        try:
            arguments = with_values(self.arguments, {**trial.params, **self._own_flags(folder)})
        except ValueError as error:
            self._end(number, trial, {"seconds": 0.0, "reason": " ".join(str(error).split())})
            claim.release()
            return None
        max_steps = next(part.max_steps for part in arguments if isinstance(part, RunArguments))
        process = TrialProcess("train", self.prepare, arguments, folder / "log.txt", self.flags.jobs, place)
        return RunningTrial(number, trial, folder, max_steps, place, process, claim)

    def _look_after(self, one: RunningTrial, running: list[RunningTrial]) -> None:
        """What there is to do for a trial now; if it is over, it leaves the list."""
        is_over = not one.process.is_alive()  # asked before its rows are read, so that none is missed
        try:
            one.watch(self.metric, self.flags.prune_after)
            if is_over:
                self._end(one.number, one.trial, one.facts(self.metric, self.validation_rows))
                one.claim.release()
                running.remove(one)
        except self.study.optuna.exceptions.UpdateFinishedTrialError:
            # We slept for so long that another process took us for dead, and has made the trial.
            running.remove(one)
            self._abandon(one)

    def _end(self, number: int, trial: Any, facts: dict[str, Any]) -> None:
        self.study.tell(trial, facts)
        said = f"{self.metric} {facts.get('score')} at update {facts.get('update')}"
        if "pruned_at" in facts:
            said = f"pruned at update {facts['pruned_at']}"
        elif "reason" in facts:
            said = f"failed: {facts['reason']}"
        best = self.results.best()
        is_best = best is not None and best.user_attrs["number"] == number
        line = f"Trial {number}: {said}, {facts['seconds'] / 60:.1f} min{' (best so far)' if is_best else ''}"
        print(line, flush=True)
        # The run itself knows only that it was stopped; who looks into its folder shall find why.
        with (self.path / "trials" / f"trial-{number:04}" / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")
        self.results.write()
        if self.flags.keep == "best":
            self.results.drop_weights()

    def _abandon(self, one: RunningTrial) -> None:
        """A trial that was stopped from without is no trial: it will be made again."""
        one.process.stop()
        one.process.outcome()
        self.study.break_off(one.trial)
        one.claim.release()

    # ------------------------------------------------------------------------------------------- what is fixed

    def _own_flags(self, folder: Path) -> dict[str, Any]:
        """Of every trial: its folder, and no test part."""
        return {"output_dir": str(folder), "resume": False, "test_file": [], "test_languages": []}

    def _facts(self) -> dict[str, Any]:
        """The metric and the validation rows of such runs. ValueError if what is fixed cannot be trained."""
        with tempfile.TemporaryDirectory(prefix="search-") as folder:
            # Of what limits the length of rows the most, so that all rows are there to be compared on.
            tried = {
                name: max(values.extremes())
                if name in ("max_tokens", "max_position_embeddings")
                else values.extremes()[0]
                for name, values in self.space.items()
            }
            arguments = with_values(self.arguments, tried | self._own_flags(Path(folder) / "run"))
            outcome = TrialProcess("check", self.prepare, arguments, Path(folder) / "log.txt", 1, 0).outcome()
        if outcome.get("interrupted"):
            raise KeyboardInterrupt("before the first trial")
        if "reason" in outcome:
            raise ValueError(outcome["reason"])
        return outcome

    def _score_test(self) -> None:
        """Score the test part, once, with the best model: its run, which is over, is resumed with a test file."""
        best = self.results.best()
        if best is None or not (self.data.test_file or self.data.dataset_name):
            return
        folder = self.path / "trials" / best.user_attrs["folder"]
        claim = Claim.take(self.path / "trials" / "test.claim")
        if claim is None or any(row["split"] == "test" for row in read_metrics(folder)):
            return
        arguments = with_values(self.arguments, {**best.params, "output_dir": str(folder), "resume": True})
        outcome = TrialProcess("test", self.prepare, arguments, folder / "test_log.txt", 1, 0).outcome()
        claim.release()
        if outcome.get("interrupted"):
            raise KeyboardInterrupt(
                "the trials are done, the test part is not scored; continue with the same flags and --resume"
            )
        if "reason" in outcome:
            raise ValueError(f"the trials are done, but the test part could not be scored: {outcome['reason']}")


def _told(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _listed(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:10]))}{', ...' if len(numbers) > 10 else ''}"

"""What a search remembers: an Optuna study in a journal file, which any number of processes and machines may work on.

Trial number n has the same flags whenever it is made: the sampler's seed is drawn from `sampler_seed` and n. Optuna numbers
trials too, but broken ones among them; ours is the attribute `number`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from vanilla_transformer.training.search_arguments import SearchArguments
from vanilla_transformer.training.search_space import Space, grid

# These may differ between the parts of one search.
FREE_ON_RESUME = ("resume", "output_dir", "test_file", "test_languages", "test_num_beams", "log_steps", "track_with")


class Study:
    """The study of one search.

    Args:
        path: the search's folder; its study.journal is opened if it is there.
        flags: what is searched, and how.
        arguments: the dataclasses of a run's flags.
        space: the searched flags.

    Raises:
        ValueError: Optuna is not installed; there is a study of another search; more trials than the grid has points.
    """

    def __init__(self, path: Path, flags: SearchArguments, arguments: Sequence[Any], space: Space):
        self.optuna = _import_optuna()
        self.path, self.flags, self.arguments, self.space = path, flags, arguments, space
        self.points = self._grid_points() if flags.sampler == "grid" else None
        self.study: Any = None
        """Optuna's"""

    @property
    def is_there(self) -> bool:
        return (self.path / "study.journal").is_file()

    def make(self, metric: str) -> None:
        """Open it, and make it if it is not there."""
        direction = "minimize" if metric == "loss" else "maximize"
        self.study = self.optuna.create_study(**self._where(), direction=direction, load_if_exists=True)
        if "description" not in self.study.user_attrs:
            self.study.set_user_attr("description", self._description())

    def ask(self, number: int) -> Any:
        """Optuna's trial for our trial of this number. One that was broken off is over with it."""
        states = self.optuna.trial.TrialState
        for half in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if half.user_attrs.get("number") == number:
                self.break_off(half.number)
        self.study.sampler = self._sampler(number)
        trial = self.study.ask({name: values.distribution() for name, values in self.space.items()})
        trial.set_user_attr("number", number)
        return trial

    def tell(self, trial: Any, facts: dict[str, Any]) -> None:
        """A trial is over: with `score`, pruned (`pruned_at`), or failed (`reason`, the last fact). All are kept with it."""
        states = self.optuna.trial.TrialState
        for name, value in facts.items():
            if name != "score":
                trial.set_user_attr(name, value)
        score = facts.get("score")
        state = states.COMPLETE if score is not None else states.PRUNED if "pruned_at" in facts else states.FAIL
        self.study.tell(trial, score, state=state)

    def break_off(self, trial: Any) -> None:
        """A trial of ours, or its number, that will be made again."""
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL, skip_if_finished=True)

    def check_description(self) -> None:
        """ValueError, old -> new, if the study that is there is of another search."""
        self.study = self.optuna.load_study(**self._where())
        old, new = self.study.user_attrs.get("description", {}), self._description()
        keys = [key for key in {**old, **new} if key.startswith("search ") or (key in old and key in new)]
        changed = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old and old.get(key) != new.get(key)]
        if changed:
            raise ValueError(
                f"--resume with another search than before ({'; '.join(changed)}); give the same, or another folder"
            )

    def _where(self) -> dict[str, Any]:
        journal = _journal(self.optuna, self.path / "study.journal")
        pruner: Any = self.optuna.pruners.NopPruner()
        if self.flags.pruner == "median":
            pruner = self.optuna.pruners.MedianPruner(n_warmup_steps=self.flags.prune_after)
        return {"study_name": "search", "storage": self.optuna.storages.JournalStorage(journal), "pruner": pruner}

    def _description(self) -> dict[str, Any]:
        flags = {name: value for part in self.arguments for name, value in asdict(part).items()}
        fixed = {name: value for name, value in flags.items() if name not in self.space and name not in FREE_ON_RESUME}
        how = {name: getattr(self.flags, name) for name in ("sampler", "sampler_seed", "pruner", "prune_after")}
        searched = {f"search {name}": str(values) for name, values in self.space.items()}
        return json.loads(json.dumps({**fixed, **how, **searched}))

    def _grid_points(self) -> list[dict[str, Any]]:
        """In an order of the seed, so that the first of them are spread over the grid."""
        points = grid(self.space)
        order = np.random.default_rng(self.flags.sampler_seed).permutation(len(points))
        if self.flags.trials and self.flags.trials > len(points):
            raise ValueError(
                f"trials={self.flags.trials} is more than the grid has points, {len(points)}; leave it out"
            )
        if self.flags.trials and self.flags.trials < len(points):
            print(
                f"The grid has {len(points)} points; {self.flags.trials} of them, drawn by sampler_seed, are tried.",
                flush=True,
            )
        return [points[number] for number in order]

    def _sampler(self, number: int) -> Any:
        samplers = self.optuna.samplers
        if self.points is not None:
            return _point_sampler(self.optuna, self.points[number - 1])
        seed = int(np.random.SeedSequence([self.flags.sampler_seed, number]).generate_state(1)[0])
        return samplers.RandomSampler(seed=seed) if self.flags.sampler == "random" else samplers.TPESampler(seed=seed)


def _import_optuna() -> Any:
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise ValueError(
            "a search needs Optuna, which is not installed: pip install 'vanilla-transformer[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _journal(optuna: Any, file: Path) -> Any:
    """Optuna's journal in a file, for processes that are killed while they write, and for disks that are full.

    Optuna's own locks outlive a killed process, for ever (4.2) or for half a minute; ours is the system's, and does not. And
    what is written behind half a line is lost with it, so that half is cut off first: the trial that it tells of is not over,
    and is made again.
    """
    lock: Any = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        with lock:
            pass
    except NotImplementedError:  # the disk knows no locks
        lock = optuna.storages.journal.JournalFileOpenLock(str(file))

    class Journal(optuna.storages.journal.JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            if _half_line(file):
                lock.acquire()
                try:
                    if length := _half_line(file):  # nobody is just writing it
                        os.truncate(file, file.stat().st_size - length)
                        print(f"{file}: its last line was half written, and is left out.", flush=True)
                finally:
                    lock.release()
            super().append_logs(logs)

    return Journal(str(file), lock)


def _half_line(file: Path) -> int:
    """Bytes behind the last end of a line."""
    with file.open("rb") as journal:
        size = journal.seek(0, os.SEEK_END)
        journal.seek(max(0, size - 1))
        if journal.read() in (b"", b"\n"):
            return 0
        journal.seek(0)
        return size - (journal.read(size).rfind(b"\n") + 1)


def _point_sampler(optuna: Any, point: dict[str, Any]) -> Any:
    """Samples this point. (Optuna's GridSampler numbers the points by Optuna's trials, of which broken ones are some.)"""

    class Point(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return point[param_name]

    return Point()

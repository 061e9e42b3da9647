"""What a search has found: a table, a file of trials, the best flags as a configuration, and which flags mattered."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from vanilla_transformer.training.run_folder import read_metrics, write_whole
from vanilla_transformer.training.score_names import title
from vanilla_transformer.training.search_space import Space, with_values

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


class SearchResults:
    """Of the study in a folder, as it stands.

    Args:
        folder: the search's.
        study: Optuna's.
        arguments: the dataclasses of a run's flags.
        space: the searched flags.
        metric: by which trials are compared.
    """

    def __init__(self, folder: Path, study: Any, arguments: Sequence[Any], space: Space, metric: str):
        self.folder, self.study, self.arguments, self.space, self.metric = folder, study, list(arguments), space, metric

    def finished(self) -> list[Any]:
        """Optuna's trials that are over, by their number; those that were broken off are none.

        Broken off is what failed for no reason that was told; whoever was killed while he told of a trial has told all but that.
        """
        over: dict[int, Any] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished() and (trial.state.name != "FAIL" or "reason" in trial.user_attrs):
                over[trial.user_attrs["number"]] = trial
        return [over[number] for number in sorted(over)]

    def best(self) -> Any | None:
        """The first of the complete trials with the best score."""
        complete = [trial for trial in self.finished() if trial.state.name == "COMPLETE"]
        if not complete:
            return None
        return (min if self.metric == "loss" else max)(complete, key=lambda trial: trial.value)

    def write(self) -> None:
        """trials.jsonl, and best.yaml once there is one."""
        rows = [json.dumps(self._row(trial), ensure_ascii=False) + "\n" for trial in self.finished()]
        write_whole(self.folder / "trials.jsonl", "".join(rows))
        if (best := self.best()) is not None:
            text = (
                f"# Trial {best.user_attrs['number']} of {len(rows)}: {self.metric} {best.value} of the validation part. Use:\n"
                f"#   vanilla-transformer finetune --config {self.folder / 'best.yaml'}\n"
                f"# and, for what can be expected of it, --seeds 5\n\n"
            )
            flags = self._flags(best)
            write_whole(self.folder / "best.yaml", text + yaml.safe_dump(flags, sort_keys=False, allow_unicode=True))

    def drop_weights(self) -> None:
        """Delete the weights and checkpoints of all trials but the best."""
        best = self.best()
        for trial in self.finished():
            name = trial.user_attrs.get("folder")
            if name and (best is None or trial.number != best.number):
                shutil.rmtree(self.folder / "trials" / name / "checkpoints", ignore_errors=True)
                for pattern in _WEIGHTS:
                    for file in (self.folder / "trials" / name).glob(pattern):
                        file.unlink(missing_ok=True)

    def table(self) -> str:
        """All trials, best first, then pruned and failed ones; the best, and its score on the test part if there is one."""
        trials = sorted(self.finished(), key=self._rank)
        header = ["trial", title(self.metric), "update", "min", *self.space]
        lines = [[*map(str, self._cells(trial))] for trial in trials]
        widths = [max(len(row[column]) for row in [header, *lines]) for column in range(len(header))]
        shown = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *lines]
        ]
        for trial in trials:
            if reason := trial.user_attrs.get("reason"):
                shown.append(f"Trial {trial.user_attrs['number']} failed: {reason}")
        best = self.best()
        if best is None:
            return "\n".join([*shown, f"No trial of {len(trials)} came to its end: there is no best one."])
        shown.append(
            f"Best: trial {best.user_attrs['number']}, {self.metric} {best.value} of the validation part, which the choice makes "
            f"look better than it is; its flags: {self.folder / 'best.yaml'}"
        )
        for row in read_metrics(self.folder / "trials" / best.user_attrs["folder"]):
            if row["split"] == "test":
                shown.append(f"Test part, scored with this trial alone: {self.metric} {row[self.metric]}")
        return "\n".join(shown)

    def importances(self) -> dict[str, float] | str:
        """Share of the variance of scores that each flag explains (fANOVA, Hutter et al. 2014); or why there are none."""
        complete = [trial for trial in self.finished() if trial.state.name == "COMPLETE"]
        needed = max(4, 2 * len(self.space))
        if len(complete) < needed:
            return f"Importances need {needed} complete trials, and there are {len(complete)}."
        if len({trial.value for trial in complete}) == 1:
            return "All complete trials have one score, so no flag is known to matter."
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        return get_param_importances(self.study, evaluator=FanovaImportanceEvaluator(seed=0))

    def draw(self) -> Path:
        """importances.png: what each flag mattered, and the score of each trial."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
        found = self.importances()
        if isinstance(found, str):
            left.text(0.5, 0.5, found, ha="center", va="center", wrap=True)
            left.set_axis_off()
        else:
            names = sorted(found, key=lambda name: found[name])
            left.barh(names, [found[name] for name in names])
            left.set(xlabel=f"share of the variance of {title(self.metric)} (fANOVA)", xlim=(0, 1))
        points: dict[str, list[tuple[int, float]]] = {"COMPLETE": [], "PRUNED": []}
        for trial in self.finished():
            if trial.value is not None:
                points[trial.state.name].append((trial.user_attrs["number"], trial.value))
        for (state, own), style in zip(points.items(), ({}, {"facecolors": "none", "edgecolors": "gray"}), strict=True):
            if own:
                right.scatter(*zip(*own, strict=True), label=state.lower(), **style)
        better = min if self.metric == "loss" else max
        scores = [score for _, score in points["COMPLETE"]]
        if scores:
            best = [better(scores[: n + 1]) for n in range(len(scores))]
            right.step(
                [number for number, _ in points["COMPLETE"]], best, where="post", color="black", label="best so far"
            )
            right.legend()
        right.set(xlabel="trial", ylabel=f"validation {title(self.metric)}")
        right.grid(alpha=0.3)
        figure.tight_layout()
        unfinished = self.folder / f".unfinished-{os.getpid()}-importances.png"
        figure.savefig(unfinished, dpi=120)
        plt.close(figure)
        os.replace(unfinished, self.folder / "importances.png")
        return self.folder / "importances.png"

    def _rank(self, trial: Any) -> tuple[int, float, int]:
        kind = ("COMPLETE", "PRUNED", "FAIL").index(trial.state.name)
        score = 0.0 if trial.value is None or kind == 2 else trial.value if self.metric == "loss" else -trial.value
        return kind, score, trial.user_attrs["number"]

    def _cells(self, trial: Any) -> list[Any]:
        facts = trial.user_attrs
        score, update = "failed", "-"
        if trial.state.name == "COMPLETE":
            score, update = f"{trial.value:g}", facts["update"]
        elif trial.state.name == "PRUNED":
            score, update = "pruned", facts["pruned_at"]
        values = [trial.params[name] for name in self.space]
        told = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
        return [facts["number"], score, update, f"{facts['seconds'] / 60:.1f}", *told]

    def _row(self, trial: Any) -> dict[str, Any]:
        facts = dict(trial.user_attrs)
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name]
        score = trial.value if state == "complete" else None
        return {
            "trial": facts.pop("number"),
            "state": state,
            "metric": self.metric,
            "score": score,
            "flags": trial.params,
            **facts,
        }

    def _flags(self, trial: Any) -> dict[str, Any]:
        """What must be given to make the trial again: what is not a default, and what was searched."""
        chosen: dict[str, Any] = {}
        for part in with_values(self.arguments, trial.params):
            for f in fields(part):
                default = f.default_factory() if f.default_factory is not MISSING else f.default
                if getattr(part, f.name) != default or f.name in self.space:
                    chosen[f.name] = getattr(part, f.name)
        chosen.pop("resume", None)
        return chosen | {"output_dir": str(self.folder / "best")}

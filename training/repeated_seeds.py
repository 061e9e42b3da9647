"""`--seeds 5`: one run again and again with other seeds, and what may be said of all of them: mean, standard deviation, best.

    output_dir/
        seed-1/ seed-2/ ...   ordinary runs
        seeds.json            their scores, and the summary

Initialisation and the order of the data move scores as much as many a published improvement (Dodge et al. 2020), so one run tells
little, and the best of five cannot be compared with somebody's only one. The best seed is chosen on the validation part; what it
scores on the test part is then a fair number.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.state import AcceleratorState, GradientState

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.checkpoints import complete_checkpoints
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.run_folder import write_whole
from vanilla_transformer.training.score_names import shown_scores, title
from vanilla_transformer.training.updates import NonFiniteLossError

_LOWER_IS_BETTER = ("loss", "perplexity")
# These change nothing about a run that is over.
_FREE = ("resume", "override", "seeds", "seed", "output_dir", "log_steps", "track_with")


def repeat_with_seeds(prepare: Callable[[list[Any]], Training], arguments: Sequence[Any]) -> dict[str, Any]:
    """Train with each seed that has not been, then tell and write what came of all.

    Args:
        prepare: the dataclasses of flags -> a run that is ready.
        arguments: these, with RunArguments among them, whose `seeds` is more than 1.

    Returns:
        What stands in seeds.json.

    Raises:
        ValueError: the folder holds something else, or runs that shall not be resumed; or no seed came to its end.
    """
    run = next(part for part in arguments if isinstance(part, RunArguments))
    folder = Path(run.output_dir)
    _check_folder(folder, run)
    known = _read(folder).get("runs", {})
    found: dict[str, Any] = {"metric": None, "runs": {}}
    for seed in range(run.seed, run.seed + run.seeds):
        own = folder / f"seed-{seed}"
        before = known.get(str(seed))
        if before is not None and _has_flags(own, arguments):
            print(f"Seed {seed}: is complete in {own}.", flush=True)
            found["runs"][str(seed)], found["metric"] = before, before["metric"]
            continue
        _forget_accelerator()
        is_begun = bool(complete_checkpoints(own / "checkpoints"))
        if _is_main() and not is_begun:
            shutil.rmtree(own, ignore_errors=True)  # it was killed before its first checkpoint
        own_run = replace(run, seed=seed, seeds=1, output_dir=str(own), resume=is_begun)
        try:
            training = prepare([own_run if part is run else part for part in arguments])
            _keep_group(training)
            training.accelerator.print(f"Seed {seed}, the {seed - run.seed + 1}. of {run.seeds}: {own}", flush=True)
            training.run()
        except NonFiniteLossError as error:
            # Runs that diverge are a result, too; the seeds after this one are still worth having.
            found["runs"][str(seed)] = {"metric": found["metric"], "failed": " ".join(str(error).split())}
            print(f"Seed {seed} failed: {error}", flush=True)
        else:
            found["metric"] = training.metric
            found["runs"][str(seed)] = {"metric": training.metric, **_scores(training.folder.metrics())}
            del training
        gc.collect()  # a model and its optimizer refer to each other; the next one needs their memory
        if _is_main():
            done = {number: row for number, row in found["runs"].items() if "failed" not in row}
            _write(folder, {"metric": found["metric"], "runs": {**known, **done}})
    _end_group()
    found |= summary(found["runs"], found["metric"])
    if _is_main():
        _write(folder, found)
        print(table(found), flush=True)
    if not found["summary"]:
        raise ValueError(
            f"none of the {run.seeds} seeds came to its end; the last: {found['runs'][str(seed)]['failed']}"
        )
    return found


def summary(runs: dict[str, dict[str, Any]], metric: str | None) -> dict[str, Any]:
    """`summary` of each part and score (n, mean, sd with n - 1, best, worst), `best_seed`, and `chosen_by`, a sentence."""
    complete = {seed: row for seed, row in runs.items() if "failed" not in row}
    parts: dict[str, dict[str, Any]] = {}
    for part in ("validation", "test"):
        rows = [row[part] for row in complete.values() if row.get(part)]
        for name in shown_scores(rows[0]) if rows else []:
            values = [row[name] for row in rows]
            good, bad = (min, max) if name in _LOWER_IS_BETTER else (max, min)
            parts.setdefault(part, {})[name] = {
                "n": len(values),
                "mean": round(statistics.fmean(values), 5),
                "sd": round(statistics.stdev(values), 5) if len(values) > 1 else None,
                "best": good(values),
                "worst": bad(values),
            }
    judged = {
        seed: row["validation"][metric] for seed, row in complete.items() if metric in (row.get("validation") or {})
    }
    if not judged:
        return {
            "summary": parts,
            "best_seed": None,
            "chosen_by": "No seed is the best: there is no validation part to choose by.",
        }
    best = (min if metric in _LOWER_IS_BETTER else max)(judged, key=lambda seed: judged[seed])
    said = (
        f"The best seed is {best}, chosen by {metric} on the validation part ({judged[best]}), never on the test part; "
        f"what can be expected of the next run is the mean, not the best."
    )
    return {"summary": parts, "best_seed": int(best), "chosen_by": said}


def table(found: dict[str, Any]) -> str:
    """One line for each part and score, and the sentences that belong to it."""
    failed = {seed: row["failed"] for seed, row in found["runs"].items() if "failed" in row}
    lines = [f"{'':<12}{'':<26}{'mean ± sd':>22}{'best':>12}{'worst':>12}{'n':>4}"]
    for part, scores in found["summary"].items():
        for name, row in scores.items():
            spread = f"{row['mean']:.4g} ± {row['sd']:.2g}" if row["sd"] is not None else f"{row['mean']:.4g}"
            lines.append(
                f"{part:<12}{title(name):<26}{spread:>22}{row['best']:>12.4g}{row['worst']:>12.4g}{row['n']:>4}"
            )
    lines += [f"Seed {seed} failed, and counts in none of these: {reason}" for seed, reason in failed.items()]
    return "\n".join([*lines, found["chosen_by"]])


def _scores(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a run that is over: the row of its best model on the validation part, and that on the test part."""
    best = [row for row in metrics if row["split"] == "validation" and row.get("best")]
    test = [row for row in metrics if row["split"] == "test"]
    found = {"validation": best[-1] if best else None, "test": test[-1] if test else None}
    return {part: row for part, row in found.items() if row is not None and shown_scores(row)}


def _check_folder(folder: Path, run: RunArguments) -> None:
    if (folder / "training.yaml").is_file():
        raise ValueError(
            f"output_dir {folder} holds a single run already, and seeds={run.seeds} makes several; give another folder"
        )
    there = sorted(path.name for path in folder.glob("seed-*"))
    if there and not run.resume:
        raise ValueError(
            f"output_dir {folder} holds seeds already ({', '.join(there)}); give another folder, or --resume to go on"
        )
    if run.resume and not there:
        raise ValueError(f"output_dir {folder} holds no seeds to resume; leave out --resume to begin")


def _has_flags(folder: Path, arguments: Sequence[Any]) -> bool:
    """Whether the run in the folder is of these flags."""
    file = folder / "training.yaml"
    flags = yaml.safe_load(file.read_text(encoding="utf-8"))["flags"] if file.is_file() else {}
    given = {name: value for part in arguments for name, value in asdict(part).items() if name not in _FREE}
    return bool(flags) and all(flags.get(name, value) == value for name, value in given.items())


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "seeds.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write(folder: Path, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "seeds.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _is_main() -> bool:
    """Of several processes one writes. Asked of the launcher, because Accelerate is made anew for each run."""
    return os.environ.get("RANK", "0") == "0"


def _forget_accelerator() -> None:
    """Accelerate remembers its first set-up for the life of a process. The next one takes the process group that is there."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _keep_group(training: Training) -> None:
    """The loop ends the process group with the run; here one serves all seeds. A second one could not be made: torchrun's store
    remembers the addresses of the first, and there the processes would look for each other (seen with gloo, torch 2.13).
    """
    state: Any = training.accelerator.state
    state.destroy_process_group = lambda group=None: None


def _end_group() -> None:
    _forget_accelerator()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""A trial of a search while it is made: a process, whose evaluations are read from its folder as they come."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vanilla_transformer.training.run_folder import read_metrics
from vanilla_transformer.training.trial_process import Claim, TrialProcess


@dataclass
class RunningTrial:
    """A trial that is being made here."""

    number: int
    trial: Any
    """Optuna's"""
    folder: Path
    max_steps: int
    place: int
    process: TrialProcess
    claim: Claim
    rows: int = 0
    """evaluations that were looked at"""
    pruned_at: int | None = None
    begun: float = field(default_factory=time.monotonic)

    def watch(self, metric: str, prune_after: int) -> None:
        """Report what it has evaluated since, in its order, and stop it if the pruner says so.

        Args:
            metric: what trials are compared by.
            prune_after: an update, before which no trial is stopped.
        """
        self.claim.renew()
        rows = [row for row in read_metrics(self.folder) if row["split"] == "validation" and not row.get("averaged")]
        for row in rows[self.rows :]:
            self.rows += 1
            if self.pruned_at is not None or not math.isfinite(row[metric]):
                continue
            self.trial.report(row[metric], row["step"])
            # At its end a trial has cost what it costs.
            if prune_after <= row["step"] < self.max_steps and self.trial.should_prune():
                self.pruned_at = row["step"]
                self.process.stop()

    def facts(self, metric: str, validation_rows: int) -> dict[str, Any]:
        """What came of it, once its process is over: as `Study.tell` takes it.

        Args:
            metric: as above.
            validation_rows: what the others are judged by.

        Raises:
            KeyboardInterrupt: somebody stopped the trial, and so the search.
        """
        outcome = self.process.outcome()
        facts: dict[str, Any] = {"seconds": round(time.monotonic() - self.begun, 1), "folder": self.folder.name}
        best = [row for row in read_metrics(self.folder) if row["split"] == "validation" and row.get("best")]
        if self.pruned_at is not None:
            return facts | {"pruned_at": self.pruned_at}
        if outcome.get("interrupted"):
            raise KeyboardInterrupt
        if "reason" in outcome:
            return facts | {"reason": outcome["reason"]}
        if outcome["rows"] != validation_rows:
            reason = f"judged by {outcome['rows']} validation rows, and the others by {validation_rows}: its flags leave some out"
            return facts | {"reason": reason}
        if not best or not math.isfinite(best[-1][metric]):
            return facts | {"reason": f"{metric} is {best[-1][metric] if best else 'missing'}"}
        return facts | {"score": best[-1][metric], "update": best[-1]["step"]}

"""The flags of a search for hyper-parameters, beside those of the runs it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class SearchArguments:
    """What is searched, how, and for how long."""

    search: list[str] = field(
        default_factory=list,
        metadata={
            "help": "flags and their values: learning_rate=1e-4..1e-2:log dropout=0.1,0.2 encoder_layers=1..6 "
            "warmup_steps=1000..8000:step=1000; in a file a mapping, see the recipe search_tiny",
            "action": "extend",
        },
    )
    trials: int | None = field(
        default=None,
        metadata={"help": "trials in all, those before a resume included; if not given 30, or the whole grid"},
    )
    sampler: Literal["tpe", "random", "grid"] = field(
        default="tpe",
        metadata={
            "help": "tpe looks where trials were good, after ten at random (Bergstra et al. 2011); grid tries all"
        },
    )
    sampler_seed: int = field(default=1, metadata={"help": "of the choice of values; `seed` is that of every trial"})
    pruner: Literal["median", "none"] = field(
        default="median",
        metadata={
            "help": "median stops a trial whose best score is below the median of the complete ones' at the same update"
        },
    )
    prune_after: int = field(
        default=0, metadata={"help": "updates before which none is stopped; at least warmup_steps is wise"}
    )
    jobs: int = field(
        default=1, metadata={"help": "trials at a time; each takes a GPU of its own where there are several"}
    )
    timeout_minutes: float = field(
        default=0.0, metadata={"help": "begin no trial after so many minutes; those that run finish; 0: no limit"}
    )
    keep: Literal["best", "all"] = field(
        default="best", metadata={"help": "whose weights and checkpoints stay: the best trial's, or every trial's"}
    )

    def __post_init__(self):
        for name in ("trials", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        for name in ("sampler_seed", "prune_after", "timeout_minutes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

"""The curves of a run: loss, and whatever else the task is scored by, over the updates. From metrics.jsonl, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vanilla_transformer.training.score_names import direction_of, headlines, title


def draw_curves(metrics: list[dict[str, Any]], file: Path) -> None:
    """One PNG with a panel for the losses and, if anything else was measured, one for these scores.

    Of several directions of translation BLEU alone is drawn, beside the means of BLEU and chrF.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in metrics if row.get("split") == "validation" and not row.get("averaged")]
    scores = dict.fromkeys(name for row in rows for name in headlines(row))
    scores = [name for name in scores if name != "perplexity" and not (direction_of(name) and name.startswith("chrf"))]
    figure, panels = plt.subplots(1, 2 if scores else 1, figsize=(10 if scores else 5, 3.6), squeeze=False)
    for name, label in (("train_loss", "training (smoothed)"), ("loss", "validation")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            panels[0, 0].plot(*zip(*points, strict=True), label=label)
    panels[0, 0].set(xlabel="update", ylabel=f"loss, {_unit(rows)}")
    for name in scores:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        style = {"linestyle": "--", "linewidth": 1} if direction_of(name) else {}
        panels[0, 1].plot(*zip(*points, strict=True), label=title(name), **style)
    if scores:
        panels[0, 1].set(xlabel="update", ylabel="validation score")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _unit(rows: list[dict[str, Any]]) -> str:
    """Of the loss; see `evaluate` of the tasks."""
    scored = {name for row in rows for name in headlines(row)}
    if "pearson" in scored:
        return "squared error"
    if "las" in scored:
        return "nats per word, of head and relation"
    if scored & {"accuracy", "tag_accuracy"}:
        return "nats per text" if "accuracy" in scored else "nats per token"
    return "nats per target token"

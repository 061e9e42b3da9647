"""The curves of a run: loss, and BLEU where there is one, over the updates. From metrics.jsonl, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_curves(metrics: list[dict[str, Any]], file: Path) -> None:
    """One PNG with a panel for the losses (nats a token) and, if BLEU was measured, one for BLEU and chrF."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in metrics if row.get("split") == "validation" and not row.get("averaged")]
    has_bleu = any("bleu" in row for row in rows)
    figure, panels = plt.subplots(1, 2 if has_bleu else 1, figsize=(10 if has_bleu else 5, 3.6), squeeze=False)
    for name, label in (("train_loss", "training (smoothed)"), ("loss", "validation")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            panels[0, 0].plot(*zip(*points, strict=True), label=label)
    panels[0, 0].set(xlabel="update", ylabel="loss, nats per target token")
    if has_bleu:
        for name in ("bleu", "chrf"):
            points = [(row["step"], row[name]) for row in rows if name in row]
            panels[0, 1].plot(*zip(*points, strict=True), label={"bleu": "BLEU", "chrf": "chrF"}[name])
        panels[0, 1].set(xlabel="update", ylabel="validation score")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)

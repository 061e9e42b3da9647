"""What scores are called: in metrics.jsonl, in tables and figures, and on the Hub."""

from __future__ import annotations

from typing import Any

# In metrics.jsonl -> in tables and figures. In this order they are shown.
_TITLES = {
    **{"loss": "loss", "perplexity": "perplexity", "bleu": "BLEU", "chrf": "chrF"},
    **{"distinct_1": "distinct words", "distinct_2": "distinct pairs of words"},
    **{"accuracy": "accuracy", "macro_f1": "macro F1", "pearson": "Pearson's r", "spearman": "Spearman's rho"},
    **{"f1": "F1", "precision": "precision", "recall": "recall", "tag_accuracy": "accuracy of tags"},
    **{"las": "LAS", "uas": "UAS"},
}
# Where the Hub's name (of a metric of `evaluate`) is another one.
_ON_HUB = {"macro_f1": "f1", "tag_accuracy": "accuracy", "pearson": "pearsonr", "spearman": "spearmanr"}


def shown_scores(row: dict[str, Any]) -> list[str]:
    """The scores in a row of metrics.jsonl that a card shows; those of single directions come last."""
    return [name for name in _TITLES if row.get(name) is not None] + [name for name in row if direction_of(name)]


def headlines(row: dict[str, Any]) -> list[str]:
    """The scores by which others would compare the model: not the loss, nor the perplexity unless there is nothing else."""
    found = [name for name in shown_scores(row) if name not in ("loss", "perplexity")]
    return found or [name for name in ("perplexity",) if name in row]


def title(name: str) -> str:
    """Of bleu "BLEU", of bleu_en-de "BLEU en-de"."""
    metric, direction = _parts(name)
    return f"{_TITLES[metric]} {direction}" if direction else _TITLES[name]


def on_hub(name: str) -> str:
    """The Hub's name of a metric."""
    return _ON_HUB.get(name, _parts(name)[0] if direction_of(name) else name)


def direction_of(name: str) -> str:
    """Of bleu_en-de, the score of one direction among several, "en-de"; of all other names ""."""
    return _parts(name)[1]


def _parts(name: str) -> tuple[str, str]:
    metric, _, rest = name.partition("_")
    # A direction has a hyphen, and the other names that begin so (bleu_signature) have none.
    return (metric, rest) if metric in ("bleu", "chrf") and "-" in rest else (name, "")

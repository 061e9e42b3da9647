from __future__ import annotations

import matplotlib.image
import pytest

from vanilla_transformer.training.curves import draw_curves

ROWS = [
    {"step": 10, "split": "validation", "train_loss": 5.0, "loss": 4.5, "bleu": 1.0, "chrf": 9.0},
    {"step": 20, "split": "validation", "train_loss": 4.0, "loss": 3.5, "bleu": 2.0, "chrf": 19.0},
    {"step": 20, "split": "test", "loss": 3.6, "bleu": 2.1, "chrf": 18.0},
    {"step": 20, "split": "validation", "train_loss": None, "loss": 3.4, "bleu": 2.5, "chrf": 20.0, "averaged": ["a"]},
]


def drawn_lines(monkeypatch, metrics, file) -> dict[str, list[tuple[float, float]]]:
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    draw_curves(metrics, file)
    return {line.get_label(): list(map(tuple, line.get_xydata())) for p in figures[0].axes for line in p.get_lines()}


def test_loss_and_scores_over_the_updates_of_the_validation_part_alone(monkeypatch, tmp_path):
    lines = drawn_lines(monkeypatch, ROWS, tmp_path / "curves.png")
    assert lines == {
        "training (smoothed)": [(10, 5.0), (20, 4.0)],
        "validation": [(10, 4.5), (20, 3.5)],
        "BLEU": [(10, 1.0), (20, 2.0)],
        "chrF": [(10, 9.0), (20, 19.0)],
    }
    picture = matplotlib.image.imread(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert picture.std() > 0.05  # something is drawn


@pytest.mark.parametrize(
    "scores, labels, unit",
    [
        ({"accuracy": 80.0, "macro_f1": 70.0}, {"accuracy", "macro F1"}, "nats per text"),
        ({"f1": 50.0, "precision": 40.0, "tag_accuracy": 90.0}, {"F1", "precision", "accuracy of tags"}, "nats per token"),
        ({"las": 60.0, "uas": 70.0}, {"LAS", "UAS"}, "nats per word, of head and relation"),
        ({"pearson": 60.0, "spearman": 70.0}, {"Pearson's r", "Spearman's rho"}, "squared error"),
        ({"bleu": 2.0, "bleu_en-de": 1.0, "chrf_en-de": 9.0}, {"BLEU", "BLEU en-de"}, "nats per target token"),
        ({"perplexity": 9.0}, set(), "nats per target token"),
    ],
)
def test_the_scores_that_a_task_has(monkeypatch, tmp_path, scores, labels, unit):
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    rows = [{"step": step, "split": "validation", "loss": 4.0, "seconds": 1.0, **scores} for step in (1, 2)]
    draw_curves(rows, tmp_path / "curves.png")
    losses, *others = figures[0].axes
    assert losses.get_ylabel() == f"loss, {unit}"
    assert {line.get_label() for panel in others for line in panel.get_lines()} == labels and len(others) == bool(labels)


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 10, "split": "validation", "train_loss": 5.0}],  # no validation part
        [{"step": 10, "split": "validation", "train_loss": None, "loss": 4.0}],  # judged before the first update
        [{"step": 10, "split": "validation", "train_loss": None}],
        [],
    ],
)
def test_a_run_without_scores_or_with_little_to_show_is_drawn_without_warnings(rows, tmp_path):
    draw_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")
